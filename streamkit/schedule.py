"""Schedules: when a View is recomputed, and what is due now, told by the history alone. Pure: the clock is an argument.

Times are milliseconds since the epoch, UTC. Scheduled times are the multiples of `every` since the epoch: "1h" is on
the hour, "1d" at midnight UTC, wherever and whenever a scheduler was started.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from streamkit.control import Kind, Ran, Trigger
from streamkit.errors import DefinitionError
from streamkit.interval import parse_duration, show_seconds

SHORTEST = 1.0
_BACKOFF = 15_000


class Schedule(msgspec.Struct, frozen=True):
    """A recomputation each `every` seconds. With `full_every` those in between are incremental, else each is full."""

    every: float
    full_every: float | None = None

    @classmethod
    def of(cls, every: str | float | None, full_every: str | float | None) -> Schedule | None:
        """From what a View was given; None for nothing. Raises DefinitionError.

        >>> Schedule.of("1h", "1d")
        Schedule(every=3600.0, full_every=86400.0)
        >>> str(Schedule.of("1h", "1d")), str(Schedule.of("90m", None))
        ('every 60 min, in full every 24 h', 'every 90 min')
        """
        if every is None:
            if full_every is not None:
                raise DefinitionError(
                    f"batch_full_every={full_every!r} says how often a scheduled run is a full one: give batch_every, "
                    "too (for full runs alone, batch_every alone)"
                )
            return None
        seconds, full = parse_duration(every), None if full_every is None else parse_duration(full_every)
        if seconds < SHORTEST:
            raise DefinitionError(f"batch_every={every!r}: expected {show_seconds(SHORTEST)} or more")
        if full is not None and full < seconds:
            raise DefinitionError(f"batch_full_every={full_every!r} is shorter than batch_every={every!r}")
        return cls(seconds, full)

    def __str__(self) -> str:
        full = "" if self.full_every is None else f", in full every {show_seconds(self.full_every)}"
        return f"every {show_seconds(self.every)}{full}"


class Due(msgspec.Struct, frozen=True):
    """A View's next run: `at` is the time that it is scheduled for, `begin` when it may begin (later where it has
    failed), `passed` how many scheduled times before `at` no run was begun for."""

    at: int
    begin: int
    kind: Kind
    passed: int = 0
    first: bool = False

    def not_before(self, time: int) -> Due:
        return msgspec.structs.replace(self, begin=max(self.begin, time))

    def trigger(self, since: int) -> Trigger:
        """Why it is run, by a scheduler that looks after things since then."""
        return "first" if self.first else "missed" if self.at < since else "scheduled"


def next_run(schedule: Schedule, runs: Sequence[Ran], now: int) -> Due:
    """What is to be run next of a View whose `runs` (of its present definition, oldest first) are these.

    Counted from the last published run of each kind, so a run that was killed or has failed is still due; however many
    scheduled times have passed, one run makes up for them.

    >>> from streamkit.control import RunEnded, RunStarted
    >>> def ran(time, kind="full", outcome="published"):
    ...     started = RunStarted("id", "v", "f", kind, "scheduled", time, time, "host")
    ...     return Ran(started, RunEnded("id", outcome, time + 10, kind))
    >>> hour, day = 3_600_000, 86_400_000
    >>> next_run(Schedule(3600), [ran(5 * hour + 7)], 5 * hour + 500).at == 6 * hour
    True
    >>> next_run(Schedule(3600), [ran(5 * hour)], 9 * hour + 1) == Due(9 * hour, 9 * hour, "full", passed=3)
    True
    >>> next_run(Schedule(3600, 86400), [ran(day)], day + 2 * hour).kind
    'incremental'
    """
    every = round(schedule.every * 1000)
    last, full = _last(runs, ("full", "incremental")), _last(runs, ("full",))
    if last is None:
        at = now // every * every
        return Due(at, max(at, _retry(runs, every)), "full", first=True)
    coming = (last // every + 1) * every
    at = max(coming, now // every * every)
    passed = (at - coming) // every
    kind: Kind = "full"
    if schedule.full_every is not None:
        each = round(schedule.full_every * 1000)
        full_coming = 0 if full is None else (full // each + 1) * each
        kind = "full" if full_coming <= at else "incremental"
    return Due(at, max(at, _retry(runs, every)), kind, passed)


def _last(runs: Sequence[Ran], kinds: tuple[Kind, ...]) -> int | None:
    return max((run.started.time for run in runs if run.outcome == "published" and run.kind in kinds), default=None)


def _retry(runs: Sequence[Ran], every: int) -> int:
    """When to try again after failures: 15 s, 30 s, 1 min and so on, at the latest at the next scheduled time."""
    ends = [run.ended for run in runs if run.ended is not None and run.outcome != "stopped"]
    failures = 0
    while failures < len(ends) and ends[-1 - failures].outcome == "failed":
        failures += 1
    if not failures:
        return 0
    end = ends[-1].time
    return min(end + (_BACKOFF << min(failures - 1, 20)), (end // every + 1) * every)
