"""What a task is, what it has counted, and what it could not use."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from streamkit.errors import StreamkitError


class TopicSplit(msgspec.Struct, frozen=True, tag="topic"):
    """The offsets `[start, end)` of one partition."""

    topic: str
    partition: int
    start: int
    end: int


class FileSplit(msgspec.Struct, frozen=True, tag="file"):
    """The bytes `[start, end)` of one file; of a packed one and of Parquet, all of it."""

    path: str
    start: int
    end: int


Split = TopicSplit | FileSplit


class Task(msgspec.Struct, frozen=True):
    """One task: a Split of the first stage, or a partition of the shuffle in those after it.

    >>> Task(1, 7).name
    'stage-1/task-00007'
    """

    stage: int
    number: int
    split: Split | None = None

    @property
    def name(self) -> str:
        return f"stage-{self.stage}/task-{self.number:05}"


class Skipped(msgspec.Struct, frozen=True):
    """A record that `map` failed on and that the job goes on without."""

    where: str
    reason: str
    traceback: str = ""


class Done(msgspec.Struct):
    """What a finished task tells: `done.json` in its folder."""

    records: int = 0
    """Records (or pairs) that came in."""
    shuffled: int = 0
    """Rows written to the shuffle."""
    bytes: int = 0
    runs: int = 0
    rejected: int = 0
    counters: dict[str, int] = {}
    skipped: list[Skipped] = []
    rows: dict[str, int] = {}
    """Rows written to each output."""


class TaskFailed(StreamkitError):
    """A function of the job raised; the message has where, and the traceback of the user's own code."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


@dataclass
class TaskContext:
    """The `context` of a task's functions."""

    files: Mapping[str, Path]
    counters: Mapping[str, int]
    done: Done = field(default_factory=Done)
    where: str = ""

    def count(self, name: str, n: int = 1) -> None:
        self.done.counters[name] = self.done.counters.get(name, 0) + n


def user_traceback(error: BaseException) -> str:
    """The traceback from the user's function on, without what called it.

    >>> def reduce(): raise ValueError("no")
    >>> try: reduce()
    ... except ValueError as error: print(user_traceback(error).splitlines()[-1])
    ValueError: no
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = Path(__file__).parent
    kept = [f for f in frames if Path(f.filename).parent != own]
    lines = traceback.format_list(kept or frames) + traceback.format_exception_only(error)
    return "Traceback (most recent call last):\n" + "".join(lines).rstrip()
