"""JSON records to columns without a Python object for any of them.

The compiled scanner (`native/scan.py`) takes the records that it understands in full: flat objects whose fields are
text, whole numbers, floats and bools, or null. Which values a topic's type allows is `msgspec`'s to say: a record that
the scanner is in doubt about is decoded by it, one by one, with the same outcome, and with the reason where it is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import polars as pl

from streamkit.native.kinds import BOOL, FLOAT, INT, TEXT
from streamkit.native.loader import Loops
from streamkit.record import Array, FlatBytes

_KINDS: dict[type[msgspec.inspect.Type], tuple[int, pl.DataType]] = {
    msgspec.inspect.IntType: (INT, pl.Int64()),
    msgspec.inspect.FloatType: (FLOAT, pl.Float64()),
    msgspec.inspect.StrType: (TEXT, pl.String()),
    msgspec.inspect.BoolType: (BOOL, pl.Boolean()),
}
_FREE = [kind() for kind in _KINDS]
"""The kinds without constraints (`Meta`): those are the codec's to check."""
_MATRIX = {INT: 0, BOOL: 0, FLOAT: 1, TEXT: 2}
"""Which of the scanner's matrices has columns of a kind: whole numbers and bools share one."""
_MOST = 60
"""Fields: the scanner marks those that it has seen in a word."""


@dataclass(frozen=True)
class Column:
    """A field of a record: its name on the log and in Python, its kind, whether it may be null or missing.

    `choices` are the texts that it is one of (Literal, Enum); none for any text.
    """

    name: str
    encoded: str
    kind: int
    dtype: pl.DataType
    nullable: bool
    optional: bool
    choices: tuple[str, ...] = ()


class Columns:
    """How the values of one type are made into columns, those `wanted`.

    >>> class Click(msgspec.Struct):
    ...     ad: str
    ...     cents: int | None = None
    >>> [(c.name, c.nullable) for c in Columns.of(Click, ["ad"]).columns]
    [('ad', False), ('cents', True)]
    """

    def __init__(self, columns: Sequence[Column], wanted: Sequence[str]) -> None:
        self.columns = tuple(columns)
        by_name = {column.name: column for column in columns}
        self._wanted = tuple(by_name[name] for name in wanted)
        self._numbers = tuple(self.columns.index(column) for column in self._wanted)

    @classmethod
    def of(cls, type_: Any, wanted: Sequence[str]) -> Columns | None:
        """None where the type is none that the scanner knows."""
        fields = _fields_of(type_)
        columns = [column for column in map(_column, fields) if column is not None]
        return cls(columns, wanted) if 0 < len(columns) == len(fields) <= _MOST else None

    @cached_property
    def _names(self) -> tuple[Array, Array]:
        choices = [choice for c in self.columns for choice in c.choices]
        encoded = [text.encode() for text in [*(c.encoded for c in self.columns), *choices]]
        names = np.frombuffer(b"".join(encoded) + bytes(FlatBytes.PADDING), np.uint8)
        return names, np.cumsum([len(name) for name in encoded], dtype=np.int64)

    @cached_property
    def _slots(self) -> dict[str, int]:
        """The row of each wanted field in its matrix."""
        rows = [0, 0, 0]
        slots = {}
        for column in self._wanted:
            slots[column.name] = rows[_MATRIX[column.kind]]
            rows[_MATRIX[column.kind]] += 1
        return slots

    @cached_property
    def _sizes(self) -> list[int]:
        """The rows of each matrix."""
        return [sum(_MATRIX[column.kind] == matrix for column in self._wanted) for matrix in range(3)]

    @cached_property
    def _fields(self) -> Array:
        rows, last = [], len(self.columns)
        for c in self.columns:
            first, last = last, last + len(c.choices)
            bounds = (first, last) if c.choices else (0, 0)
            rows.append((c.kind, c.nullable, c.optional, self._slots.get(c.name, -1), *bounds))
        return np.array(rows, np.int64)

    def take(self, loops: Loops, flat: FlatBytes) -> tuple[pl.DataFrame, Array]:
        """The wanted columns, and 1 for each record that was taken (uint8); the others' rows mean nothing."""
        count, (whole, broken, text) = len(flat), self._sizes
        matrices = np.empty((whole, count), np.int64), np.empty((broken, count)), np.empty((text, count, 2), np.uint64)
        nulls, taken = np.zeros((len(self.columns), count), np.uint8), np.empty(count, np.uint8)
        names, ends = self._names
        loops.scan.scan(
            flat.data.ctypes.data, flat.starts, flat.lengths, names.ctypes.data, ends, self._fields,
            *matrices, nulls, taken,
        )  # fmt: skip
        made = []
        for number, column in zip(self._numbers, self._wanted, strict=True):
            values = matrices[_MATRIX[column.kind]][self._slots[column.name]]
            made.append(_series(loops, column, values, nulls[number], flat.data))
        return pl.DataFrame(made), taken


def _series(loops: Loops, column: Column, values: Array, nulls: Array, data: Array) -> pl.Series:
    if column.kind == TEXT:
        # A view of up to 12 bytes holds the text itself; a longer one points into the records' bytes.
        buffers = [None, loops.arrow.py_buffer(values), loops.arrow.py_buffer(data)]
        views = loops.arrow.Array.from_buffers(loops.arrow.string_view(), len(values), buffers)
        series = pl.Series(column.name, views)
    else:
        series = pl.Series(column.name, values).cast(column.dtype)
    if nulls.any():
        series = pl.select(pl.when(pl.Series(nulls) == 0).then(series)).to_series().alias(column.name)
    return series


def _fields_of(type_: Any) -> Sequence[msgspec.inspect.Field]:
    """The fields of a type that allows whatever they allow; none where it has rules of its own."""
    if hasattr(type_, "__post_init__"):
        return ()  # it may refuse what it is given
    info = msgspec.inspect.type_info(type_)
    if isinstance(info, msgspec.inspect.StructType):
        return () if info.array_like or info.forbid_unknown_fields or info.tag is not None else info.fields
    return info.fields if isinstance(info, msgspec.inspect.DataclassType) else ()


def _column(field: msgspec.inspect.Field) -> Column | None:
    """None for one that is not plain."""
    kind, nullable = _plain(field.type)
    if kind is None:
        return None
    number, dtype = _KINDS.get(type(kind), _KINDS[msgspec.inspect.StrType])
    optional = nullable and not field.required and field.default is None
    return Column(field.name, field.encode_name, number, dtype, nullable, optional, _choices(kind))


def _plain(kind: msgspec.inspect.Type) -> tuple[msgspec.inspect.Type | None, bool]:
    """The kind without `None`, and whether that was there; None for kinds that the scanner does not know."""
    if isinstance(kind, msgspec.inspect.UnionType):
        rest = [t for t in kind.types if not isinstance(t, msgspec.inspect.NoneType)]
        if len(rest) != 1:
            return None, False
        return _plain(rest[0])[0], True
    return (kind if kind in _FREE or _choices(kind) else None), False


def _choices(kind: msgspec.inspect.Type) -> tuple[str, ...]:
    values: tuple[Any, ...] = ()
    if isinstance(kind, msgspec.inspect.LiteralType):
        values = kind.values
    elif isinstance(kind, msgspec.inspect.EnumType):
        values = tuple(member.value for member in kind.cls)
    return values if all(type(value) is str for value in values) else ()
