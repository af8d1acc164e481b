"""Many keys with a value each, made of columns into flat buffers: no Python object for any of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from streamkit.native.kinds import BOOL, FLOAT, INT, TEXT
from streamkit.native.loader import Loops
from streamkit.record import Array

_KINDS: dict[Any, tuple[int, Any]] = {
    pl.String: (TEXT, pl.String),
    pl.Boolean: (BOOL, pl.UInt8),
    **dict.fromkeys([pl.Float32, pl.Float64], (FLOAT, pl.Float64)),
    **dict.fromkeys([pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32], (INT, pl.Int64)),
}
"""By a column's type: how `rows.pack` reads it, and as what."""
WIDEST = 9
"""Bytes of a number; and what comes before a text has no more."""


@dataclass(frozen=True, eq=False)
class Strings:
    """Byte strings end to end in one buffer.

    data   uint8: their bytes
    ends   int64, one more than there are: where each begins in `data`, and where the last one ends

    >>> strings = Strings.of([b"one", b"", b"two"])
    >>> len(strings), strings.size, strings.tolist()
    (3, 6, [b'one', b'', b'two'])
    """

    data: Array
    ends: Array

    @classmethod
    def of(cls, strings: Sequence[bytes] | pl.Series) -> Strings:
        series = pl.Series(strings, dtype=pl.Binary)
        array = series.to_arrow()
        _, ends, data = array.buffers()
        return cls(np.frombuffer(data, np.uint8), np.frombuffer(ends, np.int64)[array.offset :][: len(series) + 1])

    def __len__(self) -> int:
        return len(self.ends) - 1

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return int(self.ends[-1] - self.ends[0])

    @property
    def longest(self) -> int:
        """Bytes of the longest one; 0 where there is none."""
        return int(np.diff(self.ends).max(initial=0))

    @cached_property
    def series(self) -> pl.Series:
        buffers = [None, pa.py_buffer(self.ends), pa.py_buffer(self.data)]
        return pl.Series(pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(self), buffers))

    def tolist(self) -> list[bytes]:
        return self.series.to_list()

    def at(self, places: Array | pl.Series) -> Strings:
        """Those in these places."""
        return Strings.of(self.series.gather(places))


@dataclass(frozen=True, eq=False)
class Packed:
    """Keys, in their order and none twice, and as many values.

    >>> from streamkit.native.loader import loader
    >>> packed = Packed.of(loader.load(), Strings.of([b"b", b"a"]), Strings.of([b"22", b"1"]))
    >>> len(packed), packed.size, list(packed)
    (2, 5, [(b'a', b'1'), (b'b', b'22')])
    >>> list(packed.at(np.array([1]))), list(packed.without(np.array([1])))
    ([(b'b', b'22')], [(b'a', b'1')])
    """

    keys: Strings
    values: Strings

    @classmethod
    def of(cls, loops: Loops, keys: Strings, values: Strings) -> Packed | None:
        """Of keys in any order; None where a key is there twice."""
        numbers = loops.order.words(keys.data, keys.ends, loops.order.common(keys.data, keys.ends))
        order = np.argsort(numbers)
        if loops.order.settle(keys.data, keys.ends, numbers, order):
            return None
        return cls(_take(loops, keys, order), _take(loops, values, order))

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return zip(self.keys.tolist(), self.values.tolist(), strict=True)

    @property
    def size(self) -> int:
        """Bytes of the keys and the values."""
        return self.keys.size + self.values.size

    def at(self, places: Array | pl.Series) -> Packed:
        """Those in these places."""
        return Packed(self.keys.at(places), self.values.at(places))

    def without(self, places: Array) -> Packed:
        """All but those in these places."""
        kept = np.ones(len(self), np.bool_)
        kept[places] = False
        return self.at(np.flatnonzero(kept)) if len(places) else self


def _take(loops: Loops, strings: Strings, order: Array) -> Strings:
    """All of them, in another order."""
    taken = Strings(np.empty(strings.size, np.uint8), np.empty(len(strings) + 1, np.int64))
    loops.order.take(strings.data, strings.ends, order, taken.data, taken.ends)
    return taken


def can_pack(frame: pl.DataFrame) -> bool:
    """Are all the columns text, whole numbers of up to 64 bits with sign, floats or bools?"""
    return all(dtype in _KINDS for dtype in frame.dtypes)


def pack_rows(loops: Loops, frame: pl.DataFrame, prefix: bytes = b"", tails: Array | None = None) -> Strings:
    """Each row as a msgpack array, as msgspec makes it.

    Before each comes `prefix`, behind it its row of `tails` (uint8, rows x bytes). The columns are such as `can_pack`
    says.
    """
    columns = [_column(series) for series in frame.iter_columns()]
    tails = np.empty(0, np.uint8) if tails is None else np.ascontiguousarray(tails).ravel()
    most = sum(column.most for column in columns) + (len(prefix) + 3) * len(frame) + len(tails)
    out, ends = np.empty(most, np.uint8), np.zeros(len(frame) + 1, np.int64)
    table = np.array([column.row for column in columns], np.int64).reshape(-1, 4)
    size = loops.rows.pack(table, np.frombuffer(prefix, np.uint8), tails, out, ends)
    return Strings(out[:size], ends)


class _Column(NamedTuple):
    """A column as `rows.pack` reads it; its addresses are good for as long as `held` lives."""

    row: tuple[int, int, int, int]
    most: int
    """Bytes that it becomes, at most."""
    held: tuple[Any, ...]


def _column(series: pl.Series) -> _Column:
    kind, dtype = _KINDS[series.dtype.base_type()]
    nulls = series.is_null().cast(pl.UInt8).to_numpy() if series.null_count() else np.empty(0, np.uint8)
    gone = nulls.ctypes.data if len(nulls) else 0
    if kind == TEXT:
        texts = series.to_arrow()
        _, ends, data = texts.buffers()
        most = WIDEST * len(series) + (data.size if data else 0)
        return _Column((kind, data.address if data else 0, ends.address, gone), most, (texts, nulls))
    values = series.cast(dtype).fill_null(0).to_numpy()
    return _Column((kind, values.ctypes.data, 0, gone), WIDEST * len(series), (values, nulls))
