"""Records as they lie on the log, and Chunks: many records of one partition, read at once as columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Headers = Sequence[tuple[str, bytes | None]]


class TopicPartition(NamedTuple):
    """One partition of one topic.

    >>> str(TopicPartition("clicks", 3))
    'clicks/3'
    """

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


@dataclass(frozen=True, slots=True)
class Record:
    """One record. `timestamp` is Kafka's, in milliseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Chunk(Protocol):
    """Records of one partition in offset order, as parallel columns.

    Offsets may have gaps (control records, compaction).
    """

    @property
    def source(self) -> TopicPartition: ...
    @property
    def offsets(self) -> Sequence[int]: ...
    @property
    def values(self) -> Sequence[bytes | None]: ...
    @property
    def keys(self) -> Sequence[bytes | None]: ...
    @property
    def timestamps(self) -> Sequence[int]: ...
    @property
    def headers(self) -> Sequence[Headers]: ...
    def __len__(self) -> int: ...


class RecordChunk:
    """A Chunk over Record objects (the memory log, and tests).

    >>> chunk = RecordChunk([Record("clicks", 0, 7, 1_000, b"k", b"v")])
    >>> chunk.source, chunk.offsets, chunk.values
    (TopicPartition(topic='clicks', partition=0), [7], [b'v'])
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    @property
    def source(self) -> TopicPartition:
        first = self._records[0]
        return TopicPartition(first.topic, first.partition)

    @property
    def offsets(self) -> list[int]:
        return [r.offset for r in self._records]

    @property
    def values(self) -> list[bytes | None]:
        return [r.value for r in self._records]

    @property
    def keys(self) -> list[bytes | None]:
        return [r.key for r in self._records]

    @property
    def timestamps(self) -> list[int]:
        return [r.timestamp for r in self._records]

    @property
    def headers(self) -> list[Headers]:
        return [r.headers for r in self._records]

    def __len__(self) -> int:
        return len(self._records)


def records_of(chunk: Chunk) -> Iterator[Record]:
    """A Chunk's records one by one."""
    topic, partition = chunk.source
    columns = (chunk.offsets, chunk.timestamps, chunk.keys, chunk.values, chunk.headers)
    return (Record(topic, partition, *row) for row in zip(*columns, strict=True))
