"""Many records to one partition by one call of librdkafka's, through a confluent-kafka producer's own client.

`Producer.produce` costs 1.5 us a record, and a callback later; this a third, and the interpreter's lock is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from confluent_kafka import Producer

from streamkit.log.base import Change
from streamkit.log.kafka.librdkafka import client_of, library

_COPY = 2
_MESSAGE = np.dtype(
    {
        "names": ["error", "topic", "partition", "value", "length", "key", "key_length", "offset", "private"],
        "formats": ["i4", "i8", "i4", "i8", "i8", "i8", "i8", "i8", "i8"],
        "offsets": [8 * i for i in range(9)],
        "itemsize": 72,
    }
)
"""`rd_kafka_message_t`."""


class Bulk:
    """Sends through `producer`. Raises Unusable where its client cannot be had.

    Nobody is called back about these records: what fails on its way shows only as the failure of the transaction that
    they are part of, so it is for transactional producers alone.
    """

    def __init__(self, producer: Producer) -> None:
        self._producer = producer  # whose life the client's is
        self._client = client_of(producer)
        self._library = library()

    def send(self, topic: str, partition: int, records: Sequence[Change]) -> list[int]:
        """Queue records; returns the numbers of those that were not taken: the queue is full, or one is too large."""
        lib = self._library
        handle = lib.rd_kafka_topic_new(self._client, topic.encode(), None)
        if not handle:
            return list(range(len(records)))
        keys = [key for key, _ in records]
        values = [value for _, value in records]
        joined = b"".join(keys), b"".join([value or b"" for value in values])
        messages = np.zeros(len(records), _MESSAGE)
        _place(messages, "key", "key_length", joined[0], np.fromiter(map(len, keys), np.int64, len(keys)))
        lengths = np.fromiter([-1 if value is None else len(value) for value in values], np.int64, len(values))
        _place(messages, "value", "length", joined[1], lengths)
        try:
            taken = lib.rd_kafka_produce_batch(handle, partition, _COPY, messages.ctypes.data, len(messages))
        finally:
            lib.rd_kafka_topic_destroy(handle)
        return [] if taken == len(messages) else np.flatnonzero(messages["error"]).tolist()


def _place(messages: Any, at: str, length: str, data: bytes, lengths: Any) -> None:
    """Point messages to where their part of `data` lies; a length below 0 stands for none."""
    start = np.frombuffer(data or b"\0", np.uint8).ctypes.data
    sizes = np.maximum(lengths, 0)
    messages[at] = np.where(lengths < 0, 0, start + np.cumsum(sizes) - sizes)
    messages[length] = sizes
