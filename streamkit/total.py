"""Sum, Mean, Variance: exact for int, float and Decimal, rounded once, when the result is read."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import polars as pl

from streamkit.aggregate import FieldAggregate, Row
from streamkit.errors import DefinitionError
from streamkit.kind import NUMBERS
from streamkit.number import NUMBER, Number


class _Total(FieldAggregate):
    """What they share: the kind of number is known, `int` unless `bind` finds another."""

    accepts: ClassVar[tuple[str, ...]] = NUMBERS
    hint: ClassVar[str] = "use Top or Distinct for text, Count with `where` for a bool"

    @property
    def number(self) -> Number:
        return NUMBER[self.kind]


@dataclass(frozen=True)
class Sum(_Total):
    """The exact sum of a field; of no values: 0. Infinities and NaN give what IEEE 754 gives for them.

    >>> total = Sum("x", kind="float")
    >>> total.result(total.fold([{"x": 1e16}, {"x": 1.0}, {"x": -1e16}]))
    1.0
    """

    field: str
    _: KW_ONLY
    kind: str = "int"

    def zero(self) -> Any:
        return self.number.zero

    def add(self, state: Any, row: Row) -> Any:
        value = row[self.field]
        return state if value is None else self.number.add(state, self.number.read(value))

    def merge(self, left: Any, right: Any) -> Any:
        return self.number.add(left, right)

    def result(self, state: Any) -> Any:
        return self.number.sum(state)

    def partial(self) -> pl.Expr:
        return self.number.column(self.field)

    def state(self, partial: Any) -> Any:
        return self.number.total(partial)

    def combine(self, partials: pl.Expr) -> pl.Expr | None:
        return partials.sum() if self.kind == "int" else None

    def dumped(self, partials: pl.Expr) -> pl.Expr | None:
        return partials.cast(pl.Int64) if self.kind == "int" else None

    def dump(self, state: Any) -> Any:
        return self.number.dump(state)

    def load(self, dumped: Any) -> Any:
        return self.number.load(dumped)


@dataclass(frozen=True)
class Mean(_Total):
    """The mean of a field, its exact sum divided once: a float, or a Decimal of 28 digits; of no values: None.

    >>> Mean("x").result(Mean("x").fold([{"x": 1}, {"x": 2}]))
    1.5
    """

    field: str
    _: KW_ONLY
    kind: str = "int"

    def zero(self) -> tuple[int, Any]:
        return 0, self.number.zero

    def add(self, state: tuple[int, Any], row: Row) -> tuple[int, Any]:
        value = row[self.field]
        return state if value is None else self.merge(state, (1, self.number.read(value)))

    def merge(self, left: tuple[int, Any], right: tuple[int, Any]) -> tuple[int, Any]:
        return left[0] + right[0], self.number.add(left[1], right[1])

    def result(self, state: tuple[int, Any]) -> Any:
        count, total = state
        if not count:
            return None
        special = self.number.special(total)
        return self.number.round(self.number.fraction(total) / count) if special is None else special

    def partial(self) -> pl.Expr:
        return pl.struct(pl.col(self.field).count().alias("count"), self.number.column(self.field).alias("total"))

    def state(self, partial: Any) -> tuple[int, Any]:
        return partial["count"], self.number.total(partial["total"])

    def dump(self, state: tuple[int, Any]) -> Any:
        return [state[0], self.number.dump(state[1])]

    def load(self, dumped: Any) -> tuple[int, Any]:
        return dumped[0], self.number.load(dumped[1])


@dataclass(frozen=True)
class Variance(_Total):
    """The variance of a field, from exact sums of `x` and `x*x`, so nothing cancels; `ddof=1` for that of a sample.

    None of `ddof` values or fewer; NaN where an infinity or NaN is among them.

    >>> Variance("x").result(Variance("x").fold([{"x": 10**9 + 1}, {"x": 10**9 + 3}]))
    1.0
    """

    field: str
    _: KW_ONLY
    ddof: int = 0
    kind: str = "int"

    def __post_init__(self) -> None:
        if self.ddof < 0:
            raise DefinitionError(
                f"Variance({self.field!r}): ddof is {self.ddof}, expected 0 (population) or 1 (sample)"
            )

    def zero(self) -> tuple[int, Any, Any]:
        return 0, self.number.zero, self.number.zero

    def add(self, state: tuple[int, Any, Any], row: Row) -> tuple[int, Any, Any]:
        value = row[self.field]
        if value is None:
            return state
        total = self.number.read(value)
        return self.merge(state, (1, total, self.number.square(total)))

    def merge(self, left: tuple[int, Any, Any], right: tuple[int, Any, Any]) -> tuple[int, Any, Any]:
        add = self.number.add
        return left[0] + right[0], add(left[1], right[1]), add(left[2], right[2])

    def result(self, state: tuple[int, Any, Any]) -> Any:
        count, total, squares = state
        if count <= self.ddof:
            return None
        if self.number.special(total) is not None:
            return self.number.nan
        sum_, sum_of_squares = self.number.fraction(total), self.number.fraction(squares)
        return self.number.round((sum_of_squares - sum_ * sum_ / count) / (count - self.ddof))

    def partial(self) -> pl.Expr:
        return pl.struct(
            self.number.column(self.field).alias("total"), pl.col(self.field).drop_nulls().implode().alias("values")
        )

    def state(self, partial: Any) -> tuple[int, Any, Any]:
        values = partial["values"]
        return len(values), self.number.total(partial["total"]), self.number.squares(values)

    def dump(self, state: tuple[int, Any, Any]) -> Any:
        return [state[0], self.number.dump(state[1]), self.number.dump(state[2])]

    def load(self, dumped: Any) -> tuple[int, Any, Any]:
        return dumped[0], self.number.load(dumped[1]), self.number.load(dumped[2])
