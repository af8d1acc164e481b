"""The log in memory: Kafka's semantics in one process, for tests and for looking at a topology without a broker."""

from __future__ import annotations

import threading
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from operator import attrgetter

from streamkit.errors import DeliveryFailed, LogError, OffsetOutOfRange, TopicChanged, TopicMissing
from streamkit.log.base import GroupListener, Look, Member, TopicInfo
from streamkit.log.memory_group import Group, MemoryCommitter, MemoryMember
from streamkit.record import Chunk, Headers, Record, RecordChunk, TopicPartition

MAX_RECORD_BYTES = 1_000_000
"""Key and value together, as the Kafka client's `message.max.bytes`."""


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit MurmurHash2 (org.apache.kafka.common.utils.Utils.murmur2), as an unsigned number.

    >>> murmur2(b"21") == -973932308 % 2**32 and murmur2(b"foobar") == -790332482 % 2**32
    True
    """
    m, mask, whole = 0x5BD1E995, 0xFFFFFFFF, len(data) & ~3
    h = 0x9747B28C ^ len(data)
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    if whole < len(data):
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition Java's client and librdkafka's `murmur2_random` give a key.

    >>> [partition_of(k, 10) for k in (b"", b"a", b"campaign-7")]
    [1, 4, 5]
    """
    return (murmur2(key) & 0x7FFFFFFF) % partitions


@dataclass(slots=True)
class _Partition:
    """Records of `[start, end)` in offset order; offsets without a record are control records."""

    start: int = 0
    end: int = 0
    records: list[Record] = field(default_factory=list)

    def read(self, offset: int, limit: int) -> list[Record]:
        first = bisect_left(self.records, offset, key=attrgetter("offset"))
        return self.records[first : first + limit]


@dataclass(slots=True)
class _Topic:
    info: TopicInfo
    partitions: list[_Partition]
    unkeyed: int = 0

    def choose(self, key: bytes | None) -> int:
        if key is not None:
            return partition_of(key, len(self.partitions))
        self.unkeyed += 1
        return self.unkeyed % len(self.partitions)


