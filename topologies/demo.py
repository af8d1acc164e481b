"""The main job from nothing: `python -m topologies.demo`, or `make demo`.

A broker, two topologies, a worker that is killed and started again, a batch while events keep coming, and the answers.
Every step is a command that you could type; each is shown before it runs. All it makes lies in .streamkit/demo.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from streamkit.broker import BrokerSettings, EmbeddedBroker
from topologies import anomalies

HERE = Path(__file__).parent
FOLDER = Path(".streamkit/demo")
ADS, METRICS = "topologies/ad_clicks.py", "topologies/anomalies.py"
FILES = sorted(str(path.relative_to(Path.cwd())) for path in (HERE / "data" / "nab").glob("*.csv"))

console = Console(highlight=False, width=120)


class Demo:
    """The commands' environment: one broker, one data folder."""

    def __init__(self, brokers: str) -> None:
        self._environment = {
            **os.environ,
            "STREAMKIT_BROKERS": brokers,
            "STREAMKIT_DATA": str(FOLDER / "data"),
            "COLUMNS": "120",
        }

    def run(self, *arguments: str, show: bool = True) -> str:
        """A command to its end, its output shown; the demo ends where it fails."""
        self._say(arguments)
        done = subprocess.run(
            [sys.executable, "-m", "streamkit", *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if show:
            console.print(done.stdout.rstrip(), markup=False)
        if done.returncode:
            console.print(f"[red]it left with status {done.returncode}[/red]")
            raise SystemExit(done.returncode)
        return done.stdout

    @contextmanager
    def beside(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A command that runs meanwhile, and is told to stop at the end."""
        self._say((*arguments, "&"))
        process = subprocess.Popen([sys.executable, "-m", "streamkit", *arguments], env=self._environment)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(60)

    def answers(self, *arguments: str) -> list[dict[str, object]]:
        out = self.run("query", *arguments, "--json", show=False)
        return [json.loads(line) for line in out.splitlines()]

    def _say(self, arguments: tuple[str, ...]) -> None:
        shown = ["streamkit", *arguments[:4], "..."] if len(arguments) > 9 else ["streamkit", *arguments]
        console.print(f"\n[bold]$ {' '.join(shown)}[/bold]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=500_000, help="ad events (default: 500,000)")
    options = parser.parse_args()
    began = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    broker = EmbeddedBroker(BrokerSettings(FOLDER / "broker", port=0))
    console.rule("A real Kafka, from PyPI")
    try:
        demo = Demo(broker.start(on_progress=lambda line: console.print(line, markup=False)))
        find_anomalies(demo)
        count_ads(demo, options.events)
    except KeyboardInterrupt:
        console.print("\nstopped")
        raise SystemExit(130) from None
    finally:
        broker.stop()
    console.rule(f"Done in {time.monotonic() - began:.0f} s; all of it is in {FOLDER}")


def find_anomalies(demo: Demo) -> None:
    console.rule("Anomalies in six real series of an ad exchange (NAB)")
    demo.run("load", METRICS, "metrics", *FILES, "--set", "series={stem}")
    demo.run("worker", METRICS, "--until-caught-up")
    console.print("\nwhat the agent sent to the topic `anomalies`, beside the windows that people have labelled:")
    console.print(anomalies.table(read_anomalies(demo)))


def count_ads(demo: Demo, events: int) -> None:
    console.rule(f"{events:,} ad events: a worker, killed; a batch, meanwhile; exact answers")
    demo.run("generate", ADS, "ad-events", "--count", str(events), "--seed", "1")
    kill_one(demo)
    rate, more = str(max(events // 25, 1_000)), str(events // 5)
    with demo.beside("worker", ADS), demo.beside(
        "generate", ADS, "ad-events", "--count", more, "--seed", "2", "--rate", rate
    ) as coming:
        demo.run("batch", ADS)
        show_answers(demo)
        demo.run("verify", ADS, "campaign")
        demo.run("verify", ADS, "funnel")
        coming.wait(120)
    demo.run("worker", ADS, "--until-caught-up")
    show_answers(demo)


def kill_one(demo: Demo) -> None:
    """A worker dies in the middle of its work; the next `worker` goes on from its last Checkpoint."""
    with demo.beside("worker", ADS, "--checkpoint-seconds", "0.2") as worker:
        state = FOLDER / "data" / "ads" / "state" / "CURRENT"
        while not state.exists():
            time.sleep(0.05)
        time.sleep(1.0)
        worker.kill()
    console.print(f"[red]kill -9 {worker.pid}[/red]")


def show_answers(demo: Demo) -> None:
    """Two campaigns, in the first ten seconds of the traffic that is in both layers."""
    table = Table("campaign", "window", "views", "spend", "reach", "of these: batch", "speed", "exact at the Cut", "lag")
    for campaign in ("c7", "c42"):
        rows = demo.answers(ADS, "campaign", campaign, "--limit", "2")
        for row in rows:
            table.add_row(*cells(row))
    console.print(table)


if __name__ == "__main__":
    main()
