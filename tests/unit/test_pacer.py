"""The Pacer: that its model is the world, and that the interval follows the load and does not flap."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamkit.interval import (
    BAND,
    GROWTH,
    KEPT,
    LONGEST,
    SHORTEST,
    Measured,
    Observation,
    Pace,
    Pacer,
    choose,
    recovery_seconds,
)

SETTLED = 30
"""Checkpoints after which the interval stays, whatever it was at first."""


class World:
    """A worker as a few numbers: what its Checkpoints cost, how fast it reads, and noise of a share on all of it."""

    def __init__(self, pacer: Pacer, *, seed: int = 0, noise: float = 0.0, capacity: float = 200_000.0) -> None:
        self.pacer, self.noise, self.capacity = pacer, noise, capacity
        self.fixed, self.per_change, self.factor, self.power = 0.02, 2e-5, 3.0, 0.6
        self._random = random.Random(seed)
        self._last = 0.0

    def _about(self) -> float:
        return self._random.uniform(1 - self.noise, 1 + self.noise)

    def checkpoint(self, load: float, interval: float | None = None) -> float:
        """One at the Pacer's interval (or another), with `load` records a second; the interval from then on."""
        since = self.pacer.interval if interval is None else interval
        records = round(load * (since + self._last) * self._about())
        changes = round(min(records, self.factor * records**self.power * self._about()))
        self._last = (self.fixed + self.per_change * changes) * self._about()
        busy = records / self.capacity * self._about()
        self.pacer.observe(Observation(since, self._last, records, busy, changes, 60 * changes))
        return self.pacer.interval

    def run(self, load: float, checkpoints: int) -> list[float]:
        return [self.checkpoint(load) for _ in range(checkpoints)]


# -- the fit ----------------------------------------------------------------------------------------------------------


def _spread(world: World, load: float = 60_000.0) -> Measured:
    for interval in (0.3, 1.0, 3.0, 0.5, 2.0, 6.0, 0.3, 4.0, 1.0, 2.0) * 3:
        world.checkpoint(load, interval)
    return world.pacer.measured


def test_without_noise_the_model_is_the_world() -> None:
    measured = _spread(World(Pacer(Pace(), start=1.5)))
    assert measured.cost_fixed == pytest.approx(0.02, rel=0.05)
    assert measured.cost_per_change == pytest.approx(2e-5, rel=0.05)
    assert measured.changes_power == pytest.approx(0.6, abs=0.02)
    assert measured.arrival == pytest.approx(60_000, rel=0.01)
    assert measured.capacity == pytest.approx(200_000, rel=0.01)
    assert measured.bytes_per_change == pytest.approx(60)
    assert (measured.start, measured.count, len(measured.points)) == (1.5, 30, KEPT)


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_with_noise_it_predicts_within_a_fifth_where_it_was_measured(seed: int) -> None:
    measured = _spread(World(Pacer(Pace()), seed=seed, noise=0.1))
    for interval in (0.3, 1.0, 6.0):
        true = 0.02 + 2e-5 * 3 * (60_000 * interval) ** 0.6
        assert measured.cost(interval) == pytest.approx(true, rel=0.2)


def test_a_disk_that_hangs_once_is_not_what_a_checkpoint_costs() -> None:
    world = World(Pacer(Pace()), noise=0.1)
    before = _spread(world)
    world.pacer.observe(Observation(1.0, 5.0, 60_000, 0.3, 2_200))
    after = world.pacer.measured
    assert after.cost(1.0) == pytest.approx(before.cost(1.0), rel=0.15)


def test_costs_that_stay_high_are_believed() -> None:
    world = World(Pacer(Pace()), noise=0.1)
    _spread(world)
    world.fixed *= 5
    world.per_change *= 5
    assert _spread(world).cost(1.0) == pytest.approx(5 * (0.02 + 2e-5 * 3 * 60_000**0.6), rel=0.2)


def test_what_was_read_while_catching_up_is_not_what_arrives() -> None:
    """Three million records wait and 20,000 a second come: the worker reads 200,000 a second."""
    pacer = Pacer(Pace.of("5s"), start=1.0)
    for _ in range(10):
        pacer.observe(Observation(1.0, 0.03, 200_000, 0.97, 3_000, arrived=20_600))
    assert pacer.measured.arrival == pytest.approx(20_000, rel=0.01)
    assert pacer.warning == ""


