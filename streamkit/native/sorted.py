"""Keys and values, in the order of keys, to data blocks of a RocksDB table file, compiled: for `store.sortedfile`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from streamkit.native.memory import byte_at, copy, number_at, word_at
from streamkit.native.order import compare, shared

_i64, _u32 = types.int64, types.uint32
_out = types.uint8[::1]
_table = types.Array(types.uint32, 2, "C", readonly=True)
_stream = types.int64[::1]

KEYS, KEY_ENDS, VALUES, VALUE_ENDS, GONE, COUNT = range(6)
"""A stream of rows: the addresses of its keys, of where each begins and the last one ends (int64), the same of values,
of a byte for each row that is 1 where the key is deleted (of `rows` only), and how many rows."""
ROW, PART, OTHER, WRITTEN = range(4)
"""How far `write` is: with `rows`, in which of the streams, with its rows; rows written."""
BLOCK_BYTES = 16 << 10
RESTARTS = 16
"""Rows from one that has its whole key to the next."""
TRAILER = 5
"""Bytes behind a block: how it is compressed (not), and its checksum."""
_DELETED, _PUT = 0, 1
_WORD = 8


def _crc_table() -> Any:
    table = np.zeros((_WORD, 256), np.uint32)
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table[0, byte] = crc
    for step in range(1, _WORD):
        table[step] = table[step - 1] >> 8 ^ table[0, table[step - 1] & 255]
    return table


CRC = _crc_table()
"""CRC-32C's, eight bytes at a time (Kounavis and Berry, "Novel table lookup-based algorithms", 2008)."""


@njit(_u32(_table, _i64, _i64), cache=True, nogil=True)
def checksum(table: Any, start: Any, stop: Any) -> Any:
    """CRC-32C of the bytes between two addresses, masked as LevelDB and RocksDB do it."""
    crc = np.uint32(0xFFFFFFFF)
    at = start
    while at + 8 <= stop:
        word = word_at(at) ^ np.uint64(crc)
        crc = np.uint32(0)
        for byte in range(8):
            crc ^= table[7 - byte, np.int64(word >> np.uint64(8 * byte) & np.uint64(255))]
        at += 8
    while at < stop:
        crc = crc >> np.uint32(8) ^ table[0, np.int64((crc ^ np.uint32(byte_at(at))) & np.uint32(255))]
        at += 1
    crc = np.uint32(crc ^ np.uint32(0xFFFFFFFF))
    return np.uint32((crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xA282EAD8))


@njit(_i64(_out, _i64, _i64), cache=True, nogil=True)
def _varint(out: Any, at: Any, value: Any) -> Any:
    while value >= 128:
        out[at] = value & 127 | 128
        value >>= 7
        at += 1
    out[at] = value
    return at + 1


@njit(_i64(_out, _i64, _i64), cache=True, nogil=True)
def _fixed(out: Any, at: Any, value: Any) -> Any:
    for byte in range(4):
        out[at + byte] = value >> 8 * byte & 255
    return at + 4


@njit(_i64(_stream, _i64, _i64, _i64), cache=True, nogil=True)
def _place(stream: Any, ends: Any, base: Any, row: Any) -> Any:
    return stream[base] + np.int64(word_at(stream[ends] + 8 * row))


@njit(_i64(_stream, _i64, _stream, _i64), cache=True, nogil=True)
def _compare(left: Any, row: Any, right: Any, other: Any) -> Any:
    """Negative where the key of the left stream's row comes first, 0 where both are the same."""
    a, b = _place(left, KEY_ENDS, KEYS, row), _place(right, KEY_ENDS, KEYS, other)
    return compare(a, _place(left, KEY_ENDS, KEYS, row + 1) - a, b, _place(right, KEY_ENDS, KEYS, other + 1) - b)


@njit(_i64(_table, _out, _i64, _i64, types.int64[::1], _i64), cache=True, nogil=True)
def _end_block(table: Any, out: Any, start: Any, at: Any, restarts: Any, count: Any) -> Any:
    for i in range(count):
        at = _fixed(out, at, restarts[i])
    at = _fixed(out, at, count)
    out[at] = 0  # not compressed
    return _fixed(out, at + 1, np.int64(checksum(table, out.ctypes.data + start, out.ctypes.data + at + 1)))


