"""What was measured, as a table and files; a run replaces what was there for its jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.batch.run import Figures

RESULTS = Path(__file__).parents[1] / "results"
Found = dict[str, Any]

HEAD = """# The batch layer and its peers

One run each, one after the other, of the same records. Seconds are from the start of a peer's process until its results
are written, start-up included; rate, CPU and memory (the greatest sum over its processes) are of the same span, without
the broker. All totals were right. How each is set up: `benchmarks/batch/`.
"""
ABOUT = {
    "words": "Lines of ten words as JSON, 100,000 words by Zipf's law: how often each is there.",
    "yahoo": "JSON ad events of about 240 bytes: keep views, look up the campaign, count per campaign and 10 s.",
}


def found(title: str, version: str, reads: str, figures: Figures) -> Found:
    return {
        "title": title,
        "version": version,
        "reads": reads,
        "records": figures.records,
        "records_per_second": round(figures.records_per_second),
        "seconds": round(figures.seconds, 1),
        "cpu_seconds_per_million": round(figures.cpu_seconds / figures.records * 1e6, 2),
        "peak_mb": round(figures.peak_mb),
        **figures.told,
    }


def table(peers: Mapping[str, Found]) -> str:
    """One row a peer, the fastest first; then those without figures, and why.

    >>> fast = found("A", "A 1", "kafka", Figures(2_000_000, 2.0, 3.0, 1e2, {"shuffled": 5.0, "shuffled_mb": 1.0}))
    >>> print(table({"b": {"title": "B", "version": "B 1", "failed": "it fell"}, "a": fast}))
    | | reads | records | records/s | seconds | CPU s per million | peak MB | shuffled |
    |---|---|---|---|---|---|---|---|
    | A | kafka | 2,000,000 | **1,000,000** | 2.0 | 1.50 | 100 | 5 rows, 1.0 MB |
    | B | no figure: it fell | | | | | | |
    """
    lines = ["| | reads | records | records/s | seconds | CPU s per million | peak MB | shuffled |", "|---" * 8 + "|"]
    measured = [each for each in peers.values() if "seconds" in each]
    for each in sorted(measured, key=lambda each: -each["records_per_second"]):
        shuffled = f"{each['shuffled']:,.0f} rows, {each['shuffled_mb']:,.1f} MB" if "shuffled" in each else ""
        lines.append(
            f"| {each['title']} | {each['reads']} | {each['records']:,} | **{each['records_per_second']:,}** "
            f"| {each['seconds']} | {each['cpu_seconds_per_million']:.2f} | {each['peak_mb']} | {shuffled} |"
        )
    for each in peers.values():
        if reason := each.get("failed"):
            lines.append(f"| {each['title']} | no figure: {reason.splitlines()[0]} | | | | | | |")
    return "\n".join(lines)


def save(job: str, about: Found, peers: Mapping[str, Found], directory: Path = RESULTS) -> None:
    """Put a job's run into batch.json, and write batch.md of all that is there."""
    directory.mkdir(exist_ok=True)
    file = directory / "batch.json"
    jobs = json.loads(file.read_text()) if file.exists() else {}
    jobs[job] = {**about, "peers": dict(peers)}
    jobs = {name: jobs[name] for name in ABOUT if name in jobs}
    file.write_text(json.dumps(jobs, indent=2) + "\n")
    parts = [HEAD]
    for name, run in jobs.items():
        told = f"`{run['command']}`, {run['date']}, {run['machine']}"
        versions = sorted({each["version"] for each in run["peers"].values() if each.get("version")})
        parts.append(f"## {name}\n\n{ABOUT[name]}\n\n{table(run['peers'])}\n\n{told}. {'; '.join(versions)}.\n")
    (directory / "batch.md").write_text("\n".join(parts))