class MemoryLog:
    """A Log in this process, safe for threads. `clock` gives seconds; it stamps records sent without a timestamp."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.committed: dict[str, dict[TopicPartition, int]] = {}
        """What members committed, by group: what lag tools would see."""
        self._topics: dict[str, _Topic] = {}
        self._groups: dict[str, Group] = {}
        self._transactional: dict[str, object] = {}
        self._changed = threading.Condition()

    def describe(self, topic: str) -> TopicInfo:
        with self._changed:
            return self._topic(topic).info

    def topics(self) -> list[str]:
        with self._changed:
            return sorted(self._topics)

    def create(self, topic: str, *, partitions: int, config: Mapping[str, str] | None = None) -> TopicInfo:
        del config
        if partitions < 1:
            raise LogError(f"topic {topic}: expected at least 1 partition, got {partitions}")
        with self._changed:
            if topic not in self._topics:
                info = TopicInfo(topic, uuid.uuid4().hex, partitions)
                self._topics[topic] = _Topic(info, [_Partition() for _ in range(partitions)])
            return self._topics[topic].info

    def grow(self, topic: str, partitions: int) -> TopicInfo:
        with self._changed:
            found = self._topic(topic)
            more = partitions - len(found.partitions)
            if more > 0:
                found.partitions += [_Partition() for _ in range(more)]
                found.info = replace(found.info, partitions=partitions)
                self._changed.notify_all()
            return found.info

    def delete(self, topic: str) -> None:
        with self._changed:
            self._topic(topic)
            del self._topics[topic]
            self._changed.notify_all()

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        with self._changed:
            for number, offset in before.items():
                partition = self._partition(TopicPartition(topic, number))
                if offset > partition.end:
                    about = f"{topic}/{number}: cannot delete records before {offset}"
                    raise OffsetOutOfRange(f"{about}: the log ends at {partition.end}")
                partition.start = max(partition.start, offset)
                partition.records = partition.read(partition.start, len(partition.records))

    def gap(self, topic: str, partition: int) -> int:
        """Use up one offset without a record, as the control record of a transaction does; returns that offset."""
        with self._changed:
            place = self._partition(TopicPartition(topic, partition))
            place.end += 1
            self._changed.notify_all()
            return place.end - 1

    def starts(self, topic: str) -> dict[int, int]:
        with self._changed:
            return {number: p.start for number, p in enumerate(self._topic(topic).partitions)}

    def ends(self, topic: str, *, committed: bool = True) -> dict[int, int]:
        del committed  # a transaction is on this log whole or not at all
        with self._changed:
            return {number: p.end for number, p in enumerate(self._topic(topic).partitions)}

    def look(self, topics: Collection[str]) -> dict[str, Look]:
        looks = {}
        for topic in topics:
            with suppress(TopicMissing):
                looks[topic] = Look(self.describe(topic), self.ends(topic))
        return looks

    def reader(self, positions: Mapping[TopicPartition, int]) -> MemoryReader:
        with self._changed:
            for source in positions:
                self._partition(source)
            return MemoryReader(self, positions)

    def writer(self) -> MemoryWriter:
        return MemoryWriter(self)

    def join(
        self, group: str, topics: Collection[str], listener: GroupListener, *, name: str = "streamkit"
    ) -> MemoryMember:
        with self._changed:
            for topic in topics:
                self._topic(topic)
            found = self._groups.setdefault(group, Group())
            return MemoryMember(self, found, frozenset(topics), listener, name)

    def members(self, group: str) -> dict[str, frozenset[TopicPartition]]:
        with self._changed:
            return self._groups[group].members_and_holds() if group in self._groups else {}

    def group_offsets(self, group: str) -> dict[TopicPartition, int]:
        with self._changed:
            return dict(self.committed.get(group, {}))

    def expire(self, member: Member) -> None:
        """Drop a member from its group behind its back, as the broker does when it has heard nothing for too long."""
        assert isinstance(member, MemoryMember)
        with self._changed:
            member.group.drop(member)

    def committer(self, transactional_id: str | None = None) -> MemoryCommitter:
        with self._changed:
            return MemoryCommitter(self, transactional_id)

    def close(self) -> None:
        """Nothing to let go: the records live as long as this object."""

    def _check_size(self, topic: str, value: bytes | None, key: bytes | None) -> None:
        size = len(key or b"") + len(value or b"")
        if size > MAX_RECORD_BYTES:
            raise LogError(f"it has {size} bytes and {MAX_RECORD_BYTES} are allowed")
        self._topic(topic)

    def _append(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        timestamp: int | None = None,
        headers: Headers = (),
        partition: int | None = None,
    ) -> TopicPartition:
        """Put one record on the log; returns where."""
        with self._changed:
            self._check_size(topic, value, key)
            number = self._topic(topic).choose(key) if partition is None else partition
            place = self._partition(TopicPartition(topic, number))
            stamp = timestamp or int(self.clock() * 1_000)
            place.records.append(Record(topic, number, place.end, stamp, key, value, tuple(headers)))
            place.end += 1
            self._changed.notify_all()
            return TopicPartition(topic, number)

    def _topic(self, topic: str) -> _Topic:
        if topic not in self._topics:
            raise TopicMissing(f"topic {topic}: does not exist in this MemoryLog; make it with `create`")
        return self._topics[topic]

    def _partition(self, source: TopicPartition) -> _Partition:
        partitions = self._topic(source.topic).partitions
        if not 0 <= source.partition < len(partitions):
            raise TopicChanged(f"{source}: the topic has {len(partitions)} partitions, numbered from 0")
        return partitions[source.partition]


class MemoryReader:
    """A Reader of a MemoryLog."""

    def __init__(self, log: MemoryLog, positions: Mapping[TopicPartition, int]) -> None:
        self._log, self._positions = log, dict(positions)
        self._ids = {source.topic: log._topic(source.topic).info.id for source in positions}

    def poll(self, max_records: int, timeout: float) -> list[Chunk]:
        deadline = time.monotonic() + timeout
        with self._log._changed:
            while True:
                before = dict(self._positions)
                chunks = self._take(max_records)
                left = deadline - time.monotonic()
                if chunks or self._positions != before or left <= 0:
                    return chunks
                self._log._changed.wait(left)

    def _take(self, max_records: int) -> list[Chunk]:
        places = {source: self._place(source) for source in self._positions}
        chunks: list[Chunk] = []
        for source, place in places.items():
            records = place.read(self._positions[source], max_records)
            if len(records) < max_records or records[-1] is place.records[-1]:
                # What is left of the partition are control records, so the position may pass them.
                self._positions[source] = place.end
            else:
                self._positions[source] = records[-1].offset + 1
            if records:
                chunks.append(RecordChunk(records))
            max_records -= len(records)
            if max_records == 0:
                # Next time this partition comes last, or a busy one would starve those behind it.
                self._positions[source] = self._positions.pop(source)
                break
        return chunks

    def _place(self, source: TopicPartition) -> _Partition:
        place, offset = self._log._partition(source), self._positions[source]
        if self._log._topics[source.topic].info.id != self._ids[source.topic]:
            raise TopicMissing(f"topic {source.topic} was deleted and made again while it was read; open a new reader")
        if not place.start <= offset <= place.end:
            there = f"[{place.start}, {place.end})"
            raise OffsetOutOfRange(f"{source}: offset {offset} is not on the log, which has {there}")
        return place

    def positions(self) -> dict[TopicPartition, int]:
        with self._log._changed:
            return dict(self._positions)

    def seek(self, source: TopicPartition, offset: int) -> None:
        with self._log._changed:
            self._log._partition(source)
            if source not in self._positions:
                raise LogError(f"{source}: not read by this reader, which reads {', '.join(map(str, self._positions))}")
            self._positions[source] = offset

    def add(self, positions: Mapping[TopicPartition, int]) -> None:
        with self._log._changed:
            for source in positions:
                self._log._partition(source)
                self._ids[source.topic] = self._log._topic(source.topic).info.id
            self._positions.update(positions)

    def remove(self, sources: Collection[TopicPartition]) -> None:
        with self._log._changed:
            for source in sources:
                self._positions.pop(source, None)

    def close(self) -> None:
        """Nothing to let go."""


class MemoryWriter:
    """A Writer to a MemoryLog: what is sent is on the log at once."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._failure: DeliveryFailed | None = None

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        timestamp: int | None = None,
        headers: Headers = (),
        partition: int | None = None,
    ) -> None:
        try:
            self._log._append(topic, value, key, timestamp, headers, partition)
        except LogError as error:
            self._failure = self._failure or DeliveryFailed(f"a record for topic {topic} was refused: {error}")

    def flush(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        self.flush()
