"""From records to values: as columns where nobody wants an object a record, as objects where somebody does."""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import polars as pl

from streamkit.codec import Json
from streamkit.columns import Columns
from streamkit.native.loader import Loops, loader
from streamkit.record import Chunk, FlatChunk, Headers, TopicPartition
from streamkit.topic import Topic

T = TypeVar("T")

_WORTH = 64
"""Records from which on columns are quicker than objects."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that cannot be used, with the reason."""

    source: TopicPartition
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    reason: str


class Decoded(ABC):
    """The values of one partition in offset order.

    `picked` are their places in the `chunk` that they came in, `offsets` and `timestamps` (milliseconds) the records'.
    """

    topic: Topic
    chunk: Chunk
    picked: Sequence[int]

    @property
    @abstractmethod
    def values(self) -> Sequence[Any]:
        """The values as objects of the topic's type."""

    @property
    @abstractmethod
    def offsets(self) -> Sequence[int]: ...

    @property
    @abstractmethod
    def timestamps(self) -> Sequence[int]: ...

    @abstractmethod
    def frame(self, fields: Sequence[str]) -> pl.DataFrame:
        """The values' fields as columns. Raises OverflowError for a whole number beyond 64 bits."""

    @abstractmethod
    def slice(self, start: int, stop: int) -> Decoded: ...

    @property
    def source(self) -> TopicPartition:
        return self.chunk.source

    @property
    def keys(self) -> Sequence[bytes | None]:
        return self._picked(self.chunk.keys)

    @property
    def headers(self) -> Sequence[Headers]:
        return self._picked(self.chunk.headers)

    def _picked(self, column: Sequence[T]) -> Sequence[T]:
        return column if len(self.picked) == len(column) else [column[i] for i in self.picked]

    def __len__(self) -> int:
        return len(self.picked)

    def since(self, offset: int) -> Decoded:
        """Those at `offset` and after it."""
        if not len(self) or self.offsets[0] >= offset:
            return self
        return self.slice(bisect.bisect_left(self.offsets, offset), len(self))

    def before(self, offset: int) -> Decoded:
        """Those before `offset`."""
        if not len(self) or self.offsets[-1] < offset:
            return self
        return self.slice(0, bisect.bisect_left(self.offsets, offset))

    def rejected(self, index: int, reason: str) -> Rejected:
        """The record behind a value, as one that cannot be used."""
        return _rejected(self.chunk, self.picked[index], reason)


@dataclass(frozen=True)
class DecodedObjects(Decoded):
    """Values as objects; columns are made of them when asked for."""

    topic: Topic
    chunk: Chunk
    picked: Sequence[int]
    objects: Sequence[Any]

    @property
    def values(self) -> Sequence[Any]:
        return self.objects

    @cached_property
    def offsets(self) -> Sequence[int]:
        return self._picked(self.chunk.offsets)

    @cached_property
    def timestamps(self) -> Sequence[int]:
        return self._picked(self.chunk.timestamps)

    def frame(self, fields: Sequence[str]) -> pl.DataFrame:
        return objects_frame(self.topic, fields, self.objects)

    def slice(self, start: int, stop: int) -> Decoded:
        return DecodedObjects(self.topic, self.chunk, self.picked[start:stop], self.objects[start:stop])


@dataclass(frozen=True)
class DecodedColumns(Decoded):
    """Values as columns; objects are made of their records when asked for."""

    topic: Topic
    chunk: FlatChunk
    picked: Sequence[int]
    columns: pl.DataFrame

    @cached_property
    def values(self) -> Sequence[Any]:
        decode, records = self.topic.decode, self.chunk.values
        return [decode(records[i]) for i in self.picked]  # type: ignore[arg-type]

    @cached_property
    def offsets(self) -> Any:
        return self._of(self.chunk.offsets_array)

    @cached_property
    def timestamps(self) -> Any:
        return self._of(self.chunk.timestamps_array)

    def frame(self, fields: Sequence[str]) -> pl.DataFrame:
        return self.columns.select(fields)

    def slice(self, start: int, stop: int) -> Decoded:
        columns = self.columns[start:stop]
        return DecodedColumns(self.topic, self.chunk, self.picked[start:stop], columns)

    def _of(self, array: Any) -> Any:
        if isinstance(self.picked, range):
            return array[self.picked.start : self.picked.stop]
        return array[np.asarray(self.picked, np.int64)]