@njit(_u32(_i64, _i64), cache=True, nogil=True)
def _hash(key: Any, size: Any) -> Any:
    """LevelDB's of a key for Bloom filters; the bytes that are left at its end are signed."""
    multiplier, mask = np.uint64(0xC6A4A793), np.uint64(0xFFFFFFFF)
    hashed = (np.uint64(0xBC9F1D34) ^ np.uint64(size) * multiplier) & mask
    at = key
    while at + 4 <= key + size:
        hashed = (hashed + np.uint64(np.uint32(number_at(at)))) * multiplier & mask
        hashed ^= hashed >> np.uint64(16)
        at += 4
    left = key + size - at
    if left:
        for i in range(left - 1, -1, -1):
            byte = np.int64(byte_at(at + i))
            hashed += np.uint64((byte - 256 if byte > 127 else byte) << 8 * i)
        hashed = (hashed & mask) * multiplier & mask
        hashed ^= hashed >> np.uint64(24)
    return np.uint32(hashed)


@njit(types.void(_out, _i64, types.uint32[::1]), cache=True, nogil=True)
def remember(bloom: Any, probes: Any, hashes: Any) -> None:
    """RocksDB's Bloom filter before version 5: all bits of a key in one line (of 64 bytes)."""
    lines = len(bloom) // 64
    for i in range(len(hashes)):
        bits = np.int64(hashes[i])
        line = bits % lines * 64
        delta = (bits >> 17 | bits << 15) & 0xFFFFFFFF
        for _ in range(probes):
            bloom[line + (bits & 511) // 8] |= 1 << (bits & 7)
            bits = bits + delta & 0xFFFFFFFF


@njit(
    types.UniTuple(_i64, 2)(
        _table, _stream, types.int64[:, ::1], types.int64[::1], _i64, _out, types.int64[:, ::1], types.uint32[::1]
    ),
    cache=True,
    nogil=True,
)
def write(table: Any, rows: Any, packed: Any, done: Any, room: Any, out: Any, blocks: Any, hashes: Any) -> Any:
    """Rows, and streams that follow one another, as data blocks; where both have a key, `packed` has its say.

    It goes on from `done` (ROW, PART, OTHER, WRITTEN: all 0 at first) to the end, or to that of a block behind which
    `out` has less than `room`, and says there how far it is. `blocks` gets a row for each block: where it begins, its
    size without trailer, the address of its last key and its length; `hashes` those of all keys, for `remember`.
    Returns the bytes of the blocks, and how many there are.
    """
    restarts = np.empty(BLOCK_BYTES // 2, np.int64)
    row, part, other, written = done[ROW], done[PART], done[OTHER], done[WRITTEN]
    at = start = count = since = block = 0
    last = last_size = np.int64(0)
    while (row < rows[COUNT] or part < len(packed)) and (at > start or len(out) - at >= room):
        order = np.int64(-1)
        if row == rows[COUNT]:
            order = np.int64(1)
        elif part < len(packed):
            order = _compare(rows, row, packed[part], other)
        if order == 0:
            row += 1
            continue
        gone = False
        if order < 0:
            stream, place = rows, row
            gone = byte_at(rows[GONE] + row) == 1
            row += 1
        else:
            stream, place = packed[part], other
            other += 1
            if other == stream[COUNT]:
                part, other = part + 1, 0
        key, value = _place(stream, KEY_ENDS, KEYS, place), _place(stream, VALUE_ENDS, VALUES, place)
        key_size = _place(stream, KEY_ENDS, KEYS, place + 1) - key
        value_size = _place(stream, VALUE_ENDS, VALUES, place + 1) - value
        same = np.int64(0)
        if at == start or since == RESTARTS:
            restarts[count] = at - start
            count += 1
            since = 0
        else:
            same = shared(last, key, min(last_size, key_size))
        since += 1
        at = _varint(out, at, same)
        at = _varint(out, at, key_size - same + 8)
        at = _varint(out, at, value_size)
        copy(out.ctypes.data + at, key + same, key_size - same)
        at += key_size - same
        out[at] = _DELETED if gone else _PUT
        out[at + 1 : at + 8] = 0  # the sequence number, which RocksDB gives to the file as a whole
        at += 8
        copy(out.ctypes.data + at, value, value_size)
        at += value_size
        last, last_size = key, key_size
        hashes[written] = _hash(key, key_size)
        written += 1
        finished = row == rows[COUNT] and part == len(packed)
        if finished or at - start >= BLOCK_BYTES:
            after = _end_block(table, out, start, at, restarts, count)
            blocks[block, 0], blocks[block, 1] = start, after - TRAILER - start
            blocks[block, 2], blocks[block, 3] = last, last_size
            block += 1
            at = start = after
            count = since = 0
    done[ROW], done[PART], done[OTHER], done[WRITTEN] = row, part, other, written
    return at, block
