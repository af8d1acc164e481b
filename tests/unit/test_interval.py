"""The interval between Checkpoints: durations, formulas, and what is chosen."""

from __future__ import annotations

import math
import re

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streamkit.errors import DefinitionError
from streamkit.interval import (
    DAY,
    LONGEST,
    MOST_OVERHEAD,
    SHORTEST,
    Measured,
    Pace,
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


@given(models, st.floats(30, DAY))
def test_the_optimum_wastes_the_least(measured: Measured, mtbf: float) -> None:
    assume(measured.cost(LONGEST) < mtbf / 20)  # Young's and Daly's waste is that for costs small beside the mtbf
    best = optimum(measured, mtbf)
    around = [waste(measured, i, mtbf) for i in (best * 0.7, best * 1.4) if SHORTEST <= i <= LONGEST]
    assert all(waste(measured, best, mtbf) <= other * 1.001 for other in around)


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
