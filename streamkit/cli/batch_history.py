"""`streamkit batch history`: the runs of the batch layer, as the control topic has them."""

from __future__ import annotations

import datetime as dt
from contextlib import closing
from typing import Annotated, Any

import msgspec
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from streamkit.cli.options import BROKERS, CLIENT_CONFIG, TOPOLOGY, load, open_log, out
from streamkit.control import History, Ran
from streamkit.interval import show_seconds
from streamkit.log.control import ControlTopic


def history(
    topology: TOPOLOGY,
    view: Annotated[
        str | None, typer.Argument(metavar="[VIEW]", help="Default: all Views.", show_default=False)
    ] = None,
    last: Annotated[int, typer.Option("-n", "--last", min=1, help="How many.")] = 50,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with everything.")] = False,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
) -> None:
    """Show the runs of the batch layer, newest last: by hand, scheduled, and those that made up for missed ones.

    A run that was killed has no end, and is told to be `killed` once the next one of its View has begun; until then it
    may be running. Differences are to the speed layer, or, where no worker ran, to the BatchView before (marked *).

    Examples:  streamkit batch history app.py   |   streamkit batch history app.py campaign --json | jq .outcome
    """
    loaded, _ = load(topology)
    with open_log(brokers, client_config) as log, closing(ControlTopic(log, loaded.name)) as control:
        known = History()
        for message in control.catch_up():
            known.apply(message)
    runs = known.all() if view is None else known.of(loaded.find_view(view).name)
    if json:
        for ran in runs[-last:]:
            typer.echo(msgspec.json.encode(plain(ran)))
    elif runs:
        shown = table(runs[-last:])
        whole = Measurement.get(out, out.options.update(width=10_000), shown).maximum
        Console(width=whole, highlight=False).print(shown)  # cells that are broken to fit a terminal cannot be read
    else:
        out.print(f"no runs yet: streamkit batch {topology}, or streamkit scheduler {topology}", markup=False)


def plain(ran: Ran) -> dict[str, Any]:
    """Times in milliseconds since the epoch; null for what is not known."""
    started, ended = ran.started, ran.ended
    proof = ended.proof if ended else None
    return {
        "view": started.view,
        "started": started.time,
        "seconds": (ended.time - started.time) / 1000 if ended else None,
        "kind": ran.kind,
        "trigger": started.trigger,
        "due": started.due or None,
        "by": started.by,
        "outcome": ran.outcome,
        "reason": ended.reason if ended else "",
        "cut": {str(p): o for p, o in sorted(ended.offsets.items())} if ended else None,
        "records": ended.records if ended else None,
        "states": ended.states if ended else None,
        "rejected": ended.rejected if ended else None,
        "differences": proof.differences if proof else None,
        "against": (proof.against or "speed layer") if proof else None,
        "batch": ended.batch if ended else "",
        "definition": started.fingerprint,
    }


def table(runs: list[Ran]) -> Table:
    shown = Table(
        "started", "took", "view", "kind", "trigger", "Cut", "records", "states", "rejected", "differences", "outcome",
        box=SIMPLE,
    )  # fmt: skip
    for ran in runs:
        started, ended = ran.started, ran.ended
        counts = [f"{n:,}" for n in (ended.records, ended.states, ended.rejected)] if ended else ["", "", ""]
        reason = f": {ended.reason}" if ended and ended.reason else ""
        trigger = f"{started.trigger} {moment(started.due)}" if started.due else started.trigger
        cells = (
            moment(started.time),
            show_seconds(max(0.001, (ended.time - started.time) / 1000)) if ended else "",
            started.view,
            ran.kind,
            trigger,
            " ".join(f"{p}:{o}" for p, o in sorted(ended.offsets.items())) if ended else "",
            *counts,
            _differences(ran),
            ran.outcome + reason,
        )
        shown.add_row(*(cell.replace("[", r"\[") for cell in cells))
    return shown


def _differences(ran: Ran) -> str:
    proof = ran.ended.proof if ran.ended else None
    return "" if proof is None else f"{proof.differences}{'*' if proof.against else ''}"


def moment(milliseconds: int) -> str:
    """
    >>> moment(1_700_000_000_000)
    '2023-11-14T22:13:20Z'
    """
    moment = dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
