"""Data planes: how records get from librdkafka into Chunks. This one does it by Message objects; `flat.py` without."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, Message
from confluent_kafka import TopicPartition as Place

from streamkit.record import Chunk, Headers, TopicPartition


@dataclass(frozen=True, slots=True)
class Event:
    """What librdkafka tells of a partition between its records: its end, or an error."""

    error: KafkaError
    source: TopicPartition
    offset: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one fetch brought: records, and for each partition the offset after its last one; and events."""

    chunks: list[Chunk]
    ends: Mapping[TopicPartition, int]
    events: list[Event]


class Plane(Protocol):
    """Fetches assigned partitions; knows nothing of positions and of what an error means."""

    def fetch(self, max_records: int, wait: float) -> Fetched:
        """What is there, at most `max_records`; may wait up to `wait` seconds for the first record, or less.

        Raises KafkaException.
        """

    def add(self, positions: Mapping[TopicPartition, int]) -> None:
        """Fetch these partitions, too, from these offsets."""

    def remove(self, sources: Collection[TopicPartition]) -> None:
        """Fetch these no more; what of them is buffered is never returned."""

    def close(self) -> None: ...


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


class MessagePlane:
    """By `Consumer.consume`: works wherever confluent-kafka does."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._topics: dict[TopicPartition, str] = {}
        self._one_topic = True

    def fetch(self, max_records: int, wait: float) -> Fetched:
        """`consume(n, t)` waits all of t unless n arrive, so only `poll` may wait."""
        messages: list[Message] = self._consumer.consume(max_records, 0)
        if not messages and wait > 0:
            first = self._consumer.poll(wait)
            if first is not None:
                messages = [first]
                if max_records > 1:
                    messages += self._consumer.consume(max_records - 1, 0)
        events: list[Event] = []
        # A Message is false when its value is empty and an error is true: test the errors, never the messages.
        if any(map(Message.error, messages)):
            events = [
                Event(error, _source(m), m.offset() or 0) for m in messages if (error := m.error()) is not None
            ]  # fmt: skip
            messages = [m for m in messages if m.error() is None]
        runs = self._runs(messages)
        ends = {source: run[-1].offset() + 1 for source, run in runs}  # type: ignore[operator]
        return Fetched([MessageChunk(source, run) for source, run in runs], ends, events)

    def add(self, positions: Mapping[TopicPartition, int]) -> None:
        self._consumer.incremental_assign([Place(*source, offset) for source, offset in positions.items()])
        self._topics |= {source: source.topic for source in positions}
        self._one_topic = len(set(self._topics.values())) <= 1

    def remove(self, sources: Collection[TopicPartition]) -> None:
        self._consumer.incremental_unassign([Place(*source) for source in sources])
        for source in sources:
            self._topics.pop(source, None)
        self._one_topic = len(set(self._topics.values())) <= 1

    def close(self) -> None:
        self._consumer.close()

    def _runs(self, messages: list[Message]) -> Iterable[tuple[TopicPartition, list[Message]]]:
        """Group by partition. A fetch comes as long runs of one partition: cut runs, do not sort records.

        Runs of one topic are told apart by their partition's number, which is quicker.
        """
        if not messages:
            return []
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
        return [(_source(run[-1]), run) for run in groups.values()]


def _source(message: Message) -> TopicPartition:
    return TopicPartition(message.topic(), message.partition())  # type: ignore[arg-type]
