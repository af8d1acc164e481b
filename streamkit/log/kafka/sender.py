"""A producer as committers use it: remembers the first record that failed, and where each changelog ends."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streamkit.errors import LogError
from streamkit.log import client
from streamkit.log.base import Change
from streamkit.log.kafka.cluster import Cluster
from streamkit.record import Headers, TopicPartition

logger = logging.getLogger(__name__)

Changes = Mapping[TopicPartition, Sequence[Change]]

CALL_SECONDS = 5.0
"""How long one call to librdkafka may take before it is called again: Ctrl-C gets through in between."""
FAILED_BEFORE = (KafkaError._STATE, KafkaError._FATAL)
"""A record is refused because the transaction has failed already, or the producer has."""


class HeldRecord(NamedTuple):
    topic: str
    value: bytes | None
    key: bytes | None
    timestamp: int | None
    headers: Headers
    partition: int | None

    def size(self) -> int:
        return len(self.value or b"") + len(self.key or b"")


class Sender:
    """A producer that remembers the first record that failed, and where the last one of each changelog went."""

    def __init__(self, cluster: Cluster, **required: object) -> None:
        self.cluster = cluster
        self.failure: tuple[str, KafkaError] | None = None
        self.refused: KafkaError | None = None
        self.ends: dict[TopicPartition, int] = {}
        callbacks = {"on_delivery": self._on_delivery, "error_cb": self._on_error}
        # A callback for every record costs 0.2 us of 1 us.
        told = {"delivery.report.only.error": False, "linger.ms": 2}  # `flush` waits for what lingers
        settings = {**client.WRITER_REQUIRED, **told, **callbacks, **required}
        self.producer: Producer = cluster.client(Producer, client.WRITER, settings)

    def send(self, record: HeldRecord, on_delivery: Callable[[KafkaError | None, Message], None] | None = None) -> None:
        """Queue one record; blocks while the queue is full. Raises KafkaException where it can never be sent."""
        topic, value, key, timestamp, headers, partition = record
        number = -1 if partition is None else partition
        items = list(headers) or None
        while True:
            try:
                self.producer.produce(topic, value, key, number, on_delivery, None, timestamp or 0, items)  # type: ignore[arg-type]
            except BufferError:
                self.producer.poll(0.1)  # woken by each record that is done
            except KafkaException as failure:
                if failure.args[0].code() == KafkaError._UNKNOWN_PARTITION and number in self._partitions(topic):
                    continue
                self._note(topic, failure.args[0])
                raise
            else:
                return

    def _partitions(self, topic: str) -> Collection[int]:
        """Those that there are now; this producer, which asks every 5 minutes, knows them from here on, too."""
        known: Collection[int] = self.producer.list_topics(topic, timeout=CALL_SECONDS).topics[topic].partitions
        return known

    def send_changes(self, changes: Changes) -> None:
        """Queue changelog records; a callback for the last one of each partition tells where it ends."""
        self.ends = {}
        for source, records in changes.items():
            topic, number = source
            for i, (key, value) in enumerate(records, 1):  # not a slice of them: each may be made only now
                told = partial(self._on_last, source) if i == len(records) else None
                self.send(HeldRecord(topic, value, key, None, (), number), told)

    def flush(self) -> None:
        """Until every record is on the log, or has failed. Raises KafkaException where the producer is done for.

        By `poll`: `Producer.flush` goes on to call back about records while the exception of a fatal error is pending,
        and loses it.
        """
        while len(self.producer):
            self.producer.poll(0.1)

    def purge(self) -> None:
        """Give up what is not on the log yet."""
        self.producer.purge()
        self.flush()

    def take_failure(self) -> tuple[str, KafkaError] | None:
        failure, self.failure = self.failure, None
        return failure

    def delivery_failed(self, topic: str, error: KafkaError) -> LogError:
        return self.cluster.delivery_failed(topic, error)

    def close(self) -> None:
        """Never raises: a producer that is done for would say so again here, and warn that it cannot abort."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                self.producer.purge()
                self.producer.close()
            except KafkaException as failure:
                logger.debug("committer, while closing: %s", failure)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._note(str(message.topic()), error)

    def _on_last(self, source: TopicPartition, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.ends[source] = message.offset() + 1  # type: ignore[operator]
        self._on_delivery(error, message)

    def _note(self, topic: str, error: KafkaError) -> None:
        if self.failure is None and error.name() not in client.PURGED and error.code() not in FAILED_BEFORE:
            self.failure = topic, error

    def _on_error(self, error: KafkaError) -> None:
        if error.name() in client.REFUSED:
            self.refused = error
        else:
            logger.debug("committer: %s", error)
