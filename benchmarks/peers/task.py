"""What a peer's program is told, and how it tells how far it is. Standard library only: it runs in every environment.

The program gets its Task as JSON in the environment variable PEERS_TASK. It puts lines of JSON on standard output,
and nothing else there: `{"at": nanoseconds on the monotonic clock, "counted": n}`. Its totals go to a file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

VARIABLE = "PEERS_TASK"
WINDOW_MS = 10_000
HOPPING_MS = 60_000
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Task:
    """One run of one job.

    `total` is what the job's counts sum to when all is counted; `ads` a file of JSON: each ad's campaign. `settings`
    are the peer's own. Everything that the program writes goes below `directory`.
    """

    brokers: str
    topic: str
    partitions: int
    job: str
    events: int
    total: int
    group: str
    directory: str
    ads: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def totals(self) -> Path:
        """Where the program puts its totals: rows of key, start of the window (0 without one), numbers."""
        return Path(self.directory) / "totals.json"

    def dump(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    def campaigns(self) -> dict[str, str]:
        """Each ad's campaign."""
        found: dict[str, str] = json.loads(Path(self.ads).read_text())
        return found


def told() -> Task:
    """The Task of this process."""
    return Task(**json.loads(os.environ[VARIABLE]))


def say(counted: int) -> None:
    """So much is counted in the results now; 0 where the first event is about to be worked on."""
    _put({"at": time.monotonic_ns(), "counted": counted})


def _put(told: Mapping[str, Any]) -> None:
    out = sys.__stdout__  # Faust takes sys.stdout for its log
    assert out
    out.write(json.dumps(told) + "\n")
    out.flush()


def finish(task: Task, totals: Iterable[Any]) -> NoReturn:
    """Write the totals and wait to be killed: how a peer shuts down is not the question, and its CPU is still read."""
    task.totals.write_text(json.dumps([list(row) for row in totals]))
    _put({"finished": True})
    threading.Event().wait()
    raise SystemExit  # never comes


class Said:
    """Says how far it is at most every `STEP` counts, and at the end.

    >>> Said.STEP
    20000
    """

    STEP = 20_000

    def __init__(self, total: int) -> None:
        self.counted, self._total, self._next = 0, total, self.STEP

    def add(self, count: int) -> bool:
        """True where all is counted."""
        if not self.counted:
            say(0)
        self.counted += count
        return self.at(self.counted)

    def at(self, counted: int) -> bool:
        """As `add`, of the whole count; says nothing of a start."""
        self.counted = counted
        if counted >= self._total or counted >= self._next:
            say(counted)
            self._next = counted + self.STEP
        return counted >= self._total


class Welford:
    """A running mean and deviation (Welford 1962, "Note on a method for calculating corrected sums").

    >>> state = (0, 0.0, 0.0)
    >>> for value in (1, 2, 3):
    ...     state = Welford.add(state, value)
    >>> Welford.row(state)
    (3, 2.0, 0.816496580927726)
    """

    @staticmethod
    def add(state: tuple[int, float, float], value: float) -> tuple[int, float, float]:
        """Count, mean and sum of squares about it, with one more value."""
        count, mean, squares = state
        count += 1
        delta = value - mean
        mean += delta / count
        return count, mean, squares + delta * (value - mean)

    @staticmethod
    def row(state: tuple[int, float, float]) -> tuple[int, float, float]:
        """Count, mean, deviation (of the whole population)."""
        count, mean, squares = state
        return count, mean, (squares / count) ** 0.5
