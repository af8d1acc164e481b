"""The data plane without Message objects: librdkafka's queue is drained into flat buffers.

It has a consumer of its own, which fetches and does nothing else: no group, so no rebalance can happen in it. A record
costs a third of what a Message object does, and the interpreter's lock is free meanwhile.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from confluent_kafka import KafkaError, KafkaException

from streamkit.log.kafka.librdkafka import CONSUMER, ErrorCallback, LogCallback, Unusable, address, library
from streamkit.log.kafka.plane import Event, Fetched
from streamkit.native.loader import Loops
from streamkit.record import Chunk, FlatBytes, FlatChunk, Headers, TopicPartition

logger = logging.getLogger(__name__)

_LONGEST_WAIT = 0.2
"""Seconds: within one call to C no signal gets through."""


class FlatPlane:
    """See `Plane`. `loops` are the compiled ones; `on_error` hears of the client's errors as `error_cb` does.

    Raises Unusable where the settings cannot be given to C, or librdkafka is another one.
    """

    def __init__(self, settings: Mapping[str, Any], loops: Loops, on_error: Callable[[KafkaError], None]) -> None:
        self._library = library()
        self._loops, self._on_error = loops.messages, on_error
        # ctypes keeps no reference to them, and librdkafka calls them for as long as the client lives.
        self._callbacks = ErrorCallback(self._hear_error), LogCallback(_hear_log)
        self._client = self._open(settings)
        self._queue = self._library.rd_kafka_queue_get_consumer(self._client)
        self._functions = [
            address(f"rd_kafka_message_{name}") for name in ("timestamp", "headers", "destroy")
        ]  # fmt: skip
        self._messages = np.zeros(0, np.int64)
        self._spare = np.zeros(1, np.int64)

    def _open(self, settings: Mapping[str, Any]) -> Any:
        lib, reason = self._library, ctypes.create_string_buffer(512)
        conf = lib.rd_kafka_conf_new()
        for name, value in {**settings, "log.queue": True}.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if callable(value) or lib.rd_kafka_conf_set(conf, name.encode(), text.encode(), reason, 512):
                lib.rd_kafka_conf_destroy(conf)
                raise Unusable(f"the client setting {name} cannot be given to librdkafka: {reason.value.decode()}")
        lib.rd_kafka_conf_set_error_cb(conf, self._callbacks[0])
        lib.rd_kafka_conf_set_log_cb(conf, self._callbacks[1])
        client = lib.rd_kafka_new(CONSUMER, conf, reason, 512)
        if not client:
            lib.rd_kafka_conf_destroy(conf)
            raise Unusable(f"librdkafka makes no consumer: {reason.value.decode()}")
        lib.rd_kafka_poll_set_consumer(client)
        lib.rd_kafka_set_log_queue(client, None)
        return client

    # -- Plane --------------------------------------------------------------------------------------------------------

    def fetch(self, max_records: int, wait: float) -> Fetched:
        if len(self._messages) < max_records:
            self._messages = np.zeros(max_records, np.int64)
        at = self._messages.ctypes.data
        consume = self._library.rd_kafka_consume_batch_queue
        count = max(0, consume(self._queue, 0, at, max_records))
        if not count and wait > 0:
            first = self._library.rd_kafka_consumer_poll(self._client, int(min(wait, _LONGEST_WAIT) * 1000))
            if first:
                self._messages[0] = first
                count = 1 + max(0, consume(self._queue, 0, at + 8, max_records - 1) if max_records > 1 else 0)
        return self._drain(count) if count else Fetched([], {}, [])

    def add(self, positions: Mapping[TopicPartition, int]) -> None:
        self._change(self._library.rd_kafka_incremental_assign, positions)

    def remove(self, sources: Collection[TopicPartition]) -> None:
        self._change(self._library.rd_kafka_incremental_unassign, dict.fromkeys(sources, 0))

    def close(self) -> None:
        if self._client:
            self._library.rd_kafka_queue_destroy(self._queue)
            self._library.rd_kafka_consumer_close(self._client)
            self._library.rd_kafka_destroy(self._client)
            self._client = None

    # -- records ------------------------------------------------------------------------------------------------------

    def _drain(self, count: int) -> Fetched:
        loops = self._loops
        timestamp, headers, destroy = self._functions
        table = np.empty((loops.ROWS, count), np.int64)
        try:
            size, key_size, errors = loops.measure(
                self._messages, count, table, timestamp, headers, self._spare.ctypes.data
            )
            events: list[Event] = []
            if errors:
                events = [self._event(table[:, i]) for i in np.flatnonzero(table[loops.ERROR])]
                table = np.ascontiguousarray(table[:, table[loops.ERROR] == 0])
            values = self._gather(table[loops.VALUE], table[loops.LENGTH], size)
            keys = self._gather(table[loops.KEY], table[loops.KEY_LENGTH], key_size)
            chunks, ends = self._chunks(table, values, keys)
        finally:
            loops.release(self._messages, count, destroy)
        return Fetched(chunks, ends, events)

    def _gather(self, addresses: Any, lengths: Any, size: int) -> FlatBytes:
        data = np.empty(size + FlatBytes.PADDING, np.uint8)
        data[size:] = 0
        starts = np.empty(len(lengths), np.int64)
        self._loops.gather(data.ctypes.data, starts, addresses, lengths, len(lengths))
        return FlatBytes(data, starts, lengths)

    def _chunks(
        self, table: Any, values: FlatBytes, keys: FlatBytes
    ) -> tuple[list[Chunk], dict[TopicPartition, int]]:  # fmt: skip
        """A Chunk a run of one partition; a fetch comes as long runs."""
        loops, count = self._loops, table.shape[1]
        topics, partitions = table[loops.TOPIC], table[loops.PARTITION]
        starts = np.empty(count, np.int64)
        found = loops.runs(topics, partitions, count, starts)
        bounds = [*starts[:found].tolist(), count]
        chunks: list[Chunk] = []
        ends: dict[TopicPartition, int] = {}
        for start, end in itertools.pairwise(bounds):
            here = slice(start, end)
            source = self._source(topics[start], partitions[start])
            offsets = table[loops.OFFSET, here]
            headers = {
                int(i): self._headers(table[loops.HEADERS, start + i])
                for i in np.flatnonzero(table[loops.HEADERS, here])
            }
            chunks.append(FlatChunk(source, offsets, table[loops.TIME, here], values[here], keys[here], headers))
            ends[source] = int(offsets[-1]) + 1
        return chunks, ends

    def _source(self, topic: Any, partition: Any) -> TopicPartition:
        return TopicPartition(self._library.rd_kafka_topic_name(int(topic)).decode(), int(partition))

    def _headers(self, pointer: Any) -> Headers:
        name, value, size = ctypes.c_char_p(), ctypes.c_void_p(), ctypes.c_size_t()
        found: list[tuple[str, bytes | None]] = []
        get = self._library.rd_kafka_header_get_all
        while get(int(pointer), len(found), name, value, size) == 0:
            content = ctypes.string_at(value.value, size.value) if value.value is not None else None
            found.append(((name.value or b"").decode(), content))
        return found

    def _event(self, message: Any) -> Event:
        """An error's value is its text."""
        loops = self._loops
        text = message[loops.VALUE]
        reason = ctypes.string_at(int(text), int(message[loops.LENGTH])).decode(errors="replace") if text else ""
        topic = message[loops.TOPIC]
        source = self._source(topic, message[loops.PARTITION]) if topic else TopicPartition("", -1)
        return Event(KafkaError(int(message[loops.ERROR]), reason or None), source, int(message[loops.OFFSET]))

    # -- assignment, errors -------------------------------------------------------------------------------------------

    def _change(self, function: Any, positions: Mapping[TopicPartition, int]) -> None:
        if not positions:
            return
        places = self._places(positions)
        error = function(self._client, places)
        self._library.rd_kafka_topic_partition_list_destroy(places)
        if error:
            code, reason = self._library.rd_kafka_error_code(error), self._library.rd_kafka_error_string(error)
            self._library.rd_kafka_error_destroy(error)
            raise KafkaException(KafkaError(code, reason.decode()))

    def _places(self, positions: Mapping[TopicPartition, int]) -> Any:
        lib = self._library
        places = lib.rd_kafka_topic_partition_list_new(len(positions))
        for (topic, partition), offset in positions.items():
            lib.rd_kafka_topic_partition_list_add(places, topic.encode(), partition)
            lib.rd_kafka_topic_partition_list_set_offset(places, topic.encode(), partition, offset)
        return places

    def _hear_error(self, _client: Any, code: int, reason: bytes | None, _opaque: Any) -> None:
        """In the thread that polls. What an exception would do in here nobody knows: `on_error` only takes notes."""
        self._on_error(KafkaError(code, (reason or b"").decode(errors="replace") or None))


def _hear_log(_client: Any, _level: int, facility: bytes, text: bytes) -> None:
    logger.debug("%s: %s", facility.decode(errors="replace"), text.decode(errors="replace"))
