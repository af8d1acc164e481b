"""Reading: Chunks over librdkafka's Messages, and the Reader that yields them."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Place

from streamkit.errors import LogError, OffsetOutOfRange
from streamkit.log import client
from streamkit.record import Chunk, Headers, TopicPartition

if TYPE_CHECKING:
    from streamkit.log.kafka.log import KafkaLog

logger = logging.getLogger(__name__)


class MessageChunk:
    """A Chunk over librdkafka's Message objects; a column is made when it is first asked for."""

    def __init__(self, source: TopicPartition, messages: list[Message]) -> None:
        self.source = source
        self._messages = messages

    # map() over the unbound C method takes half the time of a comprehension that looks it up per message.
    @cached_property
    def offsets(self) -> list[int]:
        return list(map(Message.offset, self._messages))  # type: ignore[arg-type]

    @cached_property
    def values(self) -> list[bytes | None]:
        return list(map(Message.value, self._messages))

    @cached_property
    def keys(self) -> list[bytes | None]:
        return list(map(Message.key, self._messages))

    @cached_property
    def timestamps(self) -> list[int]:
        return [message.timestamp()[1] for message in self._messages]

    @cached_property
    def headers(self) -> list[Headers]:
        return [message.headers() or () for message in self._messages]  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._messages)


