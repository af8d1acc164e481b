"""A Log that reads archive, then log: each offset exactly once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from streamkit.errors import OffsetOutOfRange
from streamkit.log.archive.archive import Archive, reach
from streamkit.log.archive.index import ArchiveFile, Index
from streamkit.log.archive.objects import Objects
from streamkit.log.archive.parquet import part
from streamkit.log.base import Log, Reader
from streamkit.native.loader import loader
from streamkit.record import Chunk, FlatChunk, TopicPartition

_BULK = 15_000
"""Records of a file from which on the compiled loops are worth loading."""


class ArchivedLog:
    """A Log whose `topics` reach down to where their archives start. All else is the log's own.

    Raises, beside what the log does: OffsetOutOfRange where records lie neither in the archive nor on the log,
    TopicChanged where the archive is of an earlier topic of that name, ArchiveDamaged, ArchiveUnreachable.
    """

    def __init__(self, log: Log, objects: Objects, topics: Collection[str]) -> None:
        self._log, self._objects, self._topics = log, objects, frozenset(topics)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def archive(self, topic: str) -> Archive | None:
        """The topic's archive; None where it is not one of those that are archived."""
        return Archive.of(self._objects, self._log.describe(topic)) if topic in self._topics else None

    def starts(self, topic: str) -> dict[int, int]:
        """The first offset of each partition that is still there, in the archive or on the log."""
        archive = self.archive(topic)
        if archive is None:
            return self._log.starts(topic)
        index, reached = reach(self._log, archive)
        return {p: index.starts.get(p, offset) for p, offset in reached.items()}

    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader:
        archives = {topic: self.archive(topic) for topic in {source.topic for source in positions}}
        known = {topic: archive for topic, archive in archives.items() if archive is not None}
        return ArchivedReader(self._log, known, positions) if known else self._log.reader(positions)


class ArchivedReader:
    """Reads each partition from its archive as far as that goes, then from the log.

    Where retention was quicker than it, as while a long archive is read, the archive has gone on meanwhile, and so does
    this reader there.
    """

    def __init__(self, log: Log, archives: Mapping[str, Archive], positions: Mapping[TopicPartition, int]) -> None:
        self._log, self._archives = log, archives
        self._indexes = {topic: archive.newest() for topic, archive in archives.items()}
        self._files: dict[TopicPartition, _OpenFile] = {}
        self._refused: dict[TopicPartition, int] = {}
        self._reader = log.reader({})
        self.add(positions)

    def poll(self, max_records: int, timeout: float) -> list[Chunk]:
        """As `Reader.poll`; what the archive has comes first, and the log is not waited for meanwhile."""
        if self._refused:
            raise self._out_of_range(*next(iter(self._refused.items())))
        chunks: list[Chunk] = []
        waiting = bool(self._files)
        share = max(1, max_records // max(1, len(self._files)))
        for source, file in list(self._files.items()):
            left = max_records - sum(map(len, chunks))
            if left > 0:
                chunks += file.take(min(left, share))
                if file.done:
                    del self._files[source]
                    self._place(source, file.file.end)
        left = max_records - sum(map(len, chunks))
        return chunks + (self._poll_log(left, 0.0 if waiting else timeout) if left > 0 else [])

    def positions(self) -> dict[TopicPartition, int]:
        archived = {source: file.position for source, file in self._files.items()}
        return {**self._reader.positions(), **archived, **self._refused}

    def seek(self, source: TopicPartition, offset: int) -> None:
        if source not in self.positions():
            self._reader.seek(source, offset)  # which says that it is not read
            return
        self.remove([source])
        self._place(source, offset)

    def add(self, positions: Mapping[TopicPartition, int]) -> None:
        elsewhere = {s: offset for s, offset in positions.items() if s.topic not in self._archives}
        if elsewhere:
            self._reader.add(elsewhere)
        for source, offset in positions.items():
            if source.topic in self._archives:
                self._place(source, offset)

    def remove(self, sources: Collection[TopicPartition]) -> None:
        for source in sources:
            self._files.pop(source, None)
            self._refused.pop(source, None)
        self._reader.remove(sources)

    def close(self) -> None:
        self._reader.close()

    def _poll_log(self, most: int, timeout: float) -> list[Chunk]:
        """What retention deletes before it is read here, an archiver has archived: then back to the archive."""
        try:
            return self._reader.poll(most, timeout)
        except OffsetOutOfRange:
            places = [(source, at) for source, at in self._reader.positions().items() if source.topic in self._archives]
            newest = {topic: archive.newest() for topic, archive in self._archives.items()}
            gone = [(source, at) for source, at in places if newest[source.topic].at(source.partition, at)]
            if not gone:
                raise
            self._indexes = newest
            self._reader.remove([source for source, _ in gone])
            for source, at in gone:
                self._place(source, at)
            return []

    def _place(self, source: TopicPartition, offset: int) -> None:
        """Read on at an offset: in the archive if that has it."""
        file = self._index(source).at(source.partition, offset)
        if file is not None:
            self._files[source] = _OpenFile(self._archives[source.topic], file, offset)
        elif offset < self._index(source).starts.get(source.partition, 0):
            self._refused[source] = offset
        else:
            self._reader.add({source: offset})

    def _index(self, source: TopicPartition) -> Index:
        return self._indexes[source.topic]

    def _out_of_range(self, source: TopicPartition, offset: int) -> OffsetOutOfRange:
        start = self._index(source).starts[source.partition]
        end = self._log.ends(source.topic).get(source.partition)
        return OffsetOutOfRange(
            f"{source}: offset {offset} is neither in the archive nor on the log, which have [{start}, {end}) together"
        )


class _OpenFile:
    """A file of an archive that is being read; it is opened when it is first asked for records."""

    def __init__(self, archive: Archive, file: ArchiveFile, offset: int) -> None:
        self._archive, self.file, self.position = archive, file, offset
        self._chunks: Iterator[FlatChunk] | None = None
        self._rest: FlatChunk | None = None

    @property
    def done(self) -> bool:
        return self.position == self.file.end

    def take(self, most: int) -> list[Chunk]:
        """The next records, at most so many; the position is the file's end when there are no more."""
        taken: list[Chunk] = []
        while most > 0 and (chunk := self._rest or next(self._opened(), None)) is not None:
            self._rest = part(chunk, most, len(chunk)) if len(chunk) > most else None
            taken.append(part(chunk, 0, most) if self._rest is not None else chunk)
            most -= len(taken[-1])
            self.position = int(taken[-1].offsets[-1]) + 1
        if most > 0 and self._rest is None:
            self.position = self.file.end
        return taken

    def _opened(self) -> Iterator[FlatChunk]:
        if self._chunks is None:
            if self.file.records >= _BULK:
                loader.ready()
            self._chunks = self._archive.chunks(self.file, self.position)
        return self._chunks
