"""JSON records to columns without a Python object for any of them.

The compiled scanner (`native/scan.py`) takes the records that it understands in full: flat objects whose fields are
text, whole numbers, floats and bools, or null. Which values a topic's type allows is `msgspec`'s to say: a record that
the scanner is in doubt about is decoded by it, one by one, with the same outcome, and with the reason where it is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import polars as pl

from streamkit.native.loader import Loops
from streamkit.record import Array, FlatBytes

_KINDS: dict[type[msgspec.inspect.Type], tuple[int, pl.DataType]] = {
    msgspec.inspect.IntType: (0, pl.Int64()),
    msgspec.inspect.FloatType: (1, pl.Float64()),
    msgspec.inspect.StrType: (2, pl.String()),
    msgspec.inspect.BoolType: (3, pl.Boolean()),
}
_FREE = (
    msgspec.inspect.IntType(), msgspec.inspect.FloatType(), msgspec.inspect.StrType(), msgspec.inspect.BoolType(),
)  # fmt: skip
"""The kinds without constraints (`Meta`): those are the codec's to check."""
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

    @classmethod
    def of(cls, type_: Any, wanted: Sequence[str]) -> Columns | None:
        """None where the type is none that the scanner knows."""
        columns = list(_columns(type_))
        if not columns or None in columns or len(columns) > _MOST:
            return None
        return cls([c for c in columns if c is not None], wanted)

    @cached_property
    def _names(self) -> tuple[Array, Array]:
        choices = [choice for c in self.columns for choice in c.choices]
        encoded = [text.encode() for text in [*(c.encoded for c in self.columns), *choices]]
        names = np.frombuffer(b"".join(encoded) + bytes(FlatBytes.PADDING), np.uint8)
        return names, np.cumsum([len(name) for name in encoded], dtype=np.int64)

    @cached_property
    def _slots(self) -> dict[str, tuple[int, int]]:
        """Matrix and row in it of each wanted field; whole numbers and bools share one."""
        counts = [0, 0, 0]
        slots = {}
        for column in self._wanted:
            matrix = 0 if column.kind == 3 else column.kind
            slots[column.name] = matrix, counts[matrix]
            counts[matrix] += 1
        return slots

    @cached_property
    def _fields(self) -> Array:
        rows, last = [], len(self.columns)
        for c in self.columns:
            first, last = last, last + len(c.choices)
            bounds = (first, last) if c.choices else (0, 0)
            rows.append((c.kind, c.nullable, c.optional, self._slots.get(c.name, (0, -1))[1], *bounds))
        return np.array(rows, np.int64)

    def take(self, loops: Loops, flat: FlatBytes) -> tuple[pl.DataFrame, Array]:
        """The wanted columns, and 1 for each record that was taken (uint8); the others' rows mean nothing."""
        count = len(flat)
        sizes = [sum(matrix == i for matrix, _ in self._slots.values()) for i in range(3)]
        ints, floats = np.zeros((sizes[0], count), np.int64), np.zeros((sizes[1], count))
        texts = np.zeros((sizes[2], count, 2), np.uint64)
        nulls = np.zeros((len(self.columns), count), np.uint8)
        taken = np.empty(count, np.uint8)
        names, ends = self._names
        loops.scan.scan(
            flat.data.ctypes.data, flat.starts, flat.lengths, names.ctypes.data, ends, self._fields,
            ints, floats, texts, nulls, taken,
        )  # fmt: skip
        matrices = (ints, floats, texts)
        made = [
            _series(column, matrices[matrix][row], nulls[self.columns.index(column)], flat.data)
            for column in self._wanted
            for matrix, row in [self._slots[column.name]]
        ]
        return pl.DataFrame(made), taken


def _series(column: Column, values: Array, nulls: Array, data: Array) -> pl.Series:
    if column.dtype == pl.String():
        import pyarrow as pa  # half of what the compiled loops cost to load: it comes with them

        # Of the views of short texts, which hold the text itself; the others point into the records' bytes.
        views = pa.Array.from_buffers(pa.string_view(), len(values), [None, pa.py_buffer(values), pa.py_buffer(data)])
        series = pl.Series(column.name, pl.from_arrow(views))
    else:
        series = pl.Series(column.name, values).cast(column.dtype)
    if (column.nullable or column.optional) and nulls.any():
        series = pl.select(pl.when(pl.Series(nulls) == 0).then(series)).to_series().alias(column.name)
    return series


def _columns(type_: Any) -> Iterator[Column | None]:
    """The fields; None for one that is not plain."""
    if hasattr(type_, "__post_init__"):
        yield None  # it may refuse what it is given
        return
    info = msgspec.inspect.type_info(type_)
    if isinstance(info, msgspec.inspect.StructType):
        if info.array_like or info.forbid_unknown_fields or info.tag is not None:
            yield None
            return
    elif not isinstance(info, msgspec.inspect.DataclassType):
        yield None
        return
    for field in info.fields:
        kind, nullable = _plain(field.type)
        if kind is None:
            yield None
            continue
        number, dtype = _KINDS.get(type(kind), _KINDS[msgspec.inspect.StrType])
        optional = nullable and not field.required and field.default is None
        yield Column(field.name, field.encode_name, number, dtype, nullable, optional, _choices(kind))


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
