"""Reading a topic on from where it was left, and a changelog's count and sum of every key."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

PATIENCE_SECONDS = 15.0
BATCH = 20_000

Integers = npt.NDArray[np.int64]
Decode = Callable[[Sequence[Any]], Integers]
"""Values of a changelog, bytes, -> an array of as many rows: count, sum."""


class Tail:
    """A topic, read on from where the last reading ended; of transactions only what is committed."""

    def __init__(self, brokers: str, topic: str, start: dict[int, int] | None = None) -> None:
        self._topic, self._next = topic, dict(start or {})
        self._consumer = Consumer(
            {
                "bootstrap.servers": brokers,
                "group.id": f"tail-{uuid.uuid4().hex}",  # librdkafka wants one; nothing is committed
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 100,
                "log_level": 4,  # not that a topic is gone, at the end
            }
        )

    def _partitions(self) -> list[int]:
        metadata = self._consumer.list_topics(self._topic, timeout=30).topics[self._topic]
        if metadata.error:
            raise KafkaException(metadata.error)
        return list(metadata.partitions)

    def ends(self) -> dict[int, int]:
        """Each partition's end offset."""
        found = {}
        for partition in self._partitions():
            found[partition] = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition))[1]
        return found

    def read(self) -> Iterator[list[Message]]:
        """What came since, to each partition's end. Raises KafkaException."""
        waiting = {}
        for partition in self._partitions():
            if partition not in self._next:
                low, _ = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition))
                self._next[partition] = low
            waiting[partition] = TopicPartition(self._topic, partition, self._next[partition])
        self._consumer.assign(list(waiting.values()))  # anew each time, or an end reached before is not told again
        while waiting:
            batch = []
            for message in self._consumer.consume(BATCH, 0.2):
                if not (error := message.error()):
                    batch.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    where: Any = message  # typed as if a message that tells of an error might have no partition
                    self._next[where.partition()] = where.offset()  # behind the transactions' markers, too
                    waiting.pop(where.partition(), None)
                else:
                    raise KafkaException(error)
            if batch:
                yield batch


def numbers(messages: Sequence[Message]) -> Integers:
    """The numbers of the messages' keys: see `load.key_of`. A changelog's key may have more behind."""
    keys: Iterator[Any] = (message.key() for message in messages)
    digits = b"".join(key[16:32] for key in keys).decode()
    return np.frombuffer(bytes.fromhex(digits), ">i8").astype(np.int64)


class Right(Protocol):
    """What the totals must be: `load.Expected`."""

    counts: Integers

    @property
    def sums(self) -> Integers: ...

    def read(self) -> None: ...


class Changelog:
    """Count and sum of each key as a changelog has them: what its last record says."""

    def __init__(self, brokers: str, topic: str, keys: int, decode: Decode) -> None:
        self._tail, self._decode = Tail(brokers, topic), decode
        self._totals = np.zeros((keys, 2), np.int64)

    def wrong(self, expected: Right) -> str:
        """What differs from what is expected, empty where nothing does.

        All offsets are committed, and yet the changelog may not be readable to its end: the transaction's coordinator
        has made up its mind and writes a marker to each partition, the group's offsets among them. Ours may come
        after the one that the offsets waited for. So what is not right is looked at again, for a while.
        """
        expected.read()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            for some in self._tail.read():
                # Of a key that comes twice numpy takes the last, which is the newest: its partition has the order.
                self._totals[numbers(some)] = self._decode([message.value() for message in some])
            if not (difference := compare(self._totals, expected.counts, expected.sums)):
                return ""
            if time.monotonic() > deadline:
                return difference


def compare(totals: Integers, counts: Integers, sums: Integers) -> str:
    """The first key whose count or sum is wrong, and how many are; empty where none is.

    >>> totals = np.array([[1, 1], [2, 4]])
    >>> compare(totals, np.array([1, 2]), np.array([1, 4]))
    ''
    >>> compare(totals, np.array([1, 3]), np.array([1, 6]))
    '1 of 2 keys are wrong, 3 events are counted instead of 4; key number 1: count 2, sum 4; expected 3, 6'
    """
    bad = np.flatnonzero((totals[:, 0] != counts) | (totals[:, 1] != sums))
    if not len(bad):
        return ""
    n = bad[0]
    return (
        f"{len(bad):,} of {len(counts):,} keys are wrong, {totals[:, 0].sum():,} events are counted instead of "
        f"{counts.sum():,}; key number {n}: count {totals[n, 0]}, sum {totals[n, 1]}; expected {counts[n]}, {sums[n]}"
    )
