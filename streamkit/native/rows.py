"""Columns to msgpack rows, and the bits of a Bloom filter, compiled: for `packed.py` and `store.filter`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from streamkit.native.kinds import BOOL, FLOAT, INT
from streamkit.native.memory import byte_at, copy, word_at

_i64, _u64 = types.int64, types.uint64
_hashes = types.Array(types.uint64, 1, "C", readonly=True)
_bytes = types.Array(types.uint8, 1, "C", readonly=True)
_out = types.uint8[::1]

KIND, VALUES, ENDS, NULLS = range(4)
"""A column: its kind, the addresses of its values (of a text's bytes), of a text's offsets, of a byte for each row that
is 1 where there is none (0 for a column without such rows)."""


@njit(_i64(_out, _i64, _u64, _i64), cache=True, nogil=True)
def _big_endian(out: Any, at: Any, value: Any, size: Any) -> Any:
    for i in range(size):
        out[at + i] = (value >> np.uint64(8 * (size - 1 - i))) & np.uint64(255)
    return at + size


@njit(_i64(_out, _i64, _i64), cache=True, nogil=True)
def _whole(out: Any, at: Any, value: Any) -> Any:
    """The shortest of msgpack's forms."""
    if -32 <= value < 128:
        out[at] = value & 255
        return at + 1
    tag, limit = (0xCC, value >> 8) if value >= 0 else (0xD0, (-1 - value) >> 7)
    power = 0
    while limit and power < 3:
        limit >>= 8 << power
        power += 1
    out[at] = tag + power
    return _big_endian(out, at + 1, np.uint64(value), 1 << power)


@njit(_i64(_out, _i64, _i64, _i64), cache=True, nogil=True)
def _text(out: Any, at: Any, address: Any, length: Any) -> Any:
    if length < 32:
        out[at] = 0xA0 | length
        at += 1
    else:
        size, tag = (1, 0xD9) if length < 1 << 8 else (2, 0xDA) if length < 1 << 16 else (4, 0xDB)
        out[at] = tag
        at = _big_endian(out, at + 1, np.uint64(length), size)
    copy(out.ctypes.data + at, address, length)
    return at + length


@njit(_i64(_out, _i64, types.Array(types.int64, 2, "C", readonly=True), _i64, _i64), cache=True, nogil=True)
def _value(out: Any, at: Any, columns: Any, column: Any, row: Any) -> Any:
    kind, values, nulls = columns[column, KIND], columns[column, VALUES], columns[column, NULLS]
    if nulls and byte_at(nulls + row):
        out[at] = 0xC0
        return at + 1
    if kind == INT:
        return _whole(out, at, np.int64(word_at(values + 8 * row)))
    if kind == FLOAT:
        out[at] = 0xCB
        return _big_endian(out, at + 1, word_at(values + 8 * row), 8)
    if kind == BOOL:
        out[at] = 0xC3 if byte_at(values + row) else 0xC2
        return at + 1
    start = np.int64(word_at(columns[column, ENDS] + 8 * row))
    stop = np.int64(word_at(columns[column, ENDS] + 8 * row + 8))
    return _text(out, at, values + start, stop - start)


@njit(
    _i64(types.Array(types.int64, 2, "C", readonly=True), _bytes, _bytes, _out, types.int64[::1]),
    cache=True,
    nogil=True,
)
def pack(columns: Any, prefix: Any, tails: Any, out: Any, offsets: Any) -> Any:
    """Each row as `prefix`, an array of the columns' values, and its share of `tails`; returns the bytes of `out`.

    Row `i` is `out[offsets[i] : offsets[i + 1]]`. There are fewer than 65,536 columns.
    """
    rows, width = len(offsets) - 1, len(columns)
    tail = len(tails) // rows if rows else 0
    at = 0
    offsets[0] = 0
    for row in range(rows):
        copy(out.ctypes.data + at, prefix.ctypes.data, len(prefix))
        at += len(prefix)
        if width < 16:
            out[at] = 0x90 | width
            at += 1
        else:
            out[at] = 0xDC
            at = _big_endian(out, at + 1, np.uint64(width), 2)
        for column in range(width):
            at = _value(out, at, columns, column, row)
        copy(out.ctypes.data + at, tails.ctypes.data + row * tail, tail)
        at += tail
        offsets[row + 1] = at
    return at


@njit(types.boolean[::1](types.uint64[::1], _hashes, _i64), cache=True, nogil=True)
def known(words: Any, hashes: Any, probes: Any) -> Any:
    """For each of the hashes, are its bits all set? See `store.filter`, which has the same without this."""
    found = np.ones(len(hashes), np.bool_)
    mask = np.uint64(len(words) // 8 - 1)
    for i in range(len(hashes)):
        line = np.int64(hashes[i] & mask) * 8
        bits = hashes[i] >> np.uint64(28)
        for _ in range(probes):
            word = words[line + np.int64(bits >> np.uint64(6) & np.uint64(7))]
            found[i] &= word >> (bits & np.uint64(63)) & np.uint64(1) != 0
            bits >>= np.uint64(9)
    return found


@njit(types.void(types.uint64[::1], _hashes, _i64), cache=True, nogil=True)
def remember(words: Any, hashes: Any, probes: Any) -> None:
    """Set the bits of the hashes."""
    mask = np.uint64(len(words) // 8 - 1)
    for i in range(len(hashes)):
        line = np.int64(hashes[i] & mask) * 8
        bits = hashes[i] >> np.uint64(28)
        for _ in range(probes):
            words[line + np.int64(bits >> np.uint64(6) & np.uint64(7))] |= np.uint64(1) << (bits & np.uint64(63))
            bits >>= np.uint64(9)
