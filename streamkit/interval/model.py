"""What Checkpoints cost and how fast records are read, and what follows from it for an interval."""

from __future__ import annotations

import math

import msgspec

from streamkit.interval.pace import DAY, DEFAULT, LONGEST, SHORTEST


class Observation(msgspec.Struct, frozen=True):
    """One Checkpoint, as the worker saw it. Times in seconds."""

    since: float
    """Of reading, from the end of the last Checkpoint (or the beginning of the work) to the beginning of this one."""
    seconds: float
    """How long reading stood still for this Checkpoint."""
    records: int
    """Read since then."""
    busy: float
    """Spent on reading and folding them, without waiting for records."""
    changes: int
    """States that this Checkpoint wrote."""
    bytes: int = 0
    """What it wrote to the changelogs."""
    arrived: int | None = None
    """Records that the log grew by since the last Checkpoint began. None says as many as were read, which is wrong
    while the worker catches up or falls behind: what it then reads is its capacity, whatever arrives."""


class Point(msgspec.Struct, frozen=True, array_like=True):
    """An Observation as the model keeps it; `interval` is its `since`, `period` that and the Checkpoint before."""

    interval: float
    seconds: float
    records: int
    changes: int
    period: float
    busy: float
    arrived: int
    bytes: int


class Measured(msgspec.Struct, frozen=True):
    """What a worker knows of its Checkpoints, smoothed; goes into each one.

    A Checkpoint of n records changes `changes_factor * n ** changes_power` states (Heaps' law: distinct keys grow
    slower than records; in records, so that it holds when the load changes) and takes `cost_fixed + cost_per_change *
    changes` seconds. Both are least squares over the last 30 Checkpoints, one of 20 Checkpoints ago with half the
    weight of the newest, so that it follows; the cost's with Huber's weights besides, so that a disk that hangs once is
    not taken for what a Checkpoint costs. Where all intervals were about the same, slope and intercept cannot be told
    apart: a weak prior (half of the cost is fixed; power 0.7) then decides, and gives way as soon as intervals vary.
    `arrival` and `capacity` are records a second and a busy second, `restore` keys a second (0: never restored).
    """

    cost_fixed: float = 0.0
    cost_per_change: float = 0.0
    changes_factor: float = 0.0
    changes_power: float = 1.0
    bytes_per_change: float = 0.0
    arrival: float = 0.0
    capacity: float = math.inf
    start: float = 0.0
    """Seconds from a crash to the first record that is read: noticed, process started, state opened."""
    restore: float = 0.0
    interval: float = DEFAULT
    """In force."""
    count: int = 0
    """Checkpoints observed."""
    points: tuple[Point, ...] = ()

    def changes(self, interval: float) -> float:
        """States that a Checkpoint writes after so many seconds of reading what arrives."""
        return self._changes(self.arrival * interval)

    def cost(self, interval: float) -> float:
        """Seconds that such a Checkpoint takes."""
        return self._cost(self.arrival * interval)

    def catch_up_rate(self, interval: float) -> float:
        """Records a second while all that is read waits already: capacity, less the time for Checkpoints."""
        if math.isinf(self.capacity):
            return math.inf
        return self.capacity * interval / (interval + self._cost(self.capacity * interval))

    def _changes(self, records: float) -> float:
        return float(self.changes_factor * records**self.changes_power) if records > 0 else 0.0

    def _cost(self, records: float) -> float:
        return self.cost_fixed + self.cost_per_change * self._changes(records)


def recovery_seconds(measured: Measured, interval: float) -> float:
    """From a crash until the worker has caught up, at worst; infinite where more arrives than can be read.

    The worst moment is the end of a Checkpoint, just before it is durable: what arrived since the one before began is
    lost, that is during `interval` and two times `cost`. For `start` seconds nothing is read, then `rate` records a
    second while `arrival` more come. It has caught up after T seconds of reading, where all that arrived has been read:

        rate * T = arrival * (interval + 2 * cost + start + T)
        T = arrival * (interval + 2 * cost + start) / (rate - arrival)

    `rate` shrinks with short intervals, as Checkpoints are made during that time too: below some interval recovery
    takes longer again.

    >>> recovery_seconds(Measured(arrival=100.0, capacity=300.0, start=2.0), 4.0)
    5.0
    """
    arrival, rate = measured.arrival, measured.catch_up_rate(interval)
    if rate <= arrival:
        return math.inf
    lost = interval + 2 * measured.cost(interval) + measured.start
    return measured.start + arrival * lost / (rate - arrival)


def overhead(measured: Measured, interval: float) -> float:
    """The share of the time that Checkpoints take, 0 to 1."""
    cost = measured.cost(interval)
    return cost / (interval + cost)


def age(measured: Measured, interval: float) -> float:
    """How old an Answer may be, in seconds: it shows what the last Checkpoint holds until the next is done."""
    return interval + measured.cost(interval)


def waste(measured: Measured, interval: float, mtbf: float = DAY) -> float:
    """The share of the time that is lost to Checkpoints and to a crash every `mtbf` seconds (half an interval, and the
    start): what Young and Daly minimise."""
    return overhead(measured, interval) + (interval / 2 + measured.start) / mtbf


def young(cost: float, mtbf: float) -> float:
    """The interval of least waste, to first order (Young 1974).

    >>> young(0.02, 86_400)
    58.787753826796276
    """
    return math.sqrt(2 * cost * mtbf)


def daly(cost: float, mtbf: float) -> float:
    """The same with higher order terms, for costs that are not small beside `mtbf` (Daly 2006, equation 37).

    >>> daly(0.02, 86_400)
    58.774421249478294
    """
    if cost >= 2 * mtbf:
        return mtbf
    share = math.sqrt(cost / (2 * mtbf))
    return young(cost, mtbf) * (1 + share / 3 + share**2 / 9) - cost


def optimum(measured: Measured, mtbf: float = DAY) -> float:
    """Daly's interval, for a cost that depends on the interval.

    Changes that a longer interval would write just as well are no reason for one. With cost = f + g * interval**b the
    derivative of the waste is zero where interval**2 = 2 * mtbf * (f + (1 - b) * g * interval**b): Young's formula with
    that for the cost. Found by iteration, which halves the error (in the logarithm) at least each time, as b <= 1.
    """
    interval = measured.interval
    for _ in range(20):
        growing = measured.cost(interval) - measured.cost_fixed
        interval = max(daly(measured.cost_fixed + (1 - measured.changes_power) * growing, mtbf), SHORTEST)
    return min(interval, LONGEST)
