"""Every Aggregate keeps the laws, exact ones are exact, and sketches stay within their bounds."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamkit.aggregate import OFFSET, PARTITION, TIME, Aggregate, Count, First, Last, Max, Min, Row
from streamkit.errors import DefinitionError
from streamkit.sketch import Distinct, Quantiles
from streamkit.testing.laws import TYPES, check_laws, every_aggregate
from streamkit.top import Largest, Top
from streamkit.total import Mean, Sum, Variance

EVERY = every_aggregate()


@pytest.mark.parametrize("aggregate", EVERY, ids=repr)
def test_keeps_the_laws(aggregate: Aggregate[Any, Any]) -> None:
    check_laws(aggregate)


def test_every_aggregate_is_found_for_every_type_it_accepts() -> None:
    built_in = Counter(type(a).__name__ for a in EVERY if type(a).__module__.startswith("streamkit."))
    assert built_in == {
        "Count": 7, "Sum": 3, "Mean": 3, "Variance": 3, "Min": 6, "Max": 6, "First": 6, "Last": 6,
        "Top": 7, "Largest": 12, "Distinct": 6, "Quantiles": 3,
    }  # fmt: skip


def columnar(aggregate: Aggregate[Any, Any], values: Any, field: str = "x") -> Any:
    """The result by the columnar path, over one group."""
    frame = pl.DataFrame({"group": pl.repeat(0, len(values), eager=True), field: values})
    (partial,) = frame.group_by("group").agg(aggregate.partial().alias("partial"))["partial"].to_list()
    return aggregate.result(aggregate.state(partial))


def both(aggregate: Aggregate[Any, Any], values: list[Any]) -> Any:
    """The result, which rows and columns must agree on."""
    by_rows, by_columns = aggregate.result(aggregate.fold([{"x": v} for v in values])), columnar(aggregate, values)
    assert by_rows == by_columns or (by_rows != by_rows and by_columns != by_columns)
    return by_rows


# -- exact ----------------------------------------------------------------------------------------------------------


def test_float_sums_lose_nothing() -> None:
    floats = Sum("x", kind="float")
    assert both(floats, [1e16, 1.0, -1e16]) == 1.0
    assert both(floats, [1e308, 1e308, -1e308]) == 1e308  # beyond the largest float on the way
    assert both(floats, [1e308, 1e308]) == math.inf
    assert both(floats, [5e-324, 1e300, -1e300]) == 5e-324
    assert both(floats, [0.1] * 10) == 1.0
    assert both(floats, [None, None]) == 0.0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([math.inf, 1.0], math.inf),
        ([-math.inf, 1.0], -math.inf),
        ([math.inf, -math.inf], math.nan),
        ([math.nan, math.inf], math.nan),
    ],
)
def test_special_floats_sum_as_in_ieee_754(values: list[float], expected: float) -> None:
    for aggregate in (Sum("x", kind="float"), Mean("x", kind="float")):
        found = both(aggregate, values)
        assert found == expected or (math.isnan(found) and math.isnan(expected))
    assert math.isnan(both(Variance("x", kind="float"), values))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_float_results_are_the_exact_ones_rounded_once(values: list[float]) -> None:
    def nearest(exact: Fraction) -> float:
        try:
            return float(exact)
        except OverflowError:
            return math.inf if exact > 0 else -math.inf

    exact = [Fraction(v) for v in values]
    mean = sum(exact, Fraction()) / len(exact)
    assert both(Sum("x", kind="float"), values) == nearest(mean * len(exact))
    assert both(Mean("x", kind="float"), values) == nearest(mean)
    variance = sum(((v - mean) ** 2 for v in exact), Fraction()) / len(exact)
    assert both(Variance("x", kind="float"), values) == nearest(variance)


def test_int_sums_never_wrap() -> None:
    assert both(Sum("x"), [2**63 - 1] * 1000) == 1000 * (2**63 - 1)
    assert both(Variance("x"), [-(2**63), 2**63 - 1]) == float(Fraction(2**64 - 1, 2) ** 2)
    state = Sum("x").fold([{"x": 2**63 - 1}] * 4)
    assert Sum("x").load(msgspec.msgpack.decode(msgspec.msgpack.encode(Sum("x").dump(state)))) == state


def test_variance_does_not_cancel() -> None:
    """The textbook's `E[x^2] - E[x]^2` in floats gives 0 or less here."""
    values = [1e9 + v for v in (4.0, 7.0, 13.0, 16.0)]
    assert both(Variance("x", kind="float"), values) == 22.5
    assert both(Variance("x", kind="float", ddof=1), values) == 30.0
    assert both(Variance("x", kind="float", ddof=1), [1.0]) is None
    assert both(Variance("x", kind="float"), [0.1, 0.2, 0.4]) == statistics.pvariance([0.1, 0.2, 0.4])


