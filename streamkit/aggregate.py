"""Aggregates: commutative monoids with a way in and a way out, each defined twice, for one row and for columns.

`zero`, `add`, `merge`, `result` are the scalar definition; `partial` and `state` the columnar one. The laws that tie
them together are in `streamkit.testing.laws` and are checked for every Aggregate that exists:

    merge(a, merge(b, c)) == merge(merge(a, b), c)     associative
    merge(a, b) == merge(b, a)                         commutative
    merge(a, zero()) == a                              identity
    state(partial over rows) == add over rows          the columns say what the rows say
    state(combine of partials) == merge of states      in columns as one by one, where `combine` can
    load(dump(a)) == a                                 round trip of its bytes

They are what lets a View be cut anywhere: by offset, by partition, between batch and speed, and come out the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar

import polars as pl

from streamkit.kind import ANY, KINDS, Kind, kind_of

S = TypeVar("S")
R = TypeVar("R")

Row = Mapping[str, Any]
"""One event's fields, and where it lay: TIME (event time, ms), PARTITION and OFFSET."""

TIME, PARTITION, OFFSET = "__time", "__partition", "__offset"


class Aggregate(ABC, Generic[S, R]):
    """What a View keeps per key and window. Subclass it, as a frozen dataclass, for one of your own:

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Longest(Aggregate[str, str]):
    ...     field: str
    ...     @property
    ...     def fields(self): return (self.field,)
    ...     def zero(self): return ""
    ...     def add(self, state, row): return self.merge(state, row[self.field])
    ...     def merge(self, left, right): return max(left, right, key=lambda s: (len(s), s))
    ...     def result(self, state): return state
    >>> Longest("word").fold([{"word": "log"}, {"word": "stream"}])
    'stream'

    Null fields (None) are skipped by every Aggregate here, as in SQL.
    """

    approximate: ClassVar[bool] = False
    """True for sketches: right only within `bounds`."""

    deterministic: ClassVar[bool] = True
    """False where the same rows, split or ordered otherwise, may give another state: compare those by `agree`."""

    @property
    @abstractmethod
    def fields(self) -> tuple[str, ...]:
        """The fields it reads; `TIME`, `PARTITION`, `OFFSET` may be among them."""

    def bind(self, types: Mapping[str, Any]) -> Aggregate[S, R]:
        """This Aggregate for fields of these Python types (`int`, `float`, `str`, `Decimal` ..., without Optional).

        Raises DefinitionError where it cannot work on such a field.
        """
        del types
        return self

    @abstractmethod
    def zero(self) -> S: ...

    @abstractmethod
    def add(self, state: S, row: Row) -> S: ...

    @abstractmethod
    def merge(self, left: S, right: S) -> S:
        """Neither argument may be changed."""

    @abstractmethod
    def result(self, state: S) -> R: ...

    def partial(self) -> pl.Expr:
        """An expression that reduces a group's rows to one value; by default the rows themselves."""
        return pl.struct(*self.fields).implode()

    def state(self, partial: Any) -> S:
        """The state that a value of `partial` stands for."""
        return self.fold(partial)

    def combine(self, partials: pl.Expr) -> pl.Expr | None:
        """An expression that makes one value of `partial` of a group's; None where only `merge` can do that.

        With it, what waits for a Checkpoint stays in columns. The law: `state` of what it makes is the `merge` of the
        `state`s. Whoever overrides `partial` or `merge` overrides this, too.
        """
        del partials
        return None

    def dumped(self, partials: pl.Expr) -> pl.Expr | None:
        """An expression that makes of values of `partial` what `dump` makes of their `state`s; None where Python must.

        With it, many states become bytes without an object for each. The law: what it makes is `dump(state(partial))`,
        or it fails (a whole number beyond 64 bits), and then Python does it. Whoever overrides `partial`, `state` or
        `dump` overrides this, too.
        """
        del partials
        return None

    def dump(self, state: S) -> Any:
        """The state in msgpack's own types (int of 64 bits, float, str, bytes, None, list)."""
        return state

    def load(self, dumped: Any) -> S:
        return dumped  # type: ignore[no-any-return]

    def bounds(self, state: S) -> Mapping[str, Any] | None:
        """The error of `result`, for sketches: what is named in the Answer beside the value."""
        del state
        return None

    def agree(self, left: S, right: S) -> bool:
        """Whether both may be the state of the same rows: equal, for all that is deterministic."""
        return left == right

    def fold(self, rows: Any) -> S:
        """`add` over rows, from `zero`: the plain definition, oracle of the columnar one."""
        state = self.zero()
        for row in rows:
            state = self.add(state, row)
        return state


