"""The laws that every Aggregate keeps, as a property test: `check_laws(MyAggregate("price"))`. Needs `hypothesis`.

A View is cut by offset, by partition and between its layers, and must come out the same. It does if these hold; an
Aggregate that breaks one gives another answer for another cut, and no other test is sure to see it.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from itertools import product
from typing import Any, get_args, get_type_hints

import msgspec
import polars as pl
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from streamkit import sketch, top, total
from streamkit.aggregate import OFFSET, PARTITION, TIME, Aggregate, Row
from streamkit.errors import DefinitionError

BUILT_IN = (sketch, top, total)
"""Imported so that `every_aggregate` finds what they define."""

AnyAggregate = Aggregate[Any, Any]

TYPES: Mapping[str, type] = {
    "flag": bool,
    "number": int,
    "ratio": float,
    "name": str,
    "raw": bytes,
    "amount": Decimal,
}
"""The fields of the rows that Aggregates are tried on: one of each type that columns have."""

_COLUMNS: Mapping[type, pl.DataType] = {
    bool: pl.Boolean(),
    int: pl.Int64(),
    float: pl.Float64(),
    str: pl.String(),
    bytes: pl.Binary(),
    Decimal: pl.String(),  # as text, because polars' own Decimal has a fixed scale
}

_PARTS = 3  # as many as associativity speaks of

_SETTINGS = settings(
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink),  # to explain a failure takes far longer than to find it
    suppress_health_check=list(HealthCheck),
)


def _often_equal(few: Sequence[Any], any_: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Ties are where order shows, and values drawn at random never tie."""
    return st.one_of(st.none(), st.sampled_from(few), any_)


VALUES: Mapping[type, st.SearchStrategy[Any]] = {
    bool: st.one_of(st.none(), st.booleans()),
    int: _often_equal([0, 1, -1, 2**63 - 1, -(2**63)], st.integers(-(2**63), 2**63 - 1)),
    float: _often_equal([0.0, -0.0, 1.0, 1e16, -1e16, 5e-324, 1e308, -1e308], st.floats()),
    str: _often_equal(["", "a", "b", "\0"], st.text(max_size=5)),
    bytes: _often_equal([b"", b"a", b"\0", b"\xff"], st.binary(max_size=5)),
    Decimal: _often_equal(
        [Decimal("0.1"), Decimal("0.10"), Decimal("1E+2"), Decimal("Infinity"), Decimal("NaN")],
        st.decimals(allow_nan=False, min_value=-(10**30), max_value=10**30),
    ),
}


def rows_of(types: Mapping[str, Any] = TYPES, *, max_size: int = 20) -> st.SearchStrategy[list[Row]]:
    """Lists of rows with fields of these types, nulls among them, in any order of time, each at its own offset."""
    values = {name: VALUES[type_] for name, type_ in types.items()}
    row = st.fixed_dictionaries({**values, TIME: st.integers(-2, 2), PARTITION: st.integers(0, 1)})
    return st.lists(row, max_size=max_size).map(lambda rows: [{**r, OFFSET: i} for i, r in enumerate(rows)])


def check_laws(
    aggregate: AnyAggregate,
    rows: st.SearchStrategy[list[Row]] | None = None,
    *,
    types: Mapping[str, Any] = TYPES,
    examples: int = 100,
) -> None:
    """Raises AssertionError, with the law that is broken and the rows that show it, made as few as can be.

    `aggregate` is bound already (`aggregate.bind(types)`); `types` are the types of the fields it reads, `rows` a
    strategy for them where `rows_of(types)` will not do: each row needs `TIME`, `PARTITION`, `OFFSET` too.
    """
    read = {name: types[name] for name in aggregate.fields if name in types}

    @settings(_SETTINGS, max_examples=examples)
    @given(rows_of(read) if rows is None else rows, st.integers(0, 999))
    def laws(rows: list[Row], seed: int) -> None:
        parts = _split(rows, random.Random(seed))
        _check_monoid(aggregate, [aggregate.fold(part) for part in parts])
        _check_split(aggregate, rows, parts)
        _check_columns(aggregate, parts, read)
        for state in (aggregate.zero(), aggregate.fold(rows)):
            _check_bytes(aggregate, state)

    laws()


def _split(rows: list[Row], chance: random.Random) -> list[list[Row]]:
    """The rows in any order, each in one of three parts."""
    parts: list[list[Row]] = [[] for _ in range(_PARTS)]
    for row in chance.sample(rows, len(rows)):
        chance.choice(parts).append(row)
    return parts


def _check_monoid(aggregate: AnyAggregate, states: list[Any]) -> None:
    merge, (a, b, c), before = aggregate.merge, states, copy.deepcopy(states)
    _agree(aggregate, "associative", merge(a, merge(b, c)), merge(merge(a, b), c))
    _agree(aggregate, "commutative", merge(a, b), merge(b, a))
    _agree(aggregate, "zero is its identity", merge(a, aggregate.zero()), a)
    _agree(aggregate, "zero is its identity", merge(aggregate.zero(), a), a)
    if states != before:
        raise AssertionError(f"{aggregate}: merge has changed its arguments: {before} became {states}")


