"""What was measured, as a table and as files; a run replaces what was there for its number of keys."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.recovery.trial import Recovery

RESULTS = Path(__file__).parent.parent / "results"
CASES = {"intact": "disk intact", "lost": "disk lost"}
Figures = dict[str, Any]

HEAD = """# Recovery after kill -9

Seconds from SIGKILL, under load, to the first new commit (to less than one second of load uncommitted): medians of the
rounds, all rounds in brackets. A count and a sum per key, exactly once, a commit a second, one worker. Every key's
count and sum were right after each.
"""


def figures(version: str, build: float, rounds: list[dict[str, Recovery]]) -> Figures:
    """Medians and all rounds, of one peer."""
    found: Figures = {"version": version, "build_seconds": round(build, 2)}
    for case in CASES:
        for what in ("first_commit", "caught_up"):
            seconds = [round(getattr(each[case], what), 3) for each in rounds]
            found[f"{case}_{what}_seconds"] = {"median": statistics.median(seconds), "rounds": seconds}
    return found


def table(peers: dict[str, Figures]) -> str:
    """One row a peer.

    >>> both = {"intact": Recovery(1.5, 2.0), "lost": Recovery(3.0, 4.0)}
    >>> print(table({"quix": figures("Quix Streams 3", 9.0, [both])}))
    | | disk intact | disk lost | building the state |
    |---|---|---|---|
    | Quix Streams 3 | **1.5** (2.0) [1.5] | **3.0** (4.0) [3.0] | 9.0 |
    >>> print(table({"quix": {"version": "Quix Streams 3", "failed": "wrong totals"}}).splitlines()[-1])
    | Quix Streams 3 | failed: wrong totals | | |
    """
    lines = [f"| | {' | '.join(CASES.values())} | building the state |", "|---|---|---|---|"]
    for found in peers.values():
        if "failed" in found:
            lines.append(f"| {found['version']} | failed: {found['failed'].splitlines()[0]} | | |")
            continue
        cells = [found["version"]]
        for case in CASES:
            first, caught_up = (found[f"{case}_{what}_seconds"] for what in ("first_commit", "caught_up"))
            rounds = ", ".join(f"{seconds:.1f}" for seconds in first["rounds"])
            cells.append(f"**{first['median']:.1f}** ({caught_up['median']:.1f}) [{rounds}]")
        lines.append(f"| {' | '.join(cells)} | {found['build_seconds']:.1f} |")
    return "\n".join(lines)


def save(keys: int, run: Figures, directory: Path = RESULTS) -> None:
    """Put a run into recovery.json, and write recovery.md of all that is there.

    `run` is `peers`, as `table` takes them, and what tells about the run: `date`, `command`, `machine`, `load`.
    """
    directory.mkdir(exist_ok=True)
    file = directory / "recovery.json"
    runs = json.loads(file.read_text()) if file.exists() else {}
    runs[str(keys)] = run
    runs = dict(sorted(runs.items(), key=lambda item: int(item[0])))
    file.write_text(json.dumps(runs, indent=2) + "\n")
    parts = [HEAD]
    for each, found in runs.items():
        about = f"`{found['command']}`, {found['date']}, {found['machine']}; {found['load']}"
        parts.append(f"## {int(each):,} keys\n\n{about}\n\n{table(found['peers'])}\n")
    (directory / "recovery.md").write_text("\n".join(parts))