def test_decimals_are_exact_and_columns_hold_their_text() -> None:
    values = [Decimal("0.10"), Decimal("1E+30"), Decimal("-1E+30"), Decimal("0.2")]
    total = Sum("x", kind="Decimal")
    assert total.result(total.fold([{"x": v} for v in values])) == Decimal("0.3")
    assert str(columnar(total, [str(v) for v in values])) == "0.3"
    assert str(columnar(total, ["100", "200"])) == "300"
    assert columnar(Mean("x", kind="Decimal"), ["1", "1", "0"]) == Decimal("0.6666666666666666666666666667")
    assert columnar(Max("x", kind="Decimal"), ["9", "10", "1E+1"]) == 10
    assert columnar(total, ["1E+999999999"]).is_nan()


def test_nothing_of_nothing() -> None:
    assert both(Sum("x"), [None]) == 0
    assert both(Mean("x"), [None]) is both(Min("x", kind="int"), [None]) is None
    assert both(Variance("x", ddof=1), [5]) is None
    assert both(Top(2, "x", kind="int"), [None]) == both(Largest(2, "x", kind="int"), [None]) == []
    assert both(Distinct("x", kind="int"), [None]) == 0
    assert both(Quantiles("x", at=(0.5,), kind="int"), [None]) == {"0.5": None}


def test_nan_is_no_value_to_whatever_orders_values() -> None:
    values = [math.nan, 2.0, math.nan, 1.0]
    assert both(Min("x", kind="float"), values) == 1.0
    assert both(Max("x", kind="float"), values) == 2.0
    assert both(Max("x", kind="float"), [math.nan]) is None
    assert both(Largest(3, "x", kind="float"), values) == [2.0, 1.0]
    assert both(Distinct("x", kind="float"), values) == 2
    assert both(Count("x"), values) == 4


def test_first_and_last_are_by_event_time_then_partition_then_offset() -> None:
    places = [(5, 0, 9, "late"), (3, 1, 0, "b"), (3, 0, 7, "a"), (3, 0, 2, None), (9, 1, 1, "y"), (9, 1, 4, "z")]
    rows: list[Row] = [dict(zip((TIME, PARTITION, OFFSET, "x"), place, strict=True)) for place in places]
    first, last = First("x", kind="str"), Last("x", kind="str")
    assert (first.result(first.fold(rows)), last.result(last.fold(rows))) == ("a", "z")


# -- top and largest ------------------------------------------------------------------------------------------------


def test_top_is_by_count_then_value() -> None:
    assert both(Top(2, "x", kind="str"), [*"cabbac", "d"]) == [("a", 2), ("b", 2)]
    weighted = Top(2, "x", "w", kind="str")
    rows: list[Row] = [{"x": "a", "w": 1}, {"x": "b", "w": 5}, {"x": "a", "w": 3}, {"x": "c", "w": None}]
    assert weighted.result(weighted.fold(rows)) == [("b", 5), ("a", 4)]


def test_top_finds_what_is_the_best_of_no_part() -> None:
    """The counterexample of its docstring."""
    top = Top(1, "x", kind="str")
    parts = [top.fold([{"x": v} for v in values]) for values in ("aab", "ccb", "b")]
    assert [top.result(part) for part in parts] == [[("a", 2)], [("c", 2)], [("b", 1)]]
    a, b, c = parts
    assert top.result(top.merge(top.merge(a, b), c)) == [("b", 3)]


def test_largest_keeps_equal_ones_and_breaks_ties_by_the_other_field() -> None:
    assert both(Largest(3, "x", kind="int"), [5, 9, 9, 1]) == [9, 9, 5]
    pairs = Largest(2, "x", of="y", kind="int", kind_beside="str")
    rows: list[Row] = [{"x": 9, "y": None}, {"x": 9, "y": "a"}, {"x": 9, "y": "b"}]
    assert pairs.result(pairs.fold(rows)) == [(9, "b"), (9, "a")]


# -- sketches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lg_k", [5, 12])
@pytest.mark.parametrize("distinct", [1, 31, 32, 33, 64, 4096, 4097, 5000, 50_000])
def test_distinct_is_the_same_bytes_for_any_split(lg_k: int, distinct: int) -> None:
    sketch = Distinct("x", lg_k=lg_k, kind="int")
    rng = np.random.default_rng(distinct)
    values = rng.permutation(np.repeat(np.arange(distinct), 2))
    whole = sketch.state(values.tolist())
    for parts in (2, 7):
        merged = sketch.zero()
        for part in np.array_split(rng.permutation(values), parts):
            merged = sketch.merge(merged, sketch.state(part.tolist()))
        assert merged == whole
    assert sketch.merge(whole, whole) == whole == sketch.merge(whole, sketch.state(values[:1].tolist()))


