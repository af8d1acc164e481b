"""`streamkit checkpoint`: what Checkpoints cost, and what a crash would."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.box import SIMPLE
from rich.table import Table

from streamkit.cli.options import BROKERS, CLIENT_CONFIG, DATA, TOPOLOGY, err, load, open_log, out
from streamkit.errors import DefinitionError, StateMissing
from streamkit.interval import (
    LONGEST,
    MOST_OVERHEAD,
    SHORTEST,
    Choice,
    Measured,
    Pace,
    Point,
    age,
    choose,
    overhead,
    parse_duration,
    recovery_seconds,
    show_seconds,
    waste,
)
from streamkit.serving.measured import measured_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

app = typer.Typer(no_args_is_help=True, help="What Checkpoints cost, and what a crash would.")

SWEEP = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
SOURCES = (
    "Optimum and waste: J. W. Young, CACM 17(9), 1974; J. T. Daly, Future Generation Computer Systems 22(3), 2006."
)
_FORMATS = (".png", ".svg")
_EXAMPLES = (
    "Examples:  streamkit checkpoint explain app.py   |   streamkit checkpoint explain app.py --recovery 5s "
    "--plot intervals.svg   |   streamkit checkpoint explain app.py --json | jq '.rows[] | select(.meets)'"
)


class Row(msgspec.Struct, frozen=True):
    """What one interval means: times in seconds, shares 0 to 1; infinite recovery (null in JSON) is never."""

    interval: float
    overhead: float
    recovery: float
    age: float
    waste: float
    changelog: float
    """Bytes a second."""
    meets: bool | None
    """What was asked for; None where nothing was."""
    chosen: bool
    in_force: bool
    measured_overhead: float | None
    """The median of the Checkpoints made at about this interval."""
    measured: int
    """How many these are."""


@app.callback()
def checkpoint() -> None:
    """What Checkpoints cost, and what a crash would."""
    # Without a callback typer drops the command's name where a single one is registered.


@app.command(epilog=_EXAMPLES)
def explain(
    topology: TOPOLOGY,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it too: .png or .svg.", show_default=False)
    ] = None,
    recovery: Annotated[
        str | None,
        typer.Option(help="How long recovery may take: 5s, 500ms, 2m.", show_default="what the topology asks for"),
    ] = None,
    mtbf: Annotated[str, typer.Option(help="Mean time between failures of a worker: 12h, 30d.")] = "1d",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a worker and line.")] = False,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
    data: DATA = None,
) -> None:
    """Show what the interval between Checkpoints costs and what it gives, from what each worker has measured.

    Short intervals take more of the time (overhead), long ones leave more to read again after a crash (recovery, with
    the local state intact) and older Answers (age). Waste is overhead and what crashes lose; log is what goes to the
    changelogs. The model is fitted to the last 30 Checkpoints, and what these took stands beside it (measured: the
    median, of how many). * marks the interval that is chosen for what is asked for, = the one in force.
    """
    between = parse_duration(mtbf)
    loaded, folder = load(topology, data)
    pace = asked_for(loaded.pace, recovery)
    if plot is not None:
        check_plot(plot)
    with open_log(brokers, client_config) as log:
        found = {name: left for name, left in sorted(measured_of(loaded, log, folder).items()) if left.count}
    if not found:
        raise StateMissing(
            f"no worker of topology {loaded.name!r} has measured a Checkpoint yet: run `streamkit worker {topology}` "
            "while records come in, then ask again"
        )
    tell = tell_programs if json else show
    for name, measured in found.items():
        tell(name, measured, pace, between)
    if plot is not None:
        draw(found, pace, between).savefig(plot)
        err.print(f"drawn: {plot}", markup=False)


def asked_for(pace: Pace, recovery: str | None) -> Pace:
    """What the topology asks for; a `recovery` given here takes the place of its own, or of its fixed interval."""
    return pace if recovery is None else Pace(parse_duration(recovery), pace.freshness)


# -- table and JSON ---------------------------------------------------------------------------------------------------


def sweep(measured: Measured, pace: Pace, mtbf: float) -> list[Row]:
    """Shortest interval first: SWEEP, the interval in force and the one that would be chosen."""
    chosen, force = choose(pace, measured, mtbf).interval, measured.interval
    intervals: list[float] = []
    for interval in sorted({*SWEEP, chosen, force}, key=lambda i: (i != chosen, i != force, i)):
        if not any(_near(interval, other) for other in intervals):
            intervals.append(interval)
    intervals.sort()
    points = _by_interval(measured.points, intervals)
    return [_row(measured, pace, mtbf, i, _near(chosen, i), _near(force, i), points[i]) for i in intervals]


def _near(one: float, other: float) -> bool:
    """The same row: nobody cares for the difference."""
    return abs(one / other - 1) <= 0.01


def _row(
    measured: Measured, pace: Pace, mtbf: float, interval: float, chosen: bool, in_force: bool, points: list[Point]
) -> Row:
    recovery, old = recovery_seconds(measured, interval), age(measured, interval)
    asked = [(recovery, pace.recovery), (old, pace.freshness)]
    # The chosen interval is found to a thousandth, and may lie that much beyond what is asked for.
    met = [value <= limit * 1.001 for value, limit in asked if limit is not None]
    return Row(
        interval=interval,
        overhead=overhead(measured, interval),
        recovery=recovery,
        age=old,
        waste=waste(measured, interval, mtbf),
        changelog=measured.bytes_per_change * measured.changes(interval) / old,
        meets=all(met) if met else None,
        chosen=chosen,
        in_force=in_force,
        measured_overhead=median(map(measured_overhead, points)) if points else None,
        measured=len(points),
    )


def measured_overhead(point: Point) -> float:
    return point.seconds / (point.interval + point.seconds)


def _by_interval(points: Sequence[Point], intervals: Sequence[float]) -> dict[float, list[Point]]:
    """Each Point at the interval that its own is nearest to; those of idle times, when no records came, at none."""
    found: dict[float, list[Point]] = {interval: [] for interval in intervals}
    for point in _plain(points):
        found[min(intervals, key=lambda i: abs(math.log(i / point.interval)))].append(point)
    return found


def _plain(points: Sequence[Point]) -> list[Point]:
    return [p for p in points if SHORTEST / 5 <= p.interval <= 1.5 * LONGEST]


def show(name: str, measured: Measured, pace: Pace, mtbf: float) -> None:
    """One worker, for people."""
    choice = choose(pace, measured, mtbf)
    out.print(headline(name, measured), markup=False)
    out.print(table(sweep(measured, pace, mtbf)))
    out.print(verdict(choice, measured, pace, mtbf), markup=False)
    if choice.warning:
        out.print("warning: " + choice.warning, style="yellow", markup=False)
    out.print(SOURCES, markup=False)


def tell_programs(name: str, measured: Measured, pace: Pace, mtbf: float) -> None:
    """One worker, as a line of JSON."""
    typer.echo(msgspec.json.encode(document(name, measured, pace, mtbf)))


def headline(name: str, measured: Measured) -> str:
    """What the worker has measured, in two lines.

    >>> print(headline("w1", Measured(cost_fixed=0.02, arrival=5_000, capacity=90_000, start=2.5, count=41)))
    worker w1, 41 Checkpoints: 5,000 records/s arrive, 90,000 can be read; starts in 2.5 s
    a Checkpoint takes 20 ms + 0 us a changed state; n records change 0 * n^1.00 states
    """
    restore = f", restores {measured.restore:,.0f} keys/s" if measured.restore else ""
    return (
        f"worker {name}, {measured.count:,} Checkpoints: {measured.arrival:,.0f} records/s arrive, "
        f"{measured.capacity:,.0f} can be read; starts in {show_seconds(measured.start)}{restore}\n"
        f"a Checkpoint takes {show_seconds(measured.cost_fixed)} + {measured.cost_per_change * 1e6:.3g} us a changed "
        f"state; n records change {measured.changes_factor:.3g} * n^{measured.changes_power:.2f} states"
    )


def table(rows: Sequence[Row]) -> Table:
    """80 columns wide at most."""
    made = Table("", box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("interval", "overhead", "measured", "recovery", "age", "waste", "log MB/s"):
        made.add_column(title, justify="right", no_wrap=True)
    made.add_column("meets", no_wrap=True)
    for row in rows:
        made.add_row(*_cells(row), style="bold green" if row.chosen else None)
    return made


def _cells(row: Row) -> tuple[str, ...]:
    seen = "" if row.measured_overhead is None else f"{row.measured_overhead:.2%} ({row.measured})"
    return (
        ("*" if row.chosen else "") + ("=" if row.in_force else ""),
        show_seconds(row.interval),
        f"{row.overhead:.2%}",
        seen,
        show_seconds(row.recovery),
        show_seconds(row.age),
        f"{row.waste:.2%}",
        f"{row.changelog / 1e6:,.2f}",
        "" if row.meets is None else "yes" if row.meets else "no",
    )


_REASONS = {
    "fixed": "fixed by the topology",
    "optimum": "the optimum for the mean time between failures",
    "freshness": "the longest that keeps Answers as fresh as asked",
    "recovery": "the longest that meets the recovery asked for",
    "nearest": "as near as it gets to the recovery asked for",
    "overhead": f"the shortest that keeps Checkpoints within {MOST_OVERHEAD:.0%} of the time",
}


def verdict(choice: Choice, measured: Measured, pace: Pace, mtbf: float) -> str:
    asked = [f"{name} {show_seconds(v)}" for name in ("recovery", "freshness") if (v := getattr(pace, name))]
    return (
        f"* chosen: {show_seconds(choice.interval)}, {_REASONS[choice.reason]} (asked: {', '.join(asked) or 'none'}; "
        f"a crash every {show_seconds(mtbf)})\n= in force: {show_seconds(measured.interval)}"
    )


def document(name: str, measured: Measured, pace: Pace, mtbf: float) -> dict[str, Any]:
    """One worker, for programs. Seconds, records, bytes, shares 0 to 1; null is infinite or not asked for."""
    choice = choose(pace, measured, mtbf)
    model = {f: getattr(measured, f) for f in measured.__struct_fields__ if f != "points"}
    points = [
        {"interval": p.interval, "seconds": p.seconds, "records": p.records, "changes": p.changes}
        for p in measured.points
    ]
    return {
        "worker": name,
        "asked": {"recovery": pace.recovery, "freshness": pace.freshness, "fixed": pace.fixed, "mtbf": mtbf},
        "chosen": {"interval": choice.interval, "reason": choice.reason, "warning": choice.warning},
        "model": model,
        "rows": sweep(measured, pace, mtbf),
        "points": points,
        "sources": SOURCES,
    }


# -- plot -------------------------------------------------------------------------------------------------------------


def check_plot(path: Path) -> None:
    """Before any work is done. Raises DefinitionError: no format, no such folder, or matplotlib is not installed."""
    if path.suffix not in _FORMATS:
        raise DefinitionError(f"--plot {path}: expected a name that ends in {' or '.join(_FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise DefinitionError(f"--plot {path}: there is no folder {path.parent}; make it first")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise DefinitionError(
            f"--plot needs matplotlib, which is not here ({error}). Install it: pip install 'streamkit[plot]'"
        ) from error


def draw(workers: Mapping[str, Measured], pace: Pace, mtbf: float) -> Figure:
    """Overhead (with what was measured) above, recovery below, over the interval; a colour a worker.

    Zeros are drawn at the axes' feet.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    steps = [SHORTEST * (LONGEST / SHORTEST) ** (i / 200) for i in range(201)]
    for number, (name, measured) in enumerate(workers.items()):
        _draw_worker(above, below, steps, name, measured, choose(pace, measured, mtbf), f"C{number}")
    _finish(above, below, pace)
    figure.suptitle("What the interval between Checkpoints costs (above) and gives (below)")
    return figure


