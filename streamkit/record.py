"""Records as they lie on the log, and Chunks: many records of one partition, read at once as columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

Headers = Sequence[tuple[str, bytes | None]]
Array = np.ndarray[Any, Any]


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


class FlatBytes:
    """Byte strings end to end in one buffer.

    data      uint8: their bytes, and at least PADDING more
    starts    int64, one each: where it begins in `data`
    lengths   int64, one each; negative for None

    >>> data = np.frombuffer(b"onetwo" + bytes(FlatBytes.PADDING), np.uint8)
    >>> FlatBytes(data, np.array([0, 3, 3]), np.array([3, -1, 3])).tolist()
    [b'one', None, b'two']
    """

    PADDING: ClassVar[int] = 32

    __slots__ = ("data", "lengths", "starts")

    def __init__(self, data: Array, starts: Array, lengths: Array) -> None:
        self.data, self.starts, self.lengths = data, starts, lengths

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, here: slice | Array) -> FlatBytes:
        """Some of them: a range, or those at places in rising order."""
        return FlatBytes(self.data, self.starts[here], self.lengths[here])

    def tolist(self) -> list[bytes | None]:
        if not len(self.starts):
            return []
        first = int(self.starts[0])
        raw = self.data[first : self.starts[-1] + max(int(self.lengths[-1]), 0)].tobytes()
        starts = (self.starts - first).tolist()
        if int(self.lengths.min()) >= 0:
            return [raw[start : start + n] for start, n in zip(starts, self.lengths.tolist(), strict=True)]
        pairs = zip(starts, self.lengths.tolist(), strict=True)
        return [raw[start : start + n] if n >= 0 else None for start, n in pairs]


class FlatChunk:
    """A Chunk whose columns are arrays; what it is asked for as Python objects is made then.

    `offsets_array` and `timestamps_array` are int64; `headers_of` has those of the records that have any, by their
    place in the chunk.
    """

    def __init__(
        self,
        source: TopicPartition,
        offsets: Array,
        timestamps: Array,
        flat: FlatBytes,
        flat_keys: FlatBytes,
        headers_of: Mapping[int, Headers],
    ) -> None:
        self.source, self.flat, self.flat_keys, self.headers_of = source, flat, flat_keys, headers_of
        self.offsets_array, self.timestamps_array = offsets, timestamps

    def part(self, start: int, stop: int) -> FlatChunk:
        """The records at some places."""
        here = slice(start, stop)
        headers = {place - start: found for place, found in self.headers_of.items() if start <= place < stop}
        arrays = self.offsets_array[here], self.timestamps_array[here]
        return FlatChunk(self.source, *arrays, self.flat[here], self.flat_keys[here], headers)

    @cached_property
    def offsets(self) -> list[int]:
        return list(self.offsets_array.tolist())

    @cached_property
    def values(self) -> list[bytes | None]:
        return self.flat.tolist()

    @cached_property
    def keys(self) -> list[bytes | None]:
        return self.flat_keys.tolist()

    @cached_property
    def timestamps(self) -> list[int]:
        return list(self.timestamps_array.tolist())

    @cached_property
    def headers(self) -> list[Headers]:
        return [self.headers_of.get(i, ()) for i in range(len(self))]

    def __len__(self) -> int:
        return len(self.offsets_array)


def records_of(chunk: Chunk) -> Iterator[Record]:
    """A Chunk's records one by one."""
    topic, partition = chunk.source
    columns = (chunk.offsets, chunk.timestamps, chunk.keys, chunk.values, chunk.headers)
    return (Record(topic, partition, *row) for row in zip(*columns, strict=True))