class Decoder:
    """Decodes a topic's Chunks; `fields` are what somebody will ask for as columns.

    Which records are values depends on nothing but record and topic: not on how they come, nor on who asks.
    """

    def __init__(self, topic: Topic, fields: Collection[str] = ()) -> None:
        self._topic, self._fields = topic, tuple(sorted(fields))
        self._columns = Columns.of(topic.value, self._fields) if fields and isinstance(topic.codec, Json) else None

    def __call__(self, chunk: Chunk) -> tuple[Decoded, list[Rejected]]:
        """The chunk's values, and the records that are none."""
        if self._columns is not None and isinstance(chunk, FlatChunk) and len(chunk) >= _WORTH:
            loops = loader.loops()
            if loops is not None:
                return self._by_columns(self._columns, loops, chunk)
        return self._by_objects(chunk)

    def _by_objects(self, chunk: Chunk) -> tuple[Decoded, list[Rejected]]:
        decode = self._topic.decode
        try:
            values = [decode(v) for v in chunk.values]  # type: ignore[arg-type]
        except (ValueError, TypeError):
            good, values, rejected = self._each(chunk, range(len(chunk)), chunk.values)
            return DecodedObjects(self._topic, chunk, good, values), rejected
        return DecodedObjects(self._topic, chunk, range(len(values)), values), []

    def _by_columns(self, columns: Columns, loops: Loops, chunk: FlatChunk) -> tuple[Decoded, list[Rejected]]:
        """What the scanner is in doubt about is decoded as objects, and takes its place among the columns."""
        frame, taken = columns.take(loops, chunk.flat)
        if taken.all():
            return DecodedColumns(self._topic, chunk, range(len(chunk)), frame), []
        doubtful = np.flatnonzero(taken == 0)
        if 4 * len(doubtful) > len(chunk):
            return self._by_objects(chunk)
        good, values, rejected = self._each(chunk, doubtful.tolist(), chunk.flat[doubtful].tolist())
        try:
            mended = objects_frame(self._topic, self._fields, values)
        except OverflowError:  # a whole number beyond 64 bits: each View says which record it cannot use
            return self._by_objects(chunk)
        places = np.concatenate([np.flatnonzero(taken), np.array(good, np.int64)])
        order = np.argsort(places, kind="stable")
        frame = pl.concat([frame.filter(pl.Series(taken) == 1), mended])[order]
        return DecodedColumns(self._topic, chunk, places[order].tolist(), frame), rejected

    def _each(
        self, chunk: Chunk, places: Sequence[int], payloads: Sequence[bytes | None]
    ) -> tuple[list[int], list[Any], list[Rejected]]:
        """The values of these `payloads`, which lie at these places of the chunk, one by one."""
        good: list[int] = []
        values: list[Any] = []
        rejected: list[Rejected] = []
        for i, payload in zip(places, payloads, strict=True):
            try:
                if payload is None:
                    raise ValueError("a record without a value (a tombstone) is no event")
                values.append(self._topic.decode(payload))
                good.append(i)
            except ValueError as error:
                rejected.append(_rejected(chunk, i, f"not a {self._topic.schema.owner}: {error}"))
        return good, values, rejected


def objects_frame(topic: Topic, fields: Sequence[str], values: Sequence[Any]) -> pl.DataFrame:
    """Fields of objects, as columns."""
    return pl.DataFrame([topic.schema[name].column(values) for name in fields])


def _rejected(chunk: Chunk, at: int, reason: str) -> Rejected:
    record = (chunk.source, chunk.offsets[at], chunk.timestamps[at], chunk.keys[at], chunk.values[at])
    return Rejected(*record, reason)


def numbers(runs: Iterable[Sequence[int]]) -> Any:
    """Runs of whole numbers end to end, as int64."""
    return np.concatenate([np.asarray(run, np.int64) for run in runs])
