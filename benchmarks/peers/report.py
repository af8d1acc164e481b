"""What was measured, as tables, a plot and files; a run replaces what was there for its jobs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.run import Figures

RESULTS = Path(__file__).parents[1] / "results"
Found = dict[str, Any]

HEAD = """# StreamKit and its peers

Medians of the rounds, the rounds' least and greatest beside them. A rate is that between the moment when a peer's
results have counted a tenth of the events (start-up and warm-up excluded) and the one when the last total is right; CPU
is that of the peer's processes meanwhile (not the broker's); memory the greatest sum over them. All totals were right.
How each is set up: `benchmarks/peers/`, a file each. `keeps` is what outlives a kill: peers that keep nothing do less.
Faust and Quix, which take an event at a time, have a tenth of the events.
"""
ABOUT = {
    "views": "JSON ad events of about 240 bytes: keep views, look up the campaign, count per campaign and 10 s.",
    "unique": "Count per page view: as many keys as events.",
    "heavy": "Views per campaign and 60 s every 10 s: count, sum, least, greatest, distinct users, median. StreamKit "
    "and Spark estimate the last two (within 2 %); Flink counts users exactly, and has no median to give.",
    "agent": "A function called for each view: running mean and deviation of the price per campaign.",
    "latency": "The job views at a fixed rate: milliseconds from producing an event until its count can be read.",
}


def found(title: str, version: str, keeps: str, rounds: Sequence[Figures]) -> Found:
    """Medians and all rounds, of one peer at one job."""
    rates = [each.events_per_second for each in rounds]
    cpu = [each.cpu_seconds for each in rounds if each.cpu_seconds is not None]
    return {
        "title": title,
        "version": version,
        "keeps": keeps,
        "events_per_second": round(statistics.median(rates)),
        "rounds": [round(rate) for rate in rates],
        "cpu_seconds_per_million": round(statistics.median(cpu), 2) if cpu else None,
        "peak_mb": round(statistics.median(each.peak_mb for each in rounds)),
    }


def table(peers: Mapping[str, Found]) -> str:
    """One row a peer, the fastest first; then those without figures, and why.

    >>> fast = found("A", "A 1", "nothing", [Figures(2_000_000.0, 1.5, 100.0)])
    >>> print(table({"b": {"title": "B", "version": "B 1", "cannot": "no medians"}, "a": fast}))
    | | events/s | rounds | CPU s per million | peak MB | keeps |
    |---|---|---|---|---|---|
    | A | **2,000,000** | 2,000,000 | 1.50 | 100 | nothing |
    | B | no figure: no medians | | | | |
    """
    lines = ["| | events/s | rounds | CPU s per million | peak MB | keeps |", "|---|---|---|---|---|---|"]
    measured = [each for each in peers.values() if "rounds" in each]
    for each in sorted(measured, key=lambda each: -each["events_per_second"]):
        spread = " to ".join(f"{rate:,}" for rate in sorted({min(each["rounds"]), max(each["rounds"])}))
        cpu = each["cpu_seconds_per_million"]
        cells = [each["title"], f"**{each['events_per_second']:,}**", spread, "" if cpu is None else f"{cpu:.2f}"]
        lines.append(f"| {' | '.join([*cells, str(each['peak_mb']), each['keeps']])} |")
    for each in peers.values():
        if reason := each.get("cannot") or each.get("failed"):
            lines.append(f"| {each['title']} | no figure: {reason.splitlines()[0]} | | | | |")
    return "\n".join(lines)


def latency_table(peers: Mapping[str, Found]) -> str:
    """One row a peer, a column a rate.

    >>> at = {"1000": {"p50": 50.0, "p99": 99.0}}
    >>> print(latency_table({"a": {"title": "A", "timed": "until it is seen", "rates": at}}))
    | p50 / p99 ms | 1,000 events/s | timed |
    |---|---|---|
    | A | 50 / 99 | until it is seen |
    """
    rates = sorted({int(rate) for each in peers.values() for rate in each.get("rates", ())})
    lines = [f"| p50 / p99 ms | {' | '.join(f'{rate:,} events/s' for rate in rates)} | timed |"]
    lines.append("|---" * (len(rates) + 2) + "|")
    for each in peers.values():
        cells = [each["title"]]
        for rate in rates:
            at = each.get("rates", {}).get(str(rate), {"failed": each.get("failed", "not run")})
            cells.append(at["failed"].splitlines()[0] if "failed" in at else f"{at['p50']:.0f} / {at['p99']:.0f}")
        lines.append(f"| {' | '.join([*cells, each.get('timed', '')])} |")
    return "\n".join(lines)


def text(job: str, peers: Mapping[str, Found]) -> str:
    return latency_table(peers) if job == "latency" else table(peers)


def save(job: str, about: Found, peers: Mapping[str, Found], directory: Path = RESULTS) -> None:
    """Put a job's run into peers.json, and write peers.md and peers.svg of all that is there."""
    directory.mkdir(exist_ok=True)
    file = directory / "peers.json"
    jobs = json.loads(file.read_text()) if file.exists() else {}
    jobs[job] = {**about, "peers": dict(peers)}
    jobs = {name: jobs[name] for name in ABOUT if name in jobs}
    file.write_text(json.dumps(jobs, indent=2) + "\n")
    parts = [HEAD, "![events per second](peers.svg)\n"]
    for name, run in jobs.items():
        told = f"`{run['command']}`, {run['date']}, {run['machine']}"
        versions = sorted({each["version"] for each in run["peers"].values() if each.get("version")})
        parts.append(f"## {name}\n\n{ABOUT[name]}\n\n{text(name, run['peers'])}\n\n{told}. {'; '.join(versions)}.\n")
    (directory / "peers.md").write_text("\n".join(parts))
    plot(jobs, directory / "peers.svg")


def plot(jobs: Mapping[str, Found], file: Path) -> None:
    """Bars of events per second, a panel for each job."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    panels = {
        job: sorted(
            (each for each in run["peers"].values() if "rounds" in each), key=lambda each: each["events_per_second"]
        )
        for job, run in jobs.items()
        if job != "latency"
    }
    panels = {job: bars for job, bars in panels.items() if bars}
    if not panels:
        return
    heights = [len(bars) + 1 for bars in panels.values()]
    with pyplot.rc_context({"svg.hashsalt": "peers", "font.size": 9}):
        figure, axes = pyplot.subplots(
            len(panels), 1, figsize=(9, 0.32 * sum(heights) + 0.6), squeeze=False, layout="constrained",
            gridspec_kw={"height_ratios": heights},
        )  # fmt: skip
        for axis, (job, bars) in zip(axes[:, 0], panels.items(), strict=True):
            _panel(axis, job, bars)
        figure.savefig(file, metadata={"Date": None})
        pyplot.close(figure)


def _panel(axis: Any, job: str, bars: Sequence[Found]) -> None:
    rates = [each["events_per_second"] for each in bars]
    ours = ["#c2410c" if "StreamKit" in each["title"] else "#64748b" for each in bars]
    drawn = axis.barh([each["title"] for each in bars], rates, color=ours)
    axis.bar_label(drawn, [f"{rate:,}" for rate in rates], padding=3)
    axis.set_xlim(0, max(rates) * 1.15)
    axis.set_title(f"{job}: events per second", loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