@pytest.mark.parametrize("distinct", [100, 4000, 100_000])
def test_distinct_stays_within_its_bounds(distinct: int) -> None:
    sketch = Distinct("x", kind="str")
    state = sketch.state([f"user{i}" for i in range(distinct)])
    bounds = sketch.bounds(state)
    assert bounds["lower"] <= distinct <= bounds["upper"]
    assert bounds["lower"] <= sketch.result(state) <= bounds["upper"]
    assert bounds["upper"] - bounds["lower"] <= 0.07 * distinct
    assert (sketch.result(state) == distinct) or distinct > 4096


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("str", ["", "\0", "a"]),
        ("bytes", [b"", b"\0", b"\xff"]),
        ("int", [2**63 - 1, 2**63, 2**64, -(2**70)]),
        ("float", [0.0, 1.5, math.inf]),
        ("bool", [True, False]),
        ("Decimal", [Decimal("1.0"), Decimal("2")]),
    ],
)
def test_distinct_tells_values_apart(kind: str, values: list[Any]) -> None:
    for sketch in (Distinct("x", kind=kind), Distinct("x")):
        assert sketch.result(sketch.fold([{"x": v} for v in [*values, *values]])) == len(values)


def test_distinct_knows_equal_decimals() -> None:
    sketch = Distinct("x", kind="Decimal")
    assert sketch.result(sketch.state(["1.0", "1.00", "1"])) == 1


@pytest.mark.parametrize("size", [50, 199, 20_000])
def test_quantiles_stay_within_their_bounds(size: int) -> None:
    sketch = Quantiles("x", at=(0.0, 0.5, 0.99, 1.0), kind="float")
    values = np.random.default_rng(size).normal(size=size)
    state = sketch.zero()
    for part in np.array_split(values, 10):
        state = sketch.merge(state, sketch.state(part.tolist()))
    error = sketch.bounds(state)["rank_error"]
    assert (error == 0) == (size < 200)
    for q, found in sketch.result(state).items():
        assert found is not None
        at_most = np.count_nonzero(values <= found) / size
        assert float(q) - 3 * error <= at_most <= float(q) + 3 * error + 1 / size


def test_few_quantiles_are_the_least_value_with_that_share_at_or_below_it() -> None:
    quantiles = Quantiles("x", at=(0.0, 0.25, 0.5, 0.51, 1.0), kind="int")
    assert both(quantiles, [4, 2, 3, 1]) == {"0.0": 1, "0.25": 1, "0.5": 2, "0.51": 3, "1.0": 4}


def test_quantiles_agree_with_another_order_and_with_no_other_values() -> None:
    sketch = Quantiles("x", kind="float")
    values = np.random.default_rng(1).normal(size=20_000)
    one, other = sketch.state(values.tolist()), sketch.state(values[::-1].tolist())
    assert sketch.agree(one, other)
    assert not sketch.agree(one, sketch.state((values + 0.5).tolist()))
    assert not sketch.agree(one, sketch.state(values[1:].tolist()))


# -- definitions ----------------------------------------------------------------------------------------------------


def test_a_field_of_another_type_is_refused_with_the_way_out() -> None:
    message = r"Sum\('name'\): field 'name' is str, expected int, float or Decimal; use Top or Distinct for text"
    with pytest.raises(DefinitionError, match=message):
        Sum("name").bind(TYPES)
    with pytest.raises(DefinitionError, match="there is no field 'prise'; the fields are flag, number"):
        Max("prise").bind(TYPES)
    with pytest.raises(DefinitionError, match="field 'ratio' is float, expected int"):
        Top(1, "name", weight="ratio").bind(TYPES)
    with pytest.raises(DefinitionError, match="list"):
        Min("tags").bind({"tags": list[str]})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Top(0, "name"),
        lambda: Largest(-1, "name"),
        lambda: Largest(1, "name", of="name"),
        lambda: Distinct("name", lg_k=40),
        lambda: Quantiles("number", at=(1.5,)),
        lambda: Quantiles("number", k=1),
        lambda: Variance("number", ddof=-1),
    ],
)
def test_parameters_without_sense_are_refused(make: Any) -> None:
    with pytest.raises(DefinitionError, match=r"expected|whole number"):
        make()
