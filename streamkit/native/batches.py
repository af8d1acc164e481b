"""Record batches as they lie on the log (KIP-98's format, "magic 2") to columns, compiled: for `log.kafka.batches`.

Everything is big-endian but the numbers within records, which are zigzag varints. Nothing is trusted that would lead
out of a batch: what does not add up is told as malformed, and librdkafka looks at it instead.
"""

from __future__ import annotations

from typing import Any

from numba import njit, types

_i64 = types.int64
_bytes = types.Array(types.uint8, 1, "C", readonly=True)
_table = types.int64[:, ::1]
_pair = types.UniTuple(_i64, 2)

BASE, START, STOP, ATTRIBUTES, LAST, TIME, GREATEST, PRODUCER, COUNT = range(9)
"""Rows of `batches`' table: offset of the first record, where the records lie, attributes, offset of the last record,
timestamps of the first one and the greatest, producer id, how many records."""
BATCH_ROWS = 9
OFFSET, STAMP, VALUE, LENGTH, KEY, KEY_LENGTH, HEADERS = range(7)
"""Rows of `records`' table: where a value or a key lies, lengths negative for none; where headers lie, 0 for none."""
RECORD_ROWS = 7

HEAD, LEAST = 61, 7
"""Bytes of a batch before its records, and of the shortest record."""
CODEC, APPEND_TIME, TRANSACTIONAL, CONTROL = 7, 8, 16, 32
"""Bits of the attributes."""
MALFORMED = -1
_MAGIC = 2


@njit(_i64(_bytes, _i64, _i64), cache=True, nogil=True)
def _number(data: Any, at: Any, size: Any) -> Any:
    value = 0
    for i in range(size):
        value = (value << 8) | data[at + i]
    shift = 64 - 8 * size
    return (value << shift) >> shift


@njit(_pair(_bytes, _i64, _i64), cache=True, nogil=True)
def varint(data: Any, at: Any, stop: Any) -> Any:
    """A number, and where it ends: MALFORMED where that would be behind `stop`."""
    value, shift = 0, 0
    while at < stop and shift < 70:
        byte = _i64(data[at])
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return (value >> 1 & 0x7FFFFFFFFFFFFFFF) ^ -(value & 1), at
    return 0, MALFORMED


@njit(_i64(_bytes, _i64, _i64, _table), cache=True, nogil=True)
def batches(data: Any, at: Any, stop: Any, table: Any) -> Any:
    """The whole batches from `at` on, a column each, without one that is cut off. MALFORMED: another format."""
    found = 0
    while at + HEAD <= stop:
        if data[at + 16] != _MAGIC:
            return MALFORMED
        size = _number(data, at + 8, 4)
        end = at + 12 + size
        if size < HEAD - 12:
            return MALFORMED
        if end > stop:
            break
        base = _number(data, at, 8)
        table[BASE, found] = base
        table[START, found] = at + HEAD
        table[STOP, found] = end
        table[ATTRIBUTES, found] = _number(data, at + 21, 2)
        table[LAST, found] = base + _number(data, at + 23, 4)
        table[TIME, found] = _number(data, at + 27, 8)
        table[GREATEST, found] = _number(data, at + 35, 8)
        table[PRODUCER, found] = _number(data, at + 43, 8)
        table[COUNT, found] = _number(data, at + 57, 4)
        found += 1
        at = end
    return found


@njit(_i64(_bytes, _table, _i64, _i64, _table), cache=True, nogil=True)
def records(data: Any, table: Any, count: Any, wanted: Any, out: Any) -> Any:
    """The records of `count` batches from offset `wanted` on, a column each; returns how many, or MALFORMED."""
    found = 0
    for batch in range(count):
        at, end = table[START, batch], table[STOP, batch]
        fixed = table[ATTRIBUTES, batch] & APPEND_TIME
        for _ in range(table[COUNT, batch]):
            size, at = varint(data, at, end)
            stop = at + size
            if at < 0 or size < 0 or stop > end:
                return MALFORMED
            time, at = varint(data, at + 1, stop)
            if at < 0:
                return MALFORMED
            delta, at = varint(data, at, stop)
            if at < 0:
                return MALFORMED
            key_length, key = varint(data, at, stop)
            if key < 0 or key_length > stop - key:
                return MALFORMED
            length, value = varint(data, key + max(key_length, 0), stop)
            if value < 0 or length > stop - value:
                return MALFORMED
            headers = value + max(length, 0)
            if headers >= stop:
                return MALFORMED
            offset = table[BASE, batch] + delta
            if offset >= wanted:
                if found >= out.shape[1]:
                    return MALFORMED
                out[OFFSET, found] = offset
                out[STAMP, found] = table[GREATEST, batch] if fixed else table[TIME, batch] + time
                out[VALUE, found] = value
                out[LENGTH, found] = max(length, -1)
                out[KEY, found] = key
                out[KEY_LENGTH, found] = max(key_length, -1)
                out[HEADERS, found] = headers if data[headers] else 0
                found += 1
            at = stop
    return found