def test_an_hour_without_records_does_not_hide_what_comes_after_it() -> None:
    world = World(Pacer(Pace.of("5s"), start=1.0))
    world.run(60_000, 10)
    world.pacer.observe(Observation(3600.0, 0.03, 10, 0.001, 10))
    world.run(60_000, 6)
    assert world.pacer.measured.arrival > 40_000


@given(
    st.lists(
        st.builds(
            Observation,
            since=st.floats(0, 1e4),
            seconds=st.floats(0, 100),
            records=st.integers(0, 10**9),
            busy=st.floats(0, 1e4),
            changes=st.integers(0, 10**9),
            bytes=st.integers(0, 10**12),
            arrived=st.none() | st.integers(0, 10**9),
        ),
        max_size=40,
    ),
    st.none() | st.floats(0.1, 120),
)
def test_any_observations_leave_a_usable_interval(seen: list[Observation], recovery: float | None) -> None:
    pacer = Pacer(Pace(recovery=recovery, freshness=None if recovery else 1.0))
    for one in seen:
        pacer.observe(one)
        assert SHORTEST <= pacer.interval <= LONGEST
    measured = pacer.measured
    for name in ("cost_fixed", "cost_per_change", "changes_factor", "arrival", "capacity"):
        assert getattr(measured, name) >= 0
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(measured), type=Measured) == measured


# -- the Pacer: hysteresis --------------------------------------------------------------------------------------------


def _changes(intervals: list[float]) -> int:
    return sum(one != other for one, other in pairwise(intervals))


@given(st.integers(0, 10**6), st.floats(0.02, 0.9), st.floats(1, 20), st.floats(0.1, 5))
@settings(max_examples=40, deadline=None)
def test_noise_of_ten_percent_never_makes_it_flap(seed: int, used: float, recovery: float, start: float) -> None:
    """Once settled it stays, or goes on one way: whatever is asked for and however much of the capacity is used.

    At the edge of what can be met it may make up its mind later than elsewhere, and then doubles step by step.
    """
    world = World(Pacer(Pace(recovery=recovery), start=start), seed=seed, noise=0.1)
    world.run(200_000 * used, SETTLED)
    seen = world.run(200_000 * used, 70)
    assert _reversals(seen) == 0, seen
    if used < 0.3 and recovery > 2 * start + 1:  # far from the edge
        assert _changes(seen) <= 1, seen


def _reversals(intervals: list[float]) -> int:
    steps = [other > one for one, other in pairwise(intervals) if one != other]
    return sum(one != other for one, other in pairwise(steps))


