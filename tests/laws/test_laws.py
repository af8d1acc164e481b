"""The laws have teeth: wrong Aggregates, each wrong in one way, are caught, and new ones are found without a list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import pytest

from streamkit.aggregate import Aggregate, Row
from streamkit.testing.laws import check_laws, every_aggregate
from streamkit.total import Sum


class Wrong(Aggregate[Any, Any]):
    """What the wrong ones share. They are made in functions, or `every_aggregate` would take them for right ones."""

    field = "number"

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def add(self, state: Any, row: Row) -> Any:
        value = row[self.field]
        return state if value is None else self.merge(state, self.one(value))

    def one(self, value: Any) -> Any:
        return value

    def result(self, state: Any) -> Any:
        return state


def mean_of_means() -> Wrong:
    @dataclass(frozen=True)
    class MeanOfMeans(Wrong):
        def zero(self) -> Any:
            return None

        def merge(self, left: Any, right: Any) -> Any:
            return right if left is None else left if right is None else (left + right) / 2

    return MeanOfMeans()


def truncated_top() -> Wrong:
    @dataclass(frozen=True)
    class TruncatedTop(Wrong):
        def zero(self) -> dict[Any, int]:
            return {}

        def one(self, value: Any) -> Any:
            return {value: 1}

        def merge(self, left: Mapping[Any, int], right: Mapping[Any, int]) -> Any:
            counts = {v: left.get(v, 0) + right.get(v, 0) for v in {*left, *right}}
            return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:2])

        def dump(self, state: Any) -> Any:
            return list(state.items())

        def load(self, dumped: Any) -> Any:
            return dict(dumped)

    return TruncatedTop()


def changing() -> Wrong:
    @dataclass(frozen=True)
    class Changing(Wrong):
        def zero(self) -> list[Any]:
            return []

        def one(self, value: Any) -> Any:
            return [value]

        def merge(self, left: list[Any], right: list[Any]) -> Any:
            left += right
            left.sort()
            return left

    return Changing()


def float_sum() -> Wrong:
    @dataclass(frozen=True)
    class FloatSum(Wrong):
        field = "ratio"

        def zero(self) -> float:
            return 0.0

        def merge(self, left: float, right: float) -> float:
            return left + right

    return FloatSum()


def wrong_columns() -> Sum:
    @dataclass(frozen=True)
    class WrongColumns(Sum):
        def partial(self) -> pl.Expr:
            return pl.col(self.field).sum()  # wraps at 64 bits

        def combine(self, partials: pl.Expr) -> None:
            del partials

    return WrongColumns("number")


def wrong_bytes(clamp: bool) -> Sum:
    @dataclass(frozen=True)
    class WrongBytes(Sum):
        def dump(self, state: int) -> int:
            return min(state, 2**63 - 1) if clamp else state

    return WrongBytes("number")


@pytest.mark.parametrize(
    ("make", "law"),
    [
        (mean_of_means, "associative|any split"),
        (truncated_top, "associative|any split|identity"),
        (changing, "changed its arguments|commutative|associative|identity"),
        (float_sum, "associative|any split"),
        (wrong_columns, "the columns say what the rows say"),
        (lambda: wrong_bytes(clamp=True), "load.dump.state.. is the state|msgpack's own types"),
        (lambda: wrong_bytes(clamp=False), "msgpack's own types"),
    ],
)
def test_a_wrong_aggregate_is_caught(make: Callable[[], Aggregate[Any, Any]], law: str) -> None:
    with pytest.raises(AssertionError, match=law):
        check_laws(make(), examples=1000)


def test_a_new_aggregate_is_found_without_being_listed() -> None:
    found = mean_of_means()
    assert type(found) in map(type, every_aggregate())


def test_a_users_aggregate_is_checked_on_its_own_fields() -> None:
    check_laws(Sum("cents").bind({"cents": int}), types={"cents": int, "tags": list}, examples=10)
