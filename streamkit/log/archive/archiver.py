"""Copying a topic into its archive: read, close ranges, put the index that names them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from threading import Event

import numpy as np

from streamkit.errors import OffsetOutOfRange, TopicChanged
from streamkit.log.archive.archive import Archive, reach
from streamkit.log.archive.index import ArchiveFile, Index
from streamkit.log.archive.parquet import RangeWriter, part
from streamkit.log.base import Log
from streamkit.record import Chunk, TopicPartition

_POLL = 50_000
_WAIT_SECONDS = 0.5
_LOOK_SECONDS = 5.0
_FILES = 16
"""Files that wait for an index: what a crash, or another archiver, makes one do again."""


@dataclass(frozen=True)
class Limits:
    """When a range is closed: at a multiple of `records` offsets, at `raw` bytes of keys and values, after `age` s."""

    records: int = 250_000
    raw: int = 256 * 1024 * 1024
    age: float = 60.0


@dataclass(frozen=True)
class Progress:
    """How far an archiver is: `records` of this run, all `files` in force, offsets that are still to be read."""

    records: int
    files: int
    left: int


class Collector:
    """Reads on from where the archive ends, and writes the files of ranges that it closes, which nobody knows of yet.

    Ranges end at multiples of `limits.records`, so that a range is a Split's, and files can be joined to whole ones.
    """

    def __init__(self, log: Log, archive: Archive, limits: Limits) -> None:
        self._archive, self._limits = archive, limits
        self.closed: list[ArchiveFile] = []
        """Written, and named by no index yet."""
        self.records = self.archived = 0
        self.base, self._reached = reach(log, archive)
        self._writers: dict[int, RangeWriter] = {}
        self._bounds: dict[int, int] = {}
        self._begun: dict[int, float] = {}
        self._reader = log.reader({self._source(p): offset for p, offset in self._reached.items()})

    def poll(self, timeout: float) -> bool:
        """Read what is there, and close the ranges that are full; True where there was something."""
        chunks = self._reader.poll(_POLL, timeout)
        for chunk in chunks:
            self.records += len(chunk)
            self._add(chunk)
        return bool(chunks)

    def left(self, target: dict[int, int]) -> int:
        """Offsets before `target` that are not read yet."""
        return sum(max(0, end - self._position(partition)) for partition, end in target.items())

    def open(self) -> list[int]:
        """The partitions that have been read beyond their last closed range."""
        return [p for p, reached in self._reached.items() if self._position(p) > reached]

    def aged(self) -> list[int]:
        """The partitions whose range has been open for too long."""
        now = time.monotonic()
        return [p for p in self.open() if now - self._begun.setdefault(p, now) >= self._limits.age]

    def close_range(self, partition: int) -> None:
        """Close what is open of a partition, where the reader is: all before it was read, or is no data."""
        self._close(partition, self._position(partition))

    def committed(self, index: Index) -> None:
        self.archived += sum(file.records for file in self.closed)
        self.base, self.closed = index, []

    def close(self) -> None:
        self._reader.close()
        for writer in self._writers.values():
            writer.abandon()

    def _position(self, partition: int) -> int:
        return self._reader.positions()[self._source(partition)]

    def _source(self, partition: int) -> TopicPartition:
        return TopicPartition(self._archive.topic, partition)

    def _add(self, chunk: Chunk) -> None:
        partition, offsets, at = chunk.source.partition, np.asarray(chunk.offsets, np.int64), 0
        while at < len(offsets):
            writer = self._writer(partition)
            size = self._limits.records
            # Above the first record, not the range's start: a wide gap would be a row of empty files.
            bound = self._bounds.setdefault(partition, (int(offsets[at]) // size + 1) * size)
            stop = int(np.searchsorted(offsets, bound))
            if stop > at:
                writer.add(chunk if stop - at == len(offsets) else part(chunk, at, stop))
                at = stop
            if at < len(offsets) or offsets[-1] == bound - 1:
                self._close(partition, bound)
            elif writer.raw >= self._limits.raw:
                self._close(partition, int(offsets[-1]) + 1)

    def _writer(self, partition: int) -> RangeWriter:
        if partition not in self._writers:
            self._writers[partition] = RangeWriter(partition, self._reached[partition])
            self._begun.setdefault(partition, time.monotonic())
        return self._writers[partition]

    def _close(self, partition: int, end: int) -> None:
        self.closed.append(self._archive.write(self._writer(partition), end))
        self._reached[partition] = end
        for known in (self._writers, self._bounds, self._begun):
            known.pop(partition, None)


class Archiver:
    """Brings an archive to the log's end: once, or for as long as nobody says stop.

    `on_commit` is given each index that it has put in force, and returns the one that is afterwards: there the Iceberg
    table follows, and small files are joined.
    """

    def __init__(
        self,
        log: Log,
        archive: Archive,
        limits: Limits | None = None,
        *,
        on_commit: Callable[[Index], Index] = lambda index: index,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self.log, self.archive, self.limits = log, archive, limits or Limits()
        self._on_commit, self._on_progress = on_commit, on_progress

    def run(self, stop: Event, *, follow: bool = False) -> int:
        """Up to the log's end as it is now, or until `stop`; returns the records that were archived.

        Stopped, it closes what it has read, so that nothing is read twice. Raises as `Archive` and `Log.reader` do.
        """
        records, target = 0, self.log.ends(self.archive.topic)
        while True:
            with closing(Collector(self.log, self.archive, self.limits)) as collector:
                try:
                    done = self._collect(collector, target, stop, follow=follow)
                except OffsetOutOfRange:
                    # Another archiver is ahead of this one, and retention deletes what that one has archived.
                    if self.archive.newest().number == collector.base.number:
                        raise
                    done = False
                records += collector.archived
            if done:
                return records
            target = self.log.ends(self.archive.topic) if follow else target

    def _collect(self, collector: Collector, target: dict[int, int], stop: Event, *, follow: bool) -> bool:
        """False where another archiver was quicker, or partitions came: begin again from the newest index."""
        looked = time.monotonic()
        while True:
            busy = collector.poll(_WAIT_SECONDS)
            done = stop.is_set() or (not follow and not collector.left(target))
            due = collector.open() if done else collector.aged() if follow else []
            for partition in due:
                collector.close_range(partition)
            if follow and time.monotonic() - looked > _LOOK_SECONDS:
                looked, before, target = time.monotonic(), target, self.log.ends(self.archive.topic)
                done = done or set(target) != set(before)
            waiting = len(collector.closed)
            if waiting and (done or due or waiting >= _FILES or (follow and not busy)) and not self.commit(collector):
                return False
            self._on_progress(Progress(collector.records, len(collector.base.files), collector.left(target)))
            if done:  # where partitions came, what is open is read again with them
                return stop.is_set() or not follow

    def commit(self, collector: Collector) -> bool:
        """Put the index that names what was closed; False where it is not this one to go on from.

        Raises TopicChanged: what was read may be of another topic than the files before.
        """
        topic_id = self.log.describe(self.archive.topic).id
        if topic_id != self.archive.topic_id:
            raise TopicChanged(
                f"topic {self.archive.topic!r} was deleted and made again while it was archived (id {topic_id}, the "
                f"archive is of {self.archive.topic_id}): nothing of the new one was added"
            )
        index = collector.base.add(collector.closed)
        if not self.archive.commit(index):
            return False
        collector.committed(self._on_commit(index))
        return collector.base.ends == index.ends