class FieldAggregate(Aggregate[Any, Any]):
    """Base of the Aggregates of one field whose type matters: `bind` finds its `kind`, `state`s are of that kind.

    A subclass is a dataclass with a `field` and a keyword `kind`; `accepts` names the kinds it works on.
    """

    accepts: ClassVar[tuple[str, ...]] = ANY
    hint: ClassVar[str] = ""
    field: str
    kind: str

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def bind(self, types: Mapping[str, Any]) -> Any:
        return replace(self, kind=self.kind_of(self.field, types))  # type: ignore[type-var]

    def kind_of(self, field: str, types: Mapping[str, Any], accepts: tuple[str, ...] | None = None) -> str:
        owner = f"{type(self).__name__}({self.field!r})"
        return kind_of(owner, field, types, accepts=accepts or self.accepts, hint=self.hint)

    @property
    def of_kind(self) -> Kind:
        return KINDS[self.kind]


@dataclass(frozen=True)
class Count(Aggregate[int, int]):
    """How many rows there are, or how many have a value in `field`.

    >>> rows = [{"user": "u1"}, {"user": None}]
    >>> Count().fold(rows), Count("user").fold(rows)
    (2, 1)
    """

    field: str | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        return () if self.field is None else (self.field,)

    def zero(self) -> int:
        return 0

    def add(self, state: int, row: Row) -> int:
        return state + (self.field is None or row[self.field] is not None)

    def merge(self, left: int, right: int) -> int:
        return left + right

    def result(self, state: int) -> int:
        return state

    def partial(self) -> pl.Expr:
        return pl.len() if self.field is None else pl.col(self.field).count()

    def state(self, partial: Any) -> int:
        return int(partial)

    def combine(self, partials: pl.Expr) -> pl.Expr:
        return partials.cast(pl.Int64).sum()

    def dumped(self, partials: pl.Expr) -> pl.Expr:
        return partials


class _Extreme(FieldAggregate):
    """Min and Max: None is the zero, so a `merge` has it on one side or none."""

    def zero(self) -> Any:
        return None

    def add(self, state: Any, row: Row) -> Any:
        return self.merge(state, self.read(row[self.field]))

    def merge(self, left: Any, right: Any) -> Any:
        if left is None or right is None:
            return right if left is None else left
        return self.choose(left, right)

    @abstractmethod
    def choose(self, left: Any, right: Any) -> Any: ...

    @abstractmethod
    def column(self, values: pl.Expr) -> pl.Expr: ...

    def read(self, value: Any) -> Any:
        return None if value is None else self.of_kind.read(value)

    def result(self, state: Any) -> Any:
        return state

    def partial(self) -> pl.Expr:
        # A Decimal's column is its text, which has another order; and of an unknown kind nothing is known.
        return super().partial() if self.kind in ("", "Decimal") else self.column(pl.col(self.field))

    def state(self, partial: Any) -> Any:
        return self.fold(partial) if self.kind in ("", "Decimal") else self.read(partial)

    def combine(self, partials: pl.Expr) -> pl.Expr | None:
        return None if self.kind in ("", "Decimal") else self.column(partials)

    def dumped(self, partials: pl.Expr) -> pl.Expr | None:
        if self.kind == "float":
            # Polars leaves out `+ 0.0`, by which `read` makes 0.0 of -0.0.
            return pl.when(partials == 0).then(0.0).otherwise(partials).fill_nan(None)
        return None if self.kind in ("", "Decimal") else partials

    def dump(self, state: Any) -> Any:
        return None if state is None else self.of_kind.dump(state)

    def load(self, dumped: Any) -> Any:
        return None if dumped is None else self.of_kind.load(dumped)


