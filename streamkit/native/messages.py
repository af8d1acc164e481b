"""librdkafka's messages to flat buffers, compiled: the loops that `log.kafka.flat` drives.

They know `rd_kafka_message_t`, a public struct whose layout has not changed since 2014, and nothing else of librdkafka.
"""

from __future__ import annotations

from typing import Any

from numba import njit, types

from streamkit.native.memory import address_at, call1, call2, copy, number_at

_i64 = types.int64
_column = types.int64[::1]
_table = types.int64[:, ::1]

ERROR, TOPIC, PARTITION, VALUE, LENGTH, KEY, KEY_LENGTH, OFFSET, TIME, HEADERS = range(10)
"""Rows of `measure`'s table. The first eight are a message's fields, in its order and 8 bytes each."""
ROWS = 10


@njit(types.UniTuple(_i64, 3)(_column, _i64, _table, _i64, _i64, _i64), cache=True, nogil=True)
def measure(messages: Any, count: Any, table: Any, timestamp: Any, headers: Any, place: Any) -> Any:
    """What the messages are, as columns; returns the bytes of values and of keys, and how many are errors.

    messages    pointers to `count` messages
    table       ROWS x count: a column a message, lengths negative where there is nothing (a message's own says nothing
                where its pointer is null); HEADERS is the pointer to its headers, or 0
    timestamp   address of `rd_kafka_message_timestamp`; `headers` of `rd_kafka_message_headers`, 0 for not to look
    place       address of 8 bytes that the loop may use
    """
    values, keys, errors = 0, 0, 0
    for i in range(count):
        message = messages[i]
        table[ERROR, i] = number_at(message + 8 * ERROR)
        table[PARTITION, i] = number_at(message + 8 * PARTITION)
        for field in (TOPIC, VALUE, LENGTH, KEY, KEY_LENGTH, OFFSET):
            table[field, i] = address_at(message + 8 * field)
        if table[ERROR, i]:
            errors += 1
            continue
        table[TIME, i] = call2(timestamp, message, place)
        table[HEADERS, i] = 0
        if headers and call2(headers, message, place) & 0xFFFFFFFF == 0:
            table[HEADERS, i] = address_at(place)
        if table[VALUE, i] == 0:
            table[LENGTH, i] = -1
        if table[KEY, i] == 0:
            table[KEY_LENGTH, i] = -1
        values += max(table[LENGTH, i], 0)
        keys += max(table[KEY_LENGTH, i], 0)
    return values, keys, errors


@njit(types.void(_i64, _column, _column, _column, _i64), cache=True, nogil=True)
def gather(target: Any, starts: Any, addresses: Any, lengths: Any, count: Any) -> None:
    """Copy bytes from many addresses to one, end to end; `starts` is where each begins there."""
    at = 0
    for i in range(count):
        starts[i] = at
        if lengths[i] > 0:
            copy(target + at, addresses[i], lengths[i])
            at += lengths[i]


@njit(types.void(_column, _i64, _i64), cache=True, nogil=True)
def release(messages: Any, count: Any, destroy: Any) -> None:
    """Give the messages back: `destroy` is the address of `rd_kafka_message_destroy`."""
    for i in range(count):
        call1(destroy, messages[i])


@njit(_i64(_column, _column, _i64, _column), cache=True, nogil=True)
def runs(topics: Any, partitions: Any, count: Any, starts: Any) -> Any:
    """Where each run of one partition begins; returns how many runs there are."""
    found = 0
    for i in range(count):
        if i == 0 or partitions[i] != partitions[i - 1] or topics[i] != topics[i - 1]:
            starts[found] = i
            found += 1
    return found