@given(st.integers(0, 10**6), st.floats(2, 5), st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_step_of_the_load_is_followed_within_25_checkpoints(seed: int, step: float, up: bool) -> None:
    """From 10 % of the capacity to 20 to 50 %, or back: the interval is then right for a load near the new one."""
    low, high = 20_000.0, 20_000.0 * step
    before, after = (low, high) if up else (high, low)
    world = World(Pacer(Pace.of("8s"), start=1.5), seed=seed, noise=0.1)
    world.run(before, 2 * SETTLED)
    old = world.pacer.interval
    new = world.run(after, 25)[-1]
    loads = [msgspec.structs.replace(world.pacer.measured, arrival=after * share) for share in (0.9, 1.0, 1.1)]
    wanted = [choose(world.pacer.pace, load).interval for load in loads]
    assert new != old
    assert min(wanted) / BAND <= new <= max(wanted) * BAND
    assert (new < old) == up


def test_two_odd_checkpoints_change_nothing_and_the_third_does() -> None:
    world = World(Pacer(Pace.of("5s"), start=1.5))
    steady = world.run(60_000, SETTLED)[-1]
    world.capacity = 70_000.0  # recovery now takes far longer
    world.pacer.observe(Observation(steady, 0.05, int(60_000 * steady), 1e6, 5_000))
    assert world.pacer.interval == steady
    world.pacer.observe(Observation(steady, 0.05, int(60_000 * steady), 1e6, 5_000))
    assert world.pacer.interval == steady
    world.pacer.observe(Observation(steady, 0.05, int(60_000 * steady), 1e6, 5_000))
    assert world.pacer.interval < steady / 1.2


@pytest.mark.parametrize(("spare", "grows"), [(1.02, False), (2.0, True)])
def test_at_the_edge_of_what_can_be_met_it_does_not_grow(spare: float, grows: bool) -> None:
    """A load 10 % higher would turn what just meets the recovery into what misses it."""
    trial = World(Pacer(Pace(), start=1.0))
    trial.fixed = 1.0
    known = msgspec.structs.replace(_spread(trial), count=0)  # so that it begins with one second, but knows its costs
    least = min(recovery_seconds(known, i / 10) for i in range(5, 100))
    world = World(Pacer(Pace(recovery=least * spare), start=1.0, measured=known))
    world.fixed = 1.0
    assert world.pacer.interval == 1.0
    seen = world.run(60_000, 10)
    wanted = choose(world.pacer.pace, world.pacer.measured)
    assert (wanted.reason, wanted.warning.count("cannot be met")) == ("recovery", 0)
    assert wanted.interval > BAND  # seconds; it began with one
    assert (seen[-1] > 1.0) == grows


def test_it_grows_by_two_times_at_most() -> None:
    world = World(Pacer(Pace.of("10m"), start=1.5))
    seen = [world.pacer.interval, *world.run(100, 60)]
    assert all(other <= one * GROWTH for one, other in pairwise(seen))
    assert seen[-1] > 30


def test_a_fixed_interval_is_measured_and_kept() -> None:
    world = World(Pacer(Pace.of(None, None, "30ms")))
    assert set(world.run(60_000, 20)) == {0.03}
    assert world.pacer.measured.count == 20
    assert "Checkpoints take" in world.pacer.warning


@pytest.mark.parametrize(
    ("pace", "first"),
    [
        (Pace(), 1.0),
        (Pace.of("5s"), 1.0),
        (Pace.of("500ms"), 0.25),
        (Pace.of(None, "200ms"), 0.2),
        (Pace.of("1ms"), 0.05),
    ],
)
def test_the_first_interval_before_anything_is_known(pace: Pace, first: float) -> None:
    assert Pacer(pace).interval == first


def test_a_worker_that_starts_again_goes_on_with_what_it_knew() -> None:
    world = World(Pacer(Pace.of("5s"), start=1.5))
    world.run(60_000, SETTLED)
    world.pacer.restored(500_000, 2.0)
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(world.pacer.measured), type=Measured)
    again = Pacer(Pace.of("5s"), start=1.5, measured=kept)
    assert again.interval == pytest.approx(world.pacer.interval, rel=0.35)
    assert again.measured.restore == 250_000
    slower = Pacer(Pace.of("5s"), start=3.0, measured=kept)
    assert slower.interval < again.interval
    assert slower.measured.start == 3.0


# -- due: the load jumps between two Checkpoints ----------------------------------------------------------------------


def _runs_until_due(pacer: Pacer, load: Callable[[float], float], step: float = 0.01) -> tuple[float, float]:
    """Seconds and records that are read until a Checkpoint is due."""
    seconds, records = 0.0, 0.0
    while not pacer.due(seconds, int(records)):
        seconds += step
        records += load(seconds) * step
    return seconds, records


def test_a_load_that_jumps_makes_a_checkpoint_come_before_the_interval_is_over() -> None:
    pacer = Pacer(Pace.of("5s"), start=1.0)
    world = World(pacer)
    world.run(1_000, 40)
    quiet, _ = _runs_until_due(pacer, lambda _: 1_000)
    assert quiet == pytest.approx(pacer.interval, abs=0.02)
    assert quiet > 20
    seconds, records = _runs_until_due(pacer, lambda _: 200_000)
    assert seconds < 5
    # Killed now, it reads them again in time:
    assert 1.0 + records / pacer.measured.catch_up_rate(pacer.interval) <= 5.0
    assert Pacer(Pace()).most_records == math.inf


@given(st.integers(0, 10**6), st.floats(0.02, 0.5))
@settings(max_examples=20, deadline=None)
def test_with_due_the_recovery_holds_within_the_band_of_the_hysteresis_too(seed: int, used: float) -> None:
    world = World(Pacer(Pace.of("10s"), start=1.0), seed=seed, noise=0.1)
    load = 200_000 * used
    world.run(load, SETTLED)
    for _ in range(20):
        seconds, _ = _runs_until_due(world.pacer, lambda _: load)
        assert recovery_seconds(world.pacer.measured, seconds) <= 10.0 * 1.1
        world.checkpoint(load, seconds)