class KafkaReader:
    """A Reader by `assign` at given offsets: no group membership, so no rebalance can move it."""

    def __init__(self, log: KafkaLog, positions: Mapping[TopicPartition, int], group: str | None) -> None:
        self._log, self._cluster, self._group = log, log.cluster, group
        self._positions = dict(positions)
        self._failures: dict[TopicPartition | None, LogError] = {}
        self._down = False
        callbacks = {"error_cb": self._on_error, "on_commit": _on_commit}
        required = {**client.READER_REQUIRED, **callbacks, "group.id": group or "streamkit-reader"}
        self._consumer: Consumer = log.cluster.client(Consumer, client.READER, required)
        self._consumer.assign(_places(positions))
        self._note_topics()

    def poll(self, max_records: int, timeout: float) -> list[Chunk]:
        """As `Reader.poll`. While brokers restart it waits, as for records: librdkafka reconnects."""
        deadline = time.monotonic() + timeout
        while True:
            if self._failures:
                raise next(iter(self._failures.values()))
            messages = self._fetch(max_records, max(0.0, deadline - time.monotonic()))
            before = None
            # A Message is false when its value is empty and an error is true: test the errors, never the messages.
            if any(map(Message.error, messages)):
                before = dict(self._positions)
                messages = self._note_events(messages)
            if messages:
                self._down = False
                return self._chunks(messages)
            moved = before is not None and before != self._positions
            if moved or (not self._failures and time.monotonic() >= deadline):
                return []

    def positions(self) -> dict[TopicPartition, int]:
        return dict(self._positions)

    def seek(self, source: TopicPartition, offset: int) -> None:
        if source not in self._positions:
            raise LogError(f"{source}: not read by this reader, which reads {', '.join(map(str, self._positions))}")
        # Taken away and given back: `Consumer.seek` is refused once an error has stopped the partition's fetch.
        place = Place(source.topic, source.partition, offset)
        self._consumer.incremental_unassign([place])
        self._consumer.incremental_assign([place])
        self._positions[source] = offset
        self._failures.pop(source, None)

    def add(self, positions: Mapping[TopicPartition, int]) -> None:
        self._log.check(positions)
        self.remove(positions)  # a partition that is read already is refused otherwise
        self._consumer.incremental_assign(_places(positions))
        self._positions.update(positions)
        self._note_topics()

    def remove(self, sources: Collection[TopicPartition]) -> None:
        gone = [source for source in sources if source in self._positions]
        # What of them is buffered in librdkafka is outdated by this call, and never returned.
        self._consumer.incremental_unassign([Place(*source) for source in gone])
        for source in gone:
            del self._positions[source]
            self._failures.pop(source, None)
        self._note_topics()

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Without a group there is nobody to tell. Never raises: the truth is in the Store."""
        if self._group is None or not positions:
            return
        try:
            self._consumer.commit(offsets=_places(positions), asynchronous=True)
        except KafkaException as failure:
            logger.debug("group %s: positions not committed: %s", self._group, failure)

    def close(self) -> None:
        self._consumer.close()

    def _note_topics(self) -> None:
        """Runs of one topic are told apart by their partition's number, which is quicker."""
        self._one_topic = len({source.topic for source in self._positions}) <= 1

    def _fetch(self, max_records: int, wait: float) -> list[Message]:
        """`consume(n, t)` waits all of t unless n arrive, so only `poll` may wait."""
        try:
            messages: list[Message] = self._consumer.consume(max_records, 0)
            if not messages and wait > 0:
                first = self._consumer.poll(wait)
                if first is not None:
                    messages = [first]
                    if max_records > 1:
                        messages += self._consumer.consume(max_records - 1, 0)
        except KafkaException as failure:
            raise self._cluster.error(failure, "reader") from failure
        return messages

    def _chunks(self, messages: list[Message]) -> list[Chunk]:
        """Group by partition. A fetch comes as long runs of one partition: cut runs, do not sort records."""
        numbers = map(Message.partition, messages)
        marks: list[Any] = list(numbers if self._one_topic else zip(map(Message.topic, messages), numbers, strict=True))
        groups: dict[Any, list[Message]] = {}
        if marks.count(marks[0]) == len(marks):
            groups[marks[0]] = messages
        else:
            start = 0
            for mark, same in groupby(marks):
                end = start + sum(1 for _ in same)
                groups.setdefault(mark, []).extend(messages[start:end])
                start = end
        chunks: list[Chunk] = []
        for run in groups.values():
            source = self._source(run[-1])
            self._advance(source, run[-1].offset() + 1)  # type: ignore[operator]
            chunks.append(MessageChunk(source, run))
        return chunks

    def _note_events(self, messages: list[Message]) -> list[Message]:
        """Take events out from between the records: ends of partitions, and errors."""
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._advance(self._source(message), message.offset())
            else:
                self._fail(error, self._source(message), message.offset())
        return records

    def _advance(self, source: TopicPartition, offset: int | None) -> None:
        # An end of partition may come in the same batch as records that were written after it.
        self._positions[source] = max(self._positions[source], offset or 0)

    def _fail(self, error: KafkaError, source: TopicPartition, offset: int | None) -> None:
        """Remember the failure for the next poll: records of this one must still be returned."""
        if error.name() in client.UNREACHABLE or error.retriable():
            self._on_error(error)
        elif error.name() in client.OUT_OF_RANGE:
            there = self._range(source)
            self._failures[source] = OffsetOutOfRange(
                f"{source}: offset {offset} is not on the log, which has {there}: has retention deleted it?"
            )
        else:
            self._failures[source] = self._cluster.error(error, str(source))

    def _range(self, source: TopicPartition) -> str:
        try:
            start, end = (ask(source.topic).get(source.partition) for ask in (self._log.starts, self._log.ends))
        except LogError as unknown:
            return f"a range that cannot be told ({unknown})"
        return f"[{start}, {end})"

    def _source(self, message: Message) -> TopicPartition:
        return TopicPartition(message.topic(), message.partition())  # type: ignore[arg-type]

    def _on_error(self, error: KafkaError) -> None:
        if error.name() in client.REFUSED or error.fatal():
            self._failures[None] = self._cluster.error(error, "reader")
        elif error.code() == KafkaError._ALL_BROKERS_DOWN and not self._down:
            self._down = True
            logger.warning("no Kafka broker answers at %s; still trying", self._cluster.connection.brokers)
        else:
            logger.debug("reader: %s", error)


def _on_commit(error: KafkaError | None, places: list[Place]) -> None:
    if error is not None:
        logger.debug("positions not committed: %s %s", error, places)


def _places(positions: Mapping[TopicPartition, int]) -> list[Place]:
    return [Place(source.topic, source.partition, offset) for source, offset in positions.items()]