def _draw_worker(
    above: Axes, below: Axes, steps: Sequence[float], name: str, measured: Measured, choice: Choice, color: str
) -> None:
    above.plot(steps, [max(100 * overhead(measured, i), 1e-3) for i in steps], color=color, label=f"{name}: model")
    points = _plain(measured.points)
    above.scatter(
        [p.interval for p in points],
        [100 * measured_overhead(p) for p in points],
        color=color, s=14, alpha=0.6, label=f"{name}: measured",
    )  # fmt: skip
    met = [(i, r) for i in steps if math.isfinite(r := recovery_seconds(measured, i))]
    below.plot([i for i, _ in met], [max(r, 1e-3) for _, r in met], color=color, label=f"{name}: model")
    label = f"{name}: chosen {show_seconds(choice.interval)}"
    for axes in (above, below):
        axes.axvline(choice.interval, color=color, linestyle="--", linewidth=1, label=label)


def _finish(above: Axes, below: Axes, pace: Pace) -> None:
    from matplotlib.ticker import FuncFormatter

    above.axhline(100 * MOST_OVERHEAD, color="gray", linestyle=":", label=f"bound {MOST_OVERHEAD:.0%}")
    above.set_ylabel("overhead, % of the time")
    above.set_yscale("log")
    below.set_ylabel("recovery, seconds")
    below.set_yscale("log")
    below.set_xscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    some = FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    for axis in (above.yaxis, below.yaxis, below.xaxis):
        axis.set_major_formatter(plain)
        axis.set_minor_formatter(some)
    below.set_xlabel("interval between Checkpoints, seconds\n" + SOURCES, fontsize=8)
    if pace.recovery is not None:
        below.axhline(pace.recovery, color="gray", linestyle=":", label=f"asked {show_seconds(pace.recovery)}")
    for axes in (above, below):
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
