"""Top and Largest: the most frequent values of a field, and its greatest ones; both exact."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar

import polars as pl

from streamkit.aggregate import FieldAggregate, Row
from streamkit.errors import DefinitionError
from streamkit.kind import KINDS, dump_int

Element = tuple[Any, ...]
"""(value,) or (value, value of `of`)."""


def _check_k(name: str, k: int, field: str) -> None:
    if type(k) is not int or k < 1:
        raise DefinitionError(f"{name}({k!r}, {field!r}): k is how many to keep, a whole number of 1 or more")


@dataclass(frozen=True)
class Top(FieldAggregate):
    """The `k` most frequent values of a field, or those of the greatest total `weight` (an int field).

    >>> words = Top(1, "word")
    >>> words.result(words.fold([{"word": "log"}, {"word": "log"}, {"word": "cut"}]))
    [('log', 2)]

    By count, greatest first, then by value. The state keeps every value's count, for a state of only the best `k` is
    no monoid. With k = 1, merging best-ofs of {a: 2, b: 1}, {c: 2, b: 1}, {b: 1}:

        (a2 | c2) | b1 = a2        though b occurs 3 times;
        a2 | (c2 | b1) = a2        and no grouping can find it: b was dropped in each part.

    Where there are too many distinct values to keep, count a coarser field. Values whose weights sum to 0 are left out.
    """

    k: int
    field: str
    weight: str | None = None
    _: KW_ONLY
    kind: str = ""

    def __post_init__(self) -> None:
        _check_k("Top", self.k, self.field)

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,) if self.weight is None else (self.field, self.weight)

    def bind(self, types: Mapping[str, Any]) -> Top:
        if self.weight is not None:
            self.kind_of(self.weight, types, ("int",))
        return replace(self, kind=self.kind_of(self.field, types))

    def zero(self) -> dict[Any, int]:
        return {}

    def add(self, state: dict[Any, int], row: Row) -> dict[Any, int]:
        return self.merge(state, self._counts({row[self.field]: 1 if self.weight is None else row[self.weight]}))

    def merge(self, left: dict[Any, int], right: dict[Any, int]) -> dict[Any, int]:
        few, many = sorted((left, right), key=len)
        merged = dict(many)
        for value, count in few.items():
            if total := merged.get(value, 0) + count:
                merged[value] = total
            else:
                del merged[value]
        return merged

    def result(self, state: dict[Any, int]) -> list[tuple[Any, int]]:
        return heapq.nsmallest(self.k, state.items(), key=lambda item: (-item[1], item[0]))

    def partial(self) -> pl.Expr:
        values = pl.col(self.field).implode()
        return values if self.weight is None else pl.struct(values, pl.col(self.weight).implode().alias("__weight"))

    def state(self, partial: Any) -> dict[Any, int]:
        if self.weight is None:
            return self._counts(Counter(partial))
        totals: dict[Any, int] = {}
        for value, weight in zip(partial[self.field], partial["__weight"], strict=True):
            if weight is not None:
                totals[value] = totals.get(value, 0) + weight
        return self._counts(totals)

    def _counts(self, raw: Mapping[Any, int | None]) -> dict[Any, int]:
        """A state of values as they lie in columns: read, without nulls and zeros."""
        counts: dict[Any, int] = {}
        for found, count in raw.items():
            value = None if found is None else self.of_kind.read(found)
            if value is not None and count is not None:
                counts[value] = counts.get(value, 0) + count
        return {value: count for value, count in counts.items() if count}

    def dump(self, state: dict[Any, int]) -> Any:
        return [[self.of_kind.dump(value), dump_int(count)] for value, count in sorted(state.items())]

    def load(self, dumped: Any) -> dict[Any, int]:
        return {self.of_kind.load(value): int(count) for value, count in dumped}


@dataclass(frozen=True)
class Largest(FieldAggregate):
    """The `k` largest values of a field, largest first, equal ones each counted; with `of`, pairs with that field.

    >>> bids = Largest(2, "bid", of="user")
    >>> bids.result(bids.fold([{"bid": 5, "user": "u1"}, {"bid": 9, "user": "u2"}, {"bid": 7, "user": "u1"}]))
    [(9, 'u2'), (7, 'u1')]

    Here the state may keep `k` only: elements are totally ordered, so one that is not among the largest of a part is
    not among the largest of the whole. Rows equal in the value are ordered by `of`, a null `of` last. NaN is skipped,
    and in `of` taken for null.
    """

    k: int
    field: str
    of: str | None = None
    _: KW_ONLY
    kind: str = ""
    kind_beside: str = ""

    hint: ClassVar[str] = "use a field that has an order"

    def __post_init__(self) -> None:
        _check_k("Largest", self.k, self.field)
        if self.of == self.field:
            raise DefinitionError(f"Largest({self.k}, {self.field!r}): of is the same field, expected another or none")

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,) if self.of is None else (self.field, self.of)

    def bind(self, types: Mapping[str, Any]) -> Largest:
        beside = "" if self.of is None else self.kind_of(self.of, types)
        return replace(self, kind=self.kind_of(self.field, types), kind_beside=beside)

    def zero(self) -> tuple[Element, ...]:
        return ()

    def add(self, state: tuple[Element, ...], row: Row) -> tuple[Element, ...]:
        element = self._element(*(row[name] for name in self.fields))
        return state if element is None else self.merge(state, (element,))

    def merge(self, left: tuple[Element, ...], right: tuple[Element, ...]) -> tuple[Element, ...]:
        return self._largest((*left, *right))

    def result(self, state: tuple[Element, ...]) -> list[Any]:
        return list(state) if self.of is not None else [value for (value,) in state]

    def partial(self) -> pl.Expr:
        if self.kind in ("", "float", "Decimal") or self.kind_beside in ("float", "Decimal"):
            return super().partial()  # polars has another order than we: NaN above all, Decimals by their text
        if self.of is None:
            return pl.col(self.field).top_k(self.k)
        present = pl.col(self.field).is_not_null()
        keys = [pl.col(name).filter(present) for name in self.fields]
        pairs = pl.struct(*self.fields).filter(present)
        return pairs.sort_by(*keys, descending=True, nulls_last=True).head(self.k).implode()

    def state(self, partial: Any) -> tuple[Element, ...]:
        rows = (row.values() if isinstance(row, dict) else (row,) for row in partial)
        return self._largest(element for row in rows if (element := self._element(*row)) is not None)

    def _element(self, value: Any, *beside: Any) -> Element | None:
        value = None if value is None else self.of_kind.read(value)
        if value is None:
            return None
        read = KINDS[self.kind_beside].read
        return (value, *(None if b is None else read(b) for b in beside))

    def _largest(self, elements: Any) -> tuple[Element, ...]:
        return tuple(heapq.nlargest(self.k, elements, key=_nulls_last))

    def dump(self, state: tuple[Element, ...]) -> Any:
        kinds = (self.of_kind, KINDS[self.kind_beside])
        return [[None if v is None else k.dump(v) for k, v in zip(kinds, e, strict=False)] for e in state]

    def load(self, dumped: Any) -> tuple[Element, ...]:
        kinds = (self.of_kind, KINDS[self.kind_beside])
        return tuple(tuple(None if v is None else k.load(v) for k, v in zip(kinds, e, strict=False)) for e in dumped)


def _nulls_last(element: Element) -> Element:
    return tuple(part for value in element for part in (value is not None, value))
