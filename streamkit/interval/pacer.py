"""The choice of an interval, and its hysteresis."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import msgspec

from streamkit.interval.fit import fitted
from streamkit.interval.model import Measured, Observation, Point, age, optimum, overhead, recovery_seconds
from streamkit.interval.pace import DAY, DEFAULT, LONGEST, SHORTEST, Pace, show_seconds

MOST_OVERHEAD = 0.2
"""The share of the time that Checkpoints may take, unless the recovery asked for needs more."""
BAND, NEAR, PATIENCE, GROWTH = 1.2, (0.9, 1.1), 3, 2.0
"""Hysteresis: see Pacer."""
NEAREST = 1.1
"""Where recovery cannot be met: how near to the least that can be had is near enough."""
KEPT = 30
"""Points that the model is fitted to."""
_GRID: tuple[float, ...] = (*(SHORTEST * (LONGEST / SHORTEST) ** (i / 60) for i in range(60)), LONGEST)


class Choice(NamedTuple):
    interval: float
    reason: str
    """What sets it: fixed, optimum, freshness, recovery, nearest (to a recovery that cannot be met) or overhead."""
    warning: str
    """What of it is not met or is expensive, with numbers and the way out; empty where nothing is."""


def choose(pace: Pace, measured: Measured, mtbf: float = DAY) -> Choice:
    """The smallest of Daly's optimum and the longest intervals that meet `recovery` and `freshness`.

    Never below the interval at which Checkpoints take 20 % of the time, unless `recovery` needs it and can be had by
    it. (Where they take that much at any interval, the bound is a quarter above the least they can take.)
    """
    if pace.fixed is not None:
        return Choice(pace.fixed, "fixed", _warning(pace, measured, pace.fixed))
    most = max(MOST_OVERHEAD, 1.25 * overhead(measured, LONGEST))
    floors = {"overhead": _longest(lambda i: overhead(measured, i) > most) or SHORTEST}
    bounds = {"optimum": optimum(measured, mtbf)}
    if (asked := pace.freshness) is not None:
        bounds["freshness"] = _longest(lambda i: age(measured, i) <= asked) or SHORTEST
    if (allowed := pace.recovery) is not None:
        longest = _longest(lambda i: recovery_seconds(measured, i) <= allowed)
        if longest is not None:
            bounds["recovery"] = floors["recovery"] = longest
        else:  # as near as it gets within the 20 %, and not to the last per cent: the curve is flat where it is least
            least = NEAREST * min(recovery_seconds(measured, i) for i in _GRID)
            bounds["nearest"] = _longest(lambda i: recovery_seconds(measured, i) <= least < math.inf) or SHORTEST
    reason, interval = min(bounds.items(), key=lambda bound: bound[1])
    floor = min(floors.items(), key=lambda bound: bound[1])
    if interval < floor[1]:
        reason, interval = floor
    return Choice(interval, reason, _warning(pace, measured, interval))


def _longest(meets: Callable[[float], bool]) -> float | None:
    """The longest interval within the bounds that meets a condition; None where none does."""
    for i in reversed(range(len(_GRID))):
        if meets(_GRID[i]):
            low, high = _GRID[i], _GRID[min(i + 1, len(_GRID) - 1)]
            for _ in range(12):
                middle = math.sqrt(low * high)
                low, high = (middle, high) if meets(middle) else (low, middle)
            return low
    return None


def _warning(pace: Pace, measured: Measured, interval: float) -> str:
    every = f"with a Checkpoint every {show_seconds(interval)}"
    share, old = overhead(measured, interval), age(measured, interval)
    said = []
    if pace.recovery is not None and recovery_seconds(measured, interval) > pace.recovery:
        said.append(_missed(pace.recovery, measured, interval, every))
    if pace.freshness is not None and old > pace.freshness:
        said.append(
            f"freshness of {show_seconds(pace.freshness)} missed: {show_seconds(old)} {every}, as shorter intervals "
            f"cost more than {MOST_OVERHEAD:.0%} of the time; allow older Answers, or start another worker"
        )
    if share > MOST_OVERHEAD * 1.01:
        said.append(
            f"Checkpoints take {share:.0%} of the time {every} ({show_seconds(measured.cost(interval))} each); allow "
            "longer intervals, or start another worker"
        )
    return ". ".join(said)


def _missed(asked: float, measured: Measured, interval: float, every: str) -> str:
    expected = recovery_seconds(measured, interval)
    if expected == math.inf:
        way = "more arrives than is read: start another worker"
    elif measured.start >= asked:
        way = "the start alone takes too long: keep standbys, or ask for a longer recovery"
    else:
        way = "start another worker, or ask for a longer recovery"
    return (
        f"recovery in {show_seconds(asked)} cannot be met: {show_seconds(expected)} {every} (start "
        f"{show_seconds(measured.start)}, {measured.arrival:,.0f} records/s arrive, {measured.capacity:,.0f} can be "
        f"read); {way}"
    )


class Pacer:
    """Chooses the interval, Checkpoint by Checkpoint.

    `start` is how long it took from a crash until reading began again, in seconds (`started` tells it later), and
    `measured` what the last worker of this name left behind.

    Hysteresis: the interval changes when three choices in a row lie more than 20 % to the same side of it, and then to
    the middle one of the three. 20 % either way costs next to nothing, as the waste is flat about its optimum, and what
    is smoothed over several Checkpoints does not stray so far three times in a row. Near the limit of what can be met
    it does: `recovery` then hangs on the difference of two numbers that are nearly the same, so a choice counts only
    if a load 10 % off would put it on the same side too. `due` keeps `recovery` meanwhile, by counting records. Beyond
    the limit the band is 44 %: nearly as near is as good. An interval at most doubles: beyond twice what was tried the
    model is a guess, until Points lie there.
    """

    def __init__(self, pace: Pace, *, start: float = 0.0, mtbf: float = DAY, measured: Measured | None = None) -> None:
        self.pace = pace
        self._mtbf = mtbf
        known = msgspec.structs.replace(measured or Measured(), start=start)
        self._choice = Choice(self._first(), "default", "") if known.count < PATIENCE else choose(pace, known, mtbf)
        self._measured = msgspec.structs.replace(known, interval=self._choice.interval)
        self._last_seconds = 0.0
        self._wanted: list[float] = []

    def _first(self) -> float:
        pace = self.pace
        if pace.fixed is not None:
            return pace.fixed
        return max(min(DEFAULT, pace.freshness or DEFAULT, (pace.recovery or 2 * DEFAULT) / 2), SHORTEST)

    @property
    def interval(self) -> float:
        """Seconds to read for, from the end of a Checkpoint to the beginning of the next."""
        return self._measured.interval

    @property
    def measured(self) -> Measured:
        return self._measured

    @property
    def warning(self) -> str:
        """What of the Pace is not met or is expensive; empty where nothing is."""
        return self._choice.warning

    @property
    def most_records(self) -> float:
        """How many records may be read between Checkpoints, so that reading them again fits into `recovery`.

        What `recovery_seconds` solved for the records instead of the interval: it holds at once when the load jumps,
        before the interval follows. Infinite where no recovery is asked for or it cannot be met anyway.
        """
        known, asked = self._measured, self.pace.recovery
        if asked is None or recovery_seconds(known, self._choice.interval) > asked:
            return math.inf
        spare = known.catch_up_rate(self.interval) - known.arrival
        lost = known.arrival * (known.start + 2 * known.cost(self.interval))
        return (asked - known.start) * spare - lost if math.isfinite(spare) else math.inf

    def due(self, seconds: float, records: int) -> bool:
        """Is it time for a Checkpoint, so long after the end of the last one and with so many records read?"""
        return seconds >= self.interval or (seconds >= SHORTEST and records >= self.most_records)

    def observe(self, seen: Observation) -> None:
        """Learn from a Checkpoint that was just made."""
        period, self._last_seconds = seen.since + self._last_seconds, seen.seconds
        arrived = seen.records if seen.arrived is None else seen.arrived
        point = Point(seen.since, seen.seconds, seen.records, seen.changes, period, seen.busy, arrived, seen.bytes)
        points = (*self._measured.points, point)[-KEPT:]
        known = msgspec.structs.replace(self._measured, points=points, count=self._measured.count + 1, **fitted(points))
        self._choice = choose(self.pace, known, self._mtbf)
        self._measured = msgspec.structs.replace(known, interval=self._adapted(known, self._choice.interval))

    def started(self, seconds: float) -> None:
        """Learn how long the start took, from the first moment to the first task that is open."""
        self._measured = msgspec.structs.replace(self._measured, start=seconds)

    def restored(self, keys: int, seconds: float) -> None:
        """Learn from state that was restored from the changelogs."""
        if keys and seconds:
            self._measured = msgspec.structs.replace(self._measured, restore=keys / seconds)

    def _adapted(self, known: Measured, wanted: float) -> float:
        now = self.interval
        self._wanted = [*self._wanted, wanted][-PATIENCE:] if self._is_off(known, wanted) else []
        agree = min(self._wanted, default=now) > now or max(self._wanted, default=now) < now
        if len(self._wanted) < PATIENCE or not agree:
            return now
        new = min(median(self._wanted), now * GROWTH)
        self._wanted = []
        return new

    def _is_off(self, known: Measured, wanted: float) -> bool:
        """Does another interval fit better, and would so, to the same side, with a load near the one measured?"""
        now, nearest = self.interval, self._choice.reason == "nearest"
        band = BAND**2 if nearest else BAND
        if now / band <= wanted <= now * band:
            return False
        loads = (msgspec.structs.replace(known, arrival=known.arrival * load) for load in NEAR)
        near = [choose(self.pace, load, self._mtbf) for load in loads]
        if wanted < now:
            return max(near).interval < now
        # At the edge of what can be met a little more load turns the choice from what just meets it to what is nearest.
        return min(near).interval > now and all((choice.reason == "nearest") == nearest for choice in near)
