"""Schemas: the fields of a topic's value type, what they are in Python and what they are as columns."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import difflib
import enum
import operator
import types
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import polars as pl

from streamkit.errors import DefinitionError

_COLUMNS: dict[Any, pl.DataType] = {
    int: pl.Int64(),
    float: pl.Float64(),
    str: pl.String(),
    bool: pl.Boolean(),
    bytes: pl.Binary(),
    decimal.Decimal: pl.String(),
    uuid.UUID: pl.String(),
    dt.datetime: pl.Int64(),
}


@dataclass(frozen=True)
class Field:
    """One field. `dtype` is its column's type, None where it has none (agents may use it, Views may not)."""

    name: str
    type: Any
    optional: bool
    dtype: pl.DataType | None

    def column(self, values: Sequence[Any]) -> pl.Series:
        """The field of every value, as a column.

        Raises OverflowError for an integer beyond 64 bits.
        """
        return self.series(list(map(operator.attrgetter(self.name), values)))

    def series(self, items: list[Any]) -> pl.Series:
        """What are such fields, as a column. Raises OverflowError, TypeError."""
        if convert := _converter(self.type):
            items = [None if item is None else convert(item) for item in items]
        return pl.Series(self.name, items, dtype=self.dtype, strict=True)


@dataclass(frozen=True)
class Schema:
    """The fields of a value type (msgspec Struct or dataclass).

    >>> class Click(msgspec.Struct):
    ...     ad: str
    ...     cents: int | None = None
    >>> [(f.name, f.type, f.optional) for f in Schema.of(Click).fields]
    [('ad', <class 'str'>, False), ('cents', <class 'int'>, True)]
    """

    owner: str
    fields: tuple[Field, ...]

    @classmethod
    def of(cls, type_: Any) -> Schema:
        """Raises DefinitionError where `type_` is neither a Struct nor a dataclass."""
        is_struct = isinstance(type_, type) and issubclass(type_, msgspec.Struct)
        if not is_struct and not (isinstance(type_, type) and dataclasses.is_dataclass(type_)):
            raise DefinitionError(
                f"a topic's value must be a msgspec.Struct or a dataclass, got {type_!r}; "
                f"for example: class Click(msgspec.Struct): ad_id: str"
            )
        hints = typing.get_type_hints(type_)
        names = type_.__struct_fields__ if is_struct else [f.name for f in dataclasses.fields(type_)]
        return cls(type_.__name__, tuple(field_of(name, hints[name]) for name in names))

    def __getitem__(self, name: str) -> Field:
        """Raises DefinitionError with the nearest name."""
        for field in self.fields:
            if field.name == name:
                return field
        names = [f.name for f in self.fields]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names) or 'none'}"
        raise DefinitionError(f"{self.owner} has no field {name!r}; {hint}")

    def types(self) -> dict[str, Any]:
        return {f.name: f.type for f in self.fields}

    def describe(self) -> dict[str, str]:
        """Name to type, as text: part of every View's fingerprint."""
        return {f.name: _type_name(f.type) + (" | None" if f.optional else "") for f in self.fields}

    def empty(self, names: Sequence[str]) -> pl.DataFrame:
        return pl.DataFrame(schema={name: self[name].dtype for name in names})


def milliseconds(moment: dt.datetime) -> int:
    """Milliseconds since the epoch; a naive datetime is UTC.

    >>> milliseconds(dt.datetime(1970, 1, 1, 0, 0, 1))
    1000
    """
    aware = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    return (aware - _EPOCH) // dt.timedelta(milliseconds=1)


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def field_of(name: str, hint: Any) -> Field:
    """A field with this annotation."""
    type_, optional = _unwrap(hint)
    return Field(name, type_, optional, _dtype(type_))


def _unwrap(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) is typing.Annotated:
        return _unwrap(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [a for a in typing.get_args(hint) if a is not type(None)]
        if len(rest) == 1:
            return _unwrap(rest[0])[0], True
    if typing.get_origin(hint) is typing.Literal:
        kinds = {type(a) for a in typing.get_args(hint)}
        return (kinds.pop() if len(kinds) == 1 else hint), False
    return hint, False


def _dtype(type_: Any) -> pl.DataType | None:
    if isinstance(type_, type) and issubclass(type_, enum.Enum):
        return pl.String()
    if typing.get_origin(type_) is list:
        inner = _dtype(_unwrap(typing.get_args(type_)[0])[0])
        return pl.List(inner) if inner is not None else None
    return _COLUMNS.get(type_)


def _converter(type_: Any) -> Callable[[Any], Any] | None:
    if type_ in (decimal.Decimal, uuid.UUID):
        return str
    if type_ is dt.datetime:
        return milliseconds
    if isinstance(type_, type) and issubclass(type_, enum.Enum):
        return lambda member: str(member.value)
    return None


def _type_name(type_: Any) -> str:
    return type_.__name__ if isinstance(type_, type) else str(type_)


def row_of(schema: Schema, value: Any) -> Mapping[str, Any]:
    """A value's fields as the columns have them: what an Aggregate's scalar definition reads."""
    row = {}
    for field in schema.fields:
        item, convert = getattr(value, field.name), _converter(field.type)
        row[field.name] = convert(item) if convert and item is not None else item
    return row
