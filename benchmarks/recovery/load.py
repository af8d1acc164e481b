"""The load: events of N distinct keys, a sender that goes on with random ones, and what every key must come to.

An event is about 80 bytes of JSON, its record's key 32: `{"key": "<32 hex digits>", "at": ms, "value": int}`. The key
is made of its number, and the value of a key is always the same, so that what a topic must come to is known.
"""

from __future__ import annotations

import argparse
import random
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from benchmarks.recovery.totals import Tail, numbers

PARTITIONS = 4
BATCH = 20_000
TICK_SECONDS = 0.02
SCATTER = 0x9E3779B97F4A7C15
"""2^64 / golden ratio (Knuth, TAOCP 6.4): keys in the order of their numbers are anywhere in the order of their bytes,
as users' keys are; in order, RocksDB would have next to nothing to compact."""

PRODUCER = {
    "linger.ms": "20",
    "compression.type": "lz4",
    "enable.idempotence": "true",
    "partitioner": "murmur2_random",  # the Java client's
    "queue.buffering.max.messages": "500000",
    "queue.buffering.max.kbytes": "262144",
}


def key_of(number: int) -> bytes:
    """The key with this number.

    >>> key_of(1), key_of(2)
    (b'9e3779b97f4a7c150000000000000001', b'3c6ef372fe94f82a0000000000000002')
    """
    return b"%016x%016x" % (number * SCATTER & 0xFFFF_FFFF_FFFF_FFFF, number)


def value_of(number: Any) -> Any:
    """The value that every event of this key has; of an array, an array.

    >>> value_of(1_234)
    235
    """
    return 1 + number % 1_000


def message(number: int, at: int) -> dict[str, bytes]:
    """An event as `Producer.produce_batch` takes it.

    >>> message(1, 1_700_000_000_000)["value"]
    b'{"key": "9e3779b97f4a7c150000000000000001", "at": 1700000000000, "value": 2}'
    """
    key = key_of(number)
    return {"key": key, "value": b'{"key": "%b", "at": %d, "value": %d}' % (key, at, value_of(number))}


def fill(brokers: str, topic: str, keys: int) -> dict[int, int]:
    """Make the topic, put one event of each key on it, and return its end offsets. Raises KafkaException."""
    admin = AdminClient({"bootstrap.servers": brokers})
    new = NewTopic(topic, PARTITIONS, 1, config={"retention.ms": "-1"})
    admin.create_topics([new])[topic].result()
    producer = Producer({"bootstrap.servers": brokers, **PRODUCER})
    for start in range(0, keys, BATCH):
        _send(producer, topic, range(start, min(start + BATCH, keys)))
    producer.flush()
    ends = Tail(brokers, topic).ends()
    if sum(ends.values()) != keys:
        raise KafkaException(f"topic {topic} has {sum(ends.values()):,} records after {keys:,} were sent")
    return ends


def _send(producer: Producer, topic: str, some: Sequence[int]) -> None:
    at = time.time_ns() // 1_000_000
    batch: list[dict[str, Any]] = [message(number, at) for number in some]
    while producer.produce_batch(topic, batch) < len(batch):
        batch = [each for each in batch if each.pop("_error", None)]  # those that found the queue full
        producer.poll(0.1)
    producer.poll(0)


def send(brokers: str, topic: str, keys: int, rate: int) -> None:
    """Send `rate` events a second, of random keys, until standard input ends, as it does when who started this dies."""
    producer = Producer({"bootstrap.servers": brokers, **PRODUCER})
    draw = random.Random(keys)
    began, sent = time.monotonic(), 0
    while not select.select([sys.stdin], [], [], TICK_SECONDS)[0]:
        due = int((time.monotonic() - began) * rate) - sent
        _send(producer, topic, [draw.randrange(keys) for _ in range(due)])
        sent += due
    producer.flush()


@contextmanager
def sender(brokers: str, topic: str, keys: int, rate: int) -> Iterator[None]:
    """`send` in a process of its own, which has ended, all of it on the topic, at the end of the block."""
    command = [sys.executable, "-m", "benchmarks.recovery.load", brokers, topic, str(keys), str(rate)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert process.stdin
    try:
        yield
    finally:
        process.stdin.close()
        process.wait()
    if process.returncode:
        raise KafkaException(f"the sender ended with {process.returncode}: {' '.join(command)}")


class Expected:
    """How many events of each key are on the topic: one of the fill, and those sent since, which are read."""

    def __init__(self, brokers: str, topic: str, keys: int, filled: dict[int, int]) -> None:
        """`filled` is the topic's end offsets after the fill."""
        self.counts: npt.NDArray[np.int64] = np.ones(keys, np.int64)
        self._tail = Tail(brokers, topic, filled)

    def read(self) -> None:
        """Count what came since the last time; what is sent meanwhile may or may not be among it."""
        for some in self._tail.read():
            np.add.at(self.counts, numbers(some), 1)

    @property
    def sums(self) -> npt.NDArray[np.int64]:
        sums: npt.NDArray[np.int64] = self.counts * value_of(np.arange(len(self.counts)))
        return sums


def main() -> None:
    parser = argparse.ArgumentParser(description=send.__doc__)
    parser.add_argument("brokers")
    parser.add_argument("topic")
    parser.add_argument("keys", type=int)
    parser.add_argument("rate", type=int)
    options = parser.parse_args()
    send(options.brokers, options.topic, options.keys, options.rate)


if __name__ == "__main__":
    main()
