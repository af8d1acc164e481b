"""`streamkit broker`: a real Apache Kafka on this machine."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from streamkit.broker import BrokerSettings, EmbeddedBroker
from streamkit.cli.signals import asked_to_stop
from streamkit.cli.supervise import lifeline

DEFAULT_PORT = 9092

app = typer.Typer(
    no_args_is_help=True,
    help="Run a real Apache Kafka on this machine; no Docker and no Java needed: pip install 'streamkit[broker]'.",
)

Data = Annotated[Path, typer.Option(help="The broker's directory: its topics, settings and logs.")]
DATA = Path(".streamkit/broker")


@app.command(epilog="Examples:  streamkit broker start   |   streamkit broker start --port 9192 --data /tmp/second")
def start(
    data: Data = DATA,
    port: Annotated[
        int | None, typer.Option(help="Default: the port of last time, at first 9092; 0: a free one.", min=0, max=65535)
    ] = None,
    heap: Annotated[str, typer.Option(help="Memory of the JVM, such as 512m or 2g.")] = "1g",
    timeout: Annotated[float, typer.Option(help="Seconds to wait until it answers.")] = 60.0,
) -> None:
    """Start the broker and wait until it answers; it goes on running. The first start downloads it (45 MB)."""
    if port is None:
        port = _broker(data).remembered_port() or DEFAULT_PORT
    broker = EmbeddedBroker(BrokerSettings(data, port=port, heap=heap))
    before = broker.status()
    address = broker.start(on_progress=lambda line: typer.echo(line, err=True), timeout_seconds=timeout)
    now = broker.status()
    verb = "runs already" if before.running else "runs"
    typer.echo(f"Apache Kafka {now.version} {verb} at {address} (pid {now.pid}, data {broker.data})")
    typer.echo(f"export STREAMKIT_BROKERS={address}")


@app.command(epilog="Examples:  streamkit broker run   |   streamkit broker run --port 0 --data /tmp/third")
def run(
    data: Data = DATA,
    port: Annotated[
        int | None, typer.Option(help="Default: the port of last time, at first 9092; 0: a free one.", min=0, max=65535)
    ] = None,
    heap: Annotated[str, typer.Option(help="Memory of the JVM, such as 512m or 2g.")] = "1g",
) -> None:
    """Run the broker until Ctrl-C or SIGTERM; where it is killed, it is started again."""
    if port is None:
        port = _broker(data).remembered_port() or DEFAULT_PORT
    settings = BrokerSettings(data, port=port, heap=heap)
    with asked_to_stop() as stop:
        try:
            while not stop.is_set() and not _orphaned():
                broker = EmbeddedBroker(settings)
                if not broker.status().running:
                    address = broker.start(on_progress=lambda line: typer.echo(line, err=True))
                    typer.echo(f"Apache Kafka {broker.status().version} runs at {address}", err=True)
                    settings = replace(settings, port=broker.remembered_port() or port)
                stop.wait(0.2)
        finally:
            _broker(data).stop()
    typer.echo("stopped", err=True)


def _orphaned() -> bool:
    """True once a supervisor is gone, and all who may need the broker."""
    line = lifeline()
    return line is not None and bool(select.select([line], [], [], 0)[0])


@app.command(epilog="Examples:  streamkit broker stop   |   streamkit broker stop --data /tmp/second")
def stop(
    data: Data = DATA,
    timeout: Annotated[float, typer.Option(help="Seconds it has for closing its files before it is killed.")] = 30.0,
) -> None:
    """Stop the broker; topics and records stay for the next start."""
    outcome = _broker(data).stop(timeout_seconds=timeout)
    said = {
        "stopped": "stopped",
        "killed": f"killed: it did not stop within {timeout:g} s; the next start recovers its log",
        "not running": f"it does not run (data {data.absolute()})",
    }
    typer.echo(said[outcome])


@app.command(epilog="Example:  streamkit broker status || streamkit broker start")
def status(data: Data = DATA) -> None:
    """Tell whether the broker runs, and where; exit status 1 if it does not."""
    now = _broker(data).status()
    if not now.running or now.since is None:
        typer.echo(f"the broker does not run (data {now.data}); streamkit broker start")
        raise typer.Exit(1)
    typer.echo(f"address  {now.address}")
    typer.echo(f"kafka    {now.version}")
    typer.echo(f"pid      {now.pid}")
    typer.echo(f"data     {now.data}")
    typer.echo(f"since    {now.since.astimezone().isoformat(sep=' ', timespec='seconds')}")


@app.command(epilog="Examples:  streamkit broker logs -n 200   |   streamkit broker logs -f")
def logs(
    data: Data = DATA,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on printing what comes, until Ctrl-C.")] = False,
) -> None:
    """Print the broker's own log."""
    broker = _broker(data)
    if text := broker.logs(lines):
        typer.echo(text)
    if follow:
        for line in followed(broker.log_file):
            typer.echo(line, nl=False)


def followed(path: Path, *, poll_seconds: float = 0.2) -> Iterator[str]:
    """What is appended to `path` from now on, for ever; goes on with the new file where the name moves to another."""
    at, inode = (path.stat().st_size, path.stat().st_ino) if path.exists() else (0, 0)
    while True:
        if path.exists():
            with path.open(errors="replace") as file:
                if path.stat().st_ino != inode:
                    at, inode = 0, path.stat().st_ino
                file.seek(at)
                yield from file
                at = file.tell()
        time.sleep(poll_seconds)


def _broker(data: Path) -> EmbeddedBroker:
    return EmbeddedBroker(BrokerSettings(data))
