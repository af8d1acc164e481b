"""The interval between Checkpoints: durations, the model's fit, what is chosen, and hysteresis."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from itertools import pairwise

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from streamkit.errors import DefinitionError
from streamkit.interval import (
    BAND,
    DAY,
    GROWTH,
    KEPT,
    LONGEST,
    MOST_OVERHEAD,
    SHORTEST,
    Measured,
    Observation,
    Pace,
    Pacer,
    age,
    choose,
    daly,
    optimum,
    overhead,
    parse_duration,
    recovery_seconds,
    show_seconds,
    waste,
    young,
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


models = st.builds(
    Measured,
    cost_fixed=st.floats(0.001, 1),
    cost_per_change=st.floats(0, 1e-4),
    changes_factor=st.floats(0, 10),
    changes_power=st.floats(0, 1),
    arrival=st.floats(0, 100_000),
    capacity=st.floats(10_000, 1_000_000) | st.just(math.inf),
    start=st.floats(0, 30),
    interval=st.floats(SHORTEST, LONGEST),
)
intervals = st.floats(SHORTEST, LONGEST)
objectives = st.none() | st.floats(0.1, 120)


# -- durations and paces ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("1d", DAY), (" 1.5 s ", 1.5), (1.5, 1.5), (2, 2)],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-1s", "0s", "5 sec", "1e3s", "1.s", 0, -1, math.nan, math.inf, True, None]
)
def test_what_is_no_duration_is_refused_with_what_would_be(text: str | float) -> None:
    with pytest.raises(DefinitionError, match=r"is no duration: expected more than 0.*'500ms'") as raised:
        parse_duration(text)
    assert repr(text) in str(raised.value)


@given(st.floats(0.0005, 1e6))
def test_a_shown_duration_is_within_a_percent(seconds: float) -> None:
    number, unit = show_seconds(seconds).split(" ")
    of_unit = {"ms": 0.001, "s": 1, "min": 60, "h": 3600}[unit]
    assert float(number.replace(",", "")) * of_unit == pytest.approx(seconds, rel=0.01)


def test_nothing_asked_for_is_a_fixed_second() -> None:
    assert Pace() == Pace(fixed=1.0) == Pace.of(None, None, None)
    assert Pace.of("5s").fixed is None
    assert Pace.of("5s", "500ms") == Pace(recovery=5.0, freshness=0.5)


def test_a_pace_comes_back_from_its_bytes() -> None:
    for pace in (Pace(), Pace.of("5s"), Pace.of(None, "1s"), Pace.of(None, None, "10ms")):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(pace), type=Pace) == pace


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((5, None, 1), "fixed checkpoint interval .1 s. leaves nothing to adapt to recovery: give one or the other"),
        ((5, 1, 1), "recovery and freshness"),
        ((None, 0.01, None), "freshness is 10 ms, expected 50 ms or more"),
        ((-5, None, None), "is no duration"),
    ],
)
def test_paces_that_contradict_themselves(asked: tuple[float | None, ...], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        Pace(*asked)


# -- formulas ---------------------------------------------------------------------------------------------------------


def test_the_formulas_of_young_and_daly() -> None:
    assert young(50, 10_000) == 1000
    assert daly(50, 10_000) == pytest.approx(1000 * (1 + 0.05 / 3 + 0.0025 / 9) - 50)
    assert daly(300, 100) == 100  # beyond two times the mtbf: Daly's second branch


@given(st.floats(1e-4, 100), st.floats(1e3, 1e8))
def test_dalys_interval_wastes_the_least_by_his_own_model(cost: float, mtbf: float) -> None:
    """The expected time to a result, Daly 2006, equation 13: exp(R / M) (exp((t + d) / M) - 1) / t, by his order."""
    assume(cost < mtbf / 10)

    def expected(interval: float) -> float:
        return math.expm1((interval + cost) / mtbf) / interval

    best = daly(cost, mtbf)
    assert expected(best) <= min(expected(best * 0.8), expected(best * 1.25))


@given(models)
def test_the_optimum_wastes_the_least(measured: Measured) -> None:
    best = optimum(measured)
    around = [waste(measured, i) for i in (best * 0.7, best * 1.4) if SHORTEST <= i <= LONGEST]
    assert all(waste(measured, best) <= other * 1.001 for other in around)


@given(models, intervals, intervals)
def test_overhead_falls_and_age_grows_with_the_interval(measured: Measured, one: float, other: float) -> None:
    short, long = sorted((one, other))
    assert 0 <= overhead(measured, long) <= overhead(measured, short) * (1 + 1e-9) < 1
    assert age(measured, short) <= age(measured, long)


@given(models, intervals)
def test_recovery_is_what_the_worst_crash_takes_in_a_simulation(measured: Measured, interval: float) -> None:
    """Killed at the end of a Checkpoint, just before it is durable; then reading and Checkpoints by turns."""
    assume(measured.arrival > 1 and math.isfinite(measured.capacity))
    expected = recovery_seconds(measured, interval)
    pause = interval * measured.capacity / measured.catch_up_rate(interval) - interval
    assume(expected < 1_000 * interval or expected == math.inf)
    time = measured.start
    waiting = measured.arrival * (measured.cost(interval) + interval + measured.cost(interval) + measured.start)
    began = waiting
    for _ in range(2_000):
        spare = measured.capacity - measured.arrival
        if waiting <= spare * interval:
            time += waiting / spare
            break
        time += interval + pause
        waiting += measured.arrival * pause - spare * interval
    else:
        time = math.inf
    if expected == math.inf:
        assert time == math.inf or began <= measured.capacity * interval
    else:  # the formula spreads the pauses evenly, the simulation has none after its last, partial interval
        last = interval * (measured.capacity - measured.arrival) / (measured.catch_up_rate(interval) - measured.arrival)
        assert time <= expected * 1.001 <= time + last + 0.01


@given(models, intervals, st.floats(0.1, 1))
def test_less_load_or_a_faster_start_never_recovers_slower(measured: Measured, interval: float, share: float) -> None:
    lighter = msgspec.structs.replace(measured, arrival=measured.arrival * share)
    faster = msgspec.structs.replace(measured, start=measured.start * share)
    for better in (lighter, faster):
        assert recovery_seconds(better, interval) <= recovery_seconds(measured, interval) * (1 + 1e-9)


# -- the choice -------------------------------------------------------------------------------------------------------


@given(models, objectives, objectives)
def test_the_choice_keeps_what_it_promises_or_says_so(
    measured: Measured, recovery: float | None, freshness: float | None
) -> None:
    assume(recovery is not None or freshness is not None)
    choice = choose(Pace(recovery, freshness), measured)
    assert SHORTEST <= choice.interval <= LONGEST
    assert choice.interval <= optimum(measured) * 1.001 or choice.reason in ("overhead", "recovery")
    if recovery is not None and recovery_seconds(measured, choice.interval) > recovery:
        assert "cannot be met" in choice.warning
    if freshness is not None and age(measured, choice.interval) > freshness:
        assert "freshness" in choice.warning
    if overhead(measured, choice.interval) > MOST_OVERHEAD * 1.01:
        assert "of the time" in choice.warning


@given(models, st.floats(0.1, 120))
def test_the_longest_interval_that_recovers_in_time_is_found(measured: Measured, recovery: float) -> None:
    choice = choose(Pace(recovery=recovery), measured)
    can = [i for i in (0.06, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0) if recovery_seconds(measured, i) <= recovery]
    if can:
        assert choice.interval >= min(max(can), optimum(measured)) * 0.999
        assert choice.reason != "recovery" or recovery_seconds(measured, choice.interval) <= recovery


def test_recovery_may_cost_more_than_a_fifth_and_freshness_may_not() -> None:
    expensive = Measured(cost_fixed=0.5, arrival=90_000, capacity=200_000, start=1.0)
    floor = choose(Pace(freshness=0.2), expensive)
    assert floor.reason == "overhead"
    assert floor.interval == pytest.approx(2.0, rel=0.01)  # 0.5 / 2.5 is a fifth
    assert "freshness of 200 ms missed: 2.5 s with a Checkpoint every 2 s" in floor.warning
    lighter = msgspec.structs.replace(expensive, arrival=30_000)
    forced = choose(Pace(recovery=1.9), lighter)
    assert forced.reason == "recovery"
    assert forced.interval < 1.9
    assert recovery_seconds(lighter, forced.interval) <= 1.9
    assert "Checkpoints take 2" in forced.warning
    assert "cannot be met" not in forced.warning


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (Measured(arrival=200.0, capacity=100.0, start=1.0, cost_fixed=0.01), "never .* start another worker"),
        (Measured(arrival=10.0, capacity=100.0, start=9.0, cost_fixed=0.01), ".* 10 records/s arrive.*standbys"),
        (
            Measured(arrival=90.0, capacity=100.0, start=2.0, cost_fixed=0.01),
            ".*another worker, or ask for a longer recovery",
        ),
    ],
)
def test_what_cannot_be_met_is_said_with_numbers_and_the_way_out(measured: Measured, said: str) -> None:
    choice = choose(Pace(recovery=5.0), measured)
    assert overhead(measured, choice.interval) <= MOST_OVERHEAD * 1.01  # more of it would be of no use
    assert re.match(f"recovery in 5 s cannot be met: {said}", choice.warning)


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
    objectives,
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
