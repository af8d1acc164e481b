"""The command line: one file a command."""

from __future__ import annotations

import importlib
import logging
import sys

import typer
from rich.markup import escape

from streamkit.cli.options import err
from streamkit.cli.supervise import NO_BROKER, is_patient, leave_with_supervisor
from streamkit.errors import BrokerUnreachable, StreamkitError

app = typer.Typer(
    name="streamkit",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def streamkit() -> None:
    """A lambda architecture on Kafka whose answers are exact.

    Begin:  streamkit up app.py;  or  streamkit broker start;  streamkit create-topics app.py;  streamkit worker app.py
    """
    # Without a callback typer drops the command's name where a single one is registered.


COMMANDS = (
    "describe", "create-topics", "generate", "load", "worker", "mapreduce", "query", "serve", "verify", "upgrade",
    "reset", "archive", "scheduler", "up", "package",
)  # fmt: skip
GROUPS = ("broker", "batch", "checkpoint", "dead-letter")


def _register(only: str | None = None) -> None:
    """Make the commands known; `only` one of them where one is asked for, as importing all takes a second."""
    for name in COMMANDS:
        if only in (None, name):
            module = importlib.import_module(f"streamkit.cli.{name.replace('-', '_')}")
            app.command(name)(getattr(module, name.replace("-", "_")))
    for name in GROUPS:
        if only in (None, name):
            app.add_typer(importlib.import_module(f"streamkit.cli.{name.replace('-', '_')}").app, name=name)


def main() -> None:
    """Entry point: an error raised on purpose is a message and exit status 1, Ctrl-C is 130."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    leave_with_supervisor()
    asked = sys.argv[1] if len(sys.argv) > 1 else None
    _register(asked if asked in COMMANDS + GROUPS else None)
    try:
        app()
    except StreamkitError as error:
        err.print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(NO_BROKER if isinstance(error, BrokerUnreachable) and is_patient() else 1)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(130)