@dataclass(frozen=True)
class Min(_Extreme):
    """The least value of a field; None where there is none. NaN is skipped."""

    field: str
    _: KW_ONLY
    kind: str = ""

    def choose(self, left: Any, right: Any) -> Any:
        return min(left, right)

    def column(self, values: pl.Expr) -> pl.Expr:
        return values.min()


@dataclass(frozen=True)
class Max(_Extreme):
    """The greatest value of a field; None where there is none. NaN is skipped."""

    field: str
    _: KW_ONLY
    kind: str = ""

    def choose(self, left: Any, right: Any) -> Any:
        return max(left, right)

    def column(self, values: pl.Expr) -> pl.Expr:
        return values.max()


Event = tuple[int, int, int, Any]
"""(event time, partition, offset, value): events of one topic are in a total order by the first three."""


class _EventExtreme(FieldAggregate):
    """First and Last: the least and greatest Event."""

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field, TIME, PARTITION, OFFSET)

    def zero(self) -> Event | None:
        return None

    def add(self, state: Event | None, row: Row) -> Event | None:
        value = row[self.field]
        value = None if value is None else self.of_kind.read(value)
        return state if value is None else self.merge(state, (row[TIME], row[PARTITION], row[OFFSET], value))

    def merge(self, left: Event | None, right: Event | None) -> Event | None:
        if left is None or right is None:
            return right if left is None else left
        return self.choose(left, right)

    @abstractmethod
    def choose(self, left: Event, right: Event) -> Event: ...

    @abstractmethod
    def column(self, events: pl.Expr, order: pl.Expr) -> pl.Expr: ...

    def result(self, state: Event | None) -> Any:
        return None if state is None else state[3]

    def partial(self) -> pl.Expr:
        value = pl.col(self.field)
        valid = value.is_not_nan() & value.is_not_null() if self.kind == "float" else value.is_not_null()
        if self.kind == "Decimal":
            valid &= ~value.str.to_lowercase().str.contains("nan", literal=True)
        order = pl.struct(TIME, PARTITION, OFFSET).filter(valid)
        return self.column(pl.struct(TIME, PARTITION, OFFSET, self.field).filter(valid), order)

    def state(self, partial: Any) -> Event | None:
        return self.zero() if partial is None else self.add(None, partial)

    def dump(self, state: Event | None) -> Any:
        return None if state is None else [*state[:3], self.of_kind.dump(state[3])]

    def load(self, dumped: Any) -> Event | None:
        return None if dumped is None else (dumped[0], dumped[1], dumped[2], self.of_kind.load(dumped[3]))


@dataclass(frozen=True)
class First(_EventExtreme):
    """The value of the earliest event that has one, by event time, then partition, then offset. NaN is skipped.

    Not the first to arrive: whichever layer sees a late event, it takes its place in event time.
    """

    field: str
    _: KW_ONLY
    kind: str = ""

    def choose(self, left: Event, right: Event) -> Event:
        return min(left, right)

    def column(self, events: pl.Expr, order: pl.Expr) -> pl.Expr:
        return events.min_by(order)


@dataclass(frozen=True)
class Last(_EventExtreme):
    """The value of the latest event that has one, by event time, then partition, then offset. NaN is skipped."""

    field: str
    _: KW_ONLY
    kind: str = ""

    def choose(self, left: Event, right: Event) -> Event:
        return max(left, right)

    def column(self, events: pl.Expr, order: pl.Expr) -> pl.Expr:
        return events.max_by(order)