def _check_split(aggregate: AnyAggregate, rows: list[Row], parts: list[list[Row]]) -> None:
    whole, merged = aggregate.fold(rows), aggregate.zero()
    for part in parts:
        merged = aggregate.merge(merged, aggregate.fold(part))
    _agree(aggregate, "any split, in any order, gives the same state", merged, whole)
    if aggregate.deterministic and not _same(aggregate.result(merged), aggregate.result(whole)):
        left, right = aggregate.result(merged), aggregate.result(whole)
        raise AssertionError(f"{aggregate}: any split, in any order, gives the same result: {left} != {right}")


def _check_columns(aggregate: AnyAggregate, parts: list[list[Row]], types: Mapping[str, Any]) -> None:
    columns = {name: _COLUMNS[types[name]] if name in types else pl.Int64() for name in aggregate.fields}
    rows = [(group, *(_cell(row[name]) for name in columns)) for group, part in enumerate(parts) for row in part]
    frame = pl.DataFrame(rows, schema={"__group": pl.Int64(), **columns}, orient="row")
    partials = frame.group_by("__group").agg(aggregate.partial().alias("__partial"))
    _check_dumped(aggregate, partials["__partial"])
    for group, partial in partials.iter_rows():
        state, scalar = aggregate.state(partial), aggregate.fold(parts[group])
        _agree(aggregate, "the columns say what the rows say", state, scalar)
    combined = aggregate.combine(pl.col("__partial"))
    if combined is not None and rows:
        state = aggregate.state(partials.select(combined).item())
        scalar = aggregate.fold(row for part in parts for row in part)
        _agree(aggregate, "partials combined are their states merged", state, scalar)


def _check_dumped(aggregate: AnyAggregate, partials: pl.Series) -> None:
    dumped = aggregate.dumped(pl.col(partials.name))
    if dumped is None:
        return
    with suppress(pl.exceptions.InvalidOperationError):  # a number beyond 64 bits
        columns = pl.DataFrame(partials).select(dumped).to_series().to_list()
        right = [aggregate.dump(aggregate.state(partial)) for partial in partials]
        law = "columns dumped are their states' dumps"
        assert msgspec.msgpack.encode(columns) == msgspec.msgpack.encode(right), f"{aggregate}: {law}"


def _cell(value: Any) -> Any:
    return str(value) if isinstance(value, Decimal) else value


def _check_bytes(aggregate: AnyAggregate, state: Any) -> None:
    dumped = aggregate.dump(state)
    try:
        packed = msgspec.msgpack.encode(dumped)
    except (TypeError, OverflowError) as error:
        raise AssertionError(f"{aggregate}: dump gives msgpack's own types: {dumped!r}: {error}") from error
    _agree(aggregate, "load(dump(state)) is the state", aggregate.load(msgspec.msgpack.decode(packed)), state)


def _agree(aggregate: AnyAggregate, law: str, left: Any, right: Any) -> None:
    if not (left == right if aggregate.deterministic else aggregate.agree(left, right)):
        raise AssertionError(f"{aggregate}: {law}: {left!r} != {right!r}")


def _same(left: Any, right: Any) -> bool:
    """Equal, and NaN is NaN."""
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, (float, Decimal)) and isinstance(right, (float, Decimal)):
        return left == right or (math.isnan(left) and math.isnan(right))
    return bool(left == right)


# -- every Aggregate there is ---------------------------------------------------------------------------------------


def every_aggregate(types: Mapping[str, Any] = TYPES) -> list[AnyAggregate]:
    """An instance of every Aggregate class that has been imported, bound to each field that it accepts.

    Found by `__subclasses__`, so a new class is held to the laws without being listed anywhere. Its parameters are
    filled in by type: a field's name where it has a `str` (or, beside its default, `str | None`), 3 for an `int`.
    """
    found: list[AnyAggregate] = []
    for cls in sorted(set(_concrete(Aggregate)), key=lambda c: (c.__module__, c.__qualname__)):
        required, optional = _parameters(cls, types)
        choices = [dict(zip(required, values, strict=True)) for values in product(*required.values())]
        found += _bound(cls, choices, types)
        for name, field in product(optional, types):
            found += _bound(cls, [{**choice, name: field} for choice in choices], types)[:1]
    return found


def _concrete(cls: type[Any]) -> Iterator[type[AnyAggregate]]:
    for below in cls.__subclasses__():
        if not inspect.isabstract(below):
            yield below
        yield from _concrete(below)


def _parameters(cls: type[AnyAggregate], types: Mapping[str, Any]) -> tuple[dict[str, list[Any]], list[str]]:
    """What to try for each parameter that must be given, and the names of those that may name one more field."""
    hints = get_type_hints(cls)
    values: dict[Any, list[Any]] = {str: list(types), int: [3]}
    required: dict[str, list[Any]] = {}
    optional: list[str] = []
    for parameter in dataclasses.fields(cls):  # type: ignore[arg-type]
        hint = hints[parameter.name]
        if parameter.default is None and str in get_args(hint):
            optional.append(parameter.name)
        elif parameter.default is parameter.default_factory is dataclasses.MISSING:
            if hint not in values:
                raise TypeError(f"{cls.__name__}: no value is known for {parameter.name}: {hint}; give it a default")
            required[parameter.name] = values[hint]
    return required, optional


def _bound(cls: type[AnyAggregate], choices: list[dict[str, Any]], types: Mapping[str, Any]) -> list[AnyAggregate]:
    """Those that can be made and bound: DefinitionError is how an Aggregate says that a field is not for it."""
    bound: list[AnyAggregate] = []
    for choice in choices:
        with suppress(DefinitionError):
            bound.append(cls(**choice).bind(types))
    return bound
