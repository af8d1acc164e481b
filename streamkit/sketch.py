"""Distinct and Quantiles: sketches, whose states stay small whatever they have seen and whose errors have bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import datasketches
import numpy as np
import polars as pl

from streamkit.aggregate import FieldAggregate, Row
from streamkit.errors import DefinitionError
from streamkit.kind import NUMBERS
from streamkit.number import NUMBER

_EMPTY_TEXT = "\x00the empty text"


@dataclass(frozen=True)
class Distinct(FieldAggregate):
    """How many different values a field has: exact up to `2**lg_k`, then within about `2 / sqrt(2**lg_k)` (3 %).

    >>> users = Distinct("user")
    >>> users.result(users.fold([{"user": "u1"}, {"user": "u2"}, {"user": "u1"}]))
    2

    A theta sketch (Dasgupta, Lang, Rhodes, Thaler 2016; Apache DataSketches). The state is its compact form with the
    `2**lg_k` least hashes, in order: a function of the set of values alone, so it is the same bytes for any split.
    `bounds` holds with a confidence of 95 % (two standard deviations). NaN is skipped.
    """

    approximate: ClassVar[bool] = True

    field: str
    lg_k: int = 12
    _: KW_ONLY
    kind: str = ""

    def __post_init__(self) -> None:
        if not 5 <= self.lg_k <= 26:
            raise DefinitionError(f"Distinct({self.field!r}): lg_k is {self.lg_k}, expected 5 to 26 (12 errs by 3 %)")

    def zero(self) -> bytes:
        return b""

    def add(self, state: bytes, row: Row) -> bytes:
        return self.merge(state, self.state((row[self.field],)))

    def merge(self, left: bytes, right: bytes) -> bytes:
        if not left or not right or left == right:
            return left or right
        union = datasketches.theta_union(self.lg_k)
        union.update(datasketches.compact_theta_sketch.deserialize(left))
        union.update(datasketches.compact_theta_sketch.deserialize(right))
        return union.get_result(True).serialize()  # type: ignore[no-any-return]

    def result(self, state: bytes) -> int:
        return round(datasketches.compact_theta_sketch.deserialize(state).get_estimate()) if state else 0

    def partial(self) -> pl.Expr:
        return pl.col(self.field).drop_nulls().unique().implode()

    def state(self, partial: Iterable[Any]) -> bytes:
        sketch = datasketches.update_theta_sketch(self.lg_k)
        update = sketch.update
        for value in self._hashable(partial):
            update(value)
        if sketch.is_empty():
            return b""
        sketch.trim()  # what a union does: without it the state would depend on how the rows were split
        return sketch.compact(True).serialize()  # type: ignore[no-any-return]

    def _hashable(self, values: Iterable[Any]) -> Iterable[Any]:
        """The values as the sketch takes them: it ignores the empty text, and knows ints of 64 bits and no bytes."""
        values = [v for value in values if value is not None and (v := self.of_kind.read(value)) is not None]
        convert = _HASHABLE.get(self.kind, _hashable)
        return values if convert is None else map(convert, values)

    def bounds(self, state: bytes) -> Mapping[str, Any]:
        if not state:
            return {"lower": 0, "upper": 0, "confidence": 0.95}
        sketch = datasketches.compact_theta_sketch.deserialize(state)
        lower, upper = sketch.get_lower_bound(2), sketch.get_upper_bound(2)
        return {"lower": int(lower), "upper": -int(-upper // 1), "confidence": 0.95}


def _hashable_text(value: str) -> str:
    return value or _EMPTY_TEXT


def _hashable_int(value: int) -> int | str:
    return value if -(2**63) <= value < 2**63 else str(value)


def _hashable_bytes(value: bytes) -> str:
    return _hashable_text(value.decode("latin-1"))


def _hashable_decimal(value: Any) -> str:
    return repr(NUMBER["Decimal"].read(value))  # 1.0 and 1.00 are one value


def _hashable(value: Any) -> Any:
    convert = _HASHABLE.get(type(value).__name__)
    return value if convert is None else convert(value)


_HASHABLE: Mapping[str, Callable[[Any], Any] | None] = {
    "bool": None,
    "int": _hashable_int,
    "float": None,
    "str": _hashable_text,
    "bytes": _hashable_bytes,
    "Decimal": _hashable_decimal,
    "datetime": None,
    "UUID": None,
    "Enum": _hashable_text,
}


@dataclass(frozen=True)
class Quantiles(FieldAggregate):
    """Quantiles of a number field, as floats: `{"0.5": median, ...}`, None of no values. NaN is skipped.

    >>> prices = Quantiles("price", at=(0.5, 1.0))
    >>> prices.result(prices.fold([{"price": 3}, {"price": 1}, {"price": 2}]))
    {'0.5': 2.0, '1.0': 3.0}

    The quantile at q is the least value with at least the share q of all values at or below it. A KLL sketch (Karnin,
    Lang, Liberty 2016; Apache DataSketches): exact for fewer than `k` values, then the *rank* of what it says is off by
    at most `bounds`' `rank_error` (1.33 % for k = 200) in 99 % of cases. It throws coins, so it is not deterministic.
    """

    approximate: ClassVar[bool] = True
    deterministic: ClassVar[bool] = False
    accepts: ClassVar[tuple[str, ...]] = NUMBERS

    field: str
    at: Sequence[float] = (0.5, 0.9, 0.99)
    k: int = 200
    _: KW_ONLY
    kind: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", tuple(self.at))  # hashable, and the same definition for a list
        if not self.at or not all(0 <= q <= 1 for q in self.at):
            raise DefinitionError(f"Quantiles({self.field!r}): at is {self.at!r}, expected shares between 0 and 1")
        if not 8 <= self.k <= 65535:
            raise DefinitionError(f"Quantiles({self.field!r}): k is {self.k}, expected 8 to 65535 (200 errs by 1.33 %)")

    def zero(self) -> bytes:
        return b""

    def add(self, state: bytes, row: Row) -> bytes:
        value = row[self.field]
        return state if value is None else self.merge(state, self.state((value,)))

    def merge(self, left: bytes, right: bytes) -> bytes:
        if not left or not right:
            return left or right
        merged = _kll(left)
        merged.merge(_kll(right))
        return merged.serialize()  # type: ignore[no-any-return]

    def result(self, state: bytes) -> dict[str, float | None]:
        found = _kll(state).get_quantiles(self.at, inclusive=True) if state else [None] * len(self.at)
        return dict(zip(map(str, self.at), found, strict=True))

    def partial(self) -> pl.Expr:
        return pl.col(self.field).drop_nulls().implode()

    def state(self, partial: Sequence[Any]) -> bytes:
        sketch = datasketches.kll_doubles_sketch(self.k)
        sketch.update(np.asarray(partial, dtype=np.float64))
        return b"" if sketch.is_empty() else sketch.serialize()

    def bounds(self, state: bytes) -> Mapping[str, Any]:
        return {"rank_error": _rank_error(_kll(state)) if state else 0.0, "confidence": 0.99}

    def agree(self, left: bytes, right: bytes) -> bool:
        """Of equally many values, and each one's quantiles have about their rank in the other.

        Twice the sum of both errors is five standard deviations and more: a million right pairs all agree.
        """
        if not left or not right:
            return left == right
        one, other = _kll(left), _kll(right)
        error = 2 * (_rank_error(one) + _rank_error(other)) + 1e-9
        return one.n == other.n and _near(one, other, error) and _near(other, one, error)


def _kll(state: bytes) -> Any:
    return datasketches.kll_doubles_sketch.deserialize(state)


def _rank_error(sketch: Any) -> float:
    return sketch.normalized_rank_error(False) if sketch.is_estimation_mode() else 0.0


def _near(one: Any, other: Any, error: float) -> bool:
    ranks = [i / 16 for i in range(17)]
    values = one.get_quantiles(ranks, inclusive=True)
    return all(
        other.get_rank(value, False) - error <= rank <= other.get_rank(value, True) + error
        for rank, value in zip(ranks, values, strict=True)
    )
