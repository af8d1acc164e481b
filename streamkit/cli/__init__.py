"""The command line: one file a command."""

from __future__ import annotations

import importlib
import logging
import sys

import typer

from streamkit.cli.options import err
from streamkit.errors import StreamkitError

app = typer.Typer(
    name="streamkit",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A lambda architecture on Kafka whose answers are exact.\n\n"
    "[bold]Begin:[/bold]  streamkit broker start;  streamkit create-topics app.py;  streamkit worker app.py",
)

COMMANDS = (
    "describe", "create_topics", "generate", "load", "worker", "batch", "query", "serve", "verify", "reset",
)  # fmt: skip
GROUPS = {"broker": "broker", "dead-letter": "dead_letter"}


def _register() -> None:
    for name in COMMANDS:
        module = importlib.import_module(f"streamkit.cli.{name}")
        app.command(name.replace("_", "-"))(getattr(module, name))
    for name, module_name in GROUPS.items():
        app.add_typer(importlib.import_module(f"streamkit.cli.{module_name}").app, name=name)


def main() -> None:
    """Entry point: an error raised on purpose is a message and exit status 1, Ctrl-C is 130."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    _register()
    try:
        app()
    except StreamkitError as error:
        err.print(f"[red]error:[/red] {_escaped(str(error))}")
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(130)


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
