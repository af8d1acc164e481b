"""The archive of one topic: its indexes and files, and how they change."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator

import msgspec

from streamkit.errors import ArchiveDamaged, OffsetOutOfRange, TopicChanged
from streamkit.log.archive.index import ArchiveFile, Index, data_path, folder_of, index_path
from streamkit.log.archive.objects import Objects
from streamkit.log.archive.parquet import FileReader, RangeWriter
from streamkit.log.base import Log, TopicInfo
from streamkit.record import FlatChunk, TopicPartition

KEPT = 20
"""Indexes that stay beside the newest one."""
GRACE_SECONDS = 3_600.0
"""How long files stay that another one has replaced: for those who read by an older index."""


class Archive:
    """The archive of one topic, known by its id, below `objects`."""

    def __init__(self, objects: Objects, topic: str, topic_id: str) -> None:
        self.objects, self.topic, self.topic_id = objects, topic, topic_id
        self._folder = f"{topic}/{folder_of(topic_id)}"

    @classmethod
    def of(cls, objects: Objects, topic: TopicInfo) -> Archive:
        """Raises TopicChanged where the archive is of an earlier topic of that name."""
        others = [found for found in objects.folders(topic.name) if found != folder_of(topic.id)]
        if others:
            raise TopicChanged(
                f"topic {topic.name!r} was deleted and made again: its id is {topic.id}, and the archive "
                f"{objects.url_of(topic.name)} is of id {', '.join(others)}. Offsets of one mean nothing in the other: "
                f"give the new topic another archive (--archive, STREAMKIT_ARCHIVE), or move that one away"
            )
        return cls(objects, topic.name, topic.id)

    @property
    def url(self) -> str:
        return self.objects.url_of(self._folder)

    def url_of(self, file: ArchiveFile) -> str:
        return self.objects.url_of(f"{self._folder}/{file.path}")

    # -- indexes ------------------------------------------------------------------------------------------------------

    def newest(self) -> Index:
        """The files in force; an Index of number 0, without files, where nothing was archived yet.

        Raises ArchiveDamaged, TopicChanged.
        """
        while numbers := self._numbers():
            try:
                content = self.objects.read(self._path(index_path(numbers[-1])))
            except FileNotFoundError:
                continue  # so many came meanwhile that it was pruned
            return self._decode(content, numbers[-1])
        return Index(self.topic, self.topic_id)

    def commit(self, index: Index) -> bool:
        """Put the next index in force; False where another archiver was quicker: begin again from `newest`.

        This is the one step at which anything changes for readers. The files it adds must have been written since the
        index before it was read: `clean` relies on that.
        """
        if not self.objects.create(self._path(index_path(index.number)), msgspec.json.encode(index)):
            return False
        # Stopped for long after reading number 4, an archiver finds no 5: others have put it, and 25 more, and pruned
        # it. What it puts then nobody will read. As KEPT indexes stay, nothing was pruned at 5 while the newest is at
        # most 5 + KEPT; beyond that it counts as refused, and `newest` tells what is in force.
        numbers = self._numbers()
        if numbers[-1] - index.number > KEPT:
            return False
        self.objects.delete(self._path(index_path(n)) for n in numbers if n < numbers[-1] - KEPT)
        return True

    def clean(self, grace_seconds: float = GRACE_SECONDS) -> int:
        """Delete the files that were replaced long enough ago, and those that no index has ever named; how many.

        What is found first and is not in the index that is put next is in nobody's hands: an archiver that wrote such
        a file had read an older index, so its own next one has a number that is taken, is refused, and it begins again
        with other files; one that has read this index writes files that were not found.
        """
        found = self.objects.names(self._path("data"))
        index = self.newest()
        named = {self._path(f.path) for f in index.files} | {self._path(d.path) for d in index.dropped}
        before = int((time.time() - grace_seconds) * 1000)
        if not set(found) - named and not any(d.at < before for d in index.dropped):
            return 0
        index = index.forget(before)
        if not self.commit(index):
            return 0
        named = {self._path(f.path) for f in index.files} | {self._path(d.path) for d in index.dropped}
        gone = [path for path in found if path not in named]
        self.objects.delete(gone)
        return len(gone)

    def _decode(self, content: memoryview, number: int) -> Index:
        try:
            index = msgspec.json.decode(content, type=Index)
        except msgspec.DecodeError as error:
            raise ArchiveDamaged(f"archive {self.url}: index {number} is no index: {error}") from error
        if (index.topic, index.topic_id, index.number) != (self.topic, self.topic_id, number):
            raise TopicChanged(
                f"archive {self.url}: index {number} is number {index.number} of topic {index.topic!r} with id "
                f"{index.topic_id}, expected {self.topic!r} with id {self.topic_id}: were files moved by hand?"
            )
        index.check()
        return index

    def _numbers(self) -> list[int]:
        return [int(name.rpartition("/")[2].partition(".")[0]) for name in self.objects.names(self._path("index"))]

    def _path(self, path: str) -> str:
        return f"{self._folder}/{path}"

    # -- files --------------------------------------------------------------------------------------------------------

    def write(self, writer: RangeWriter, end: int) -> ArchiveFile:
        """Close a range at `end`; its file is there when this returns, and nobody knows of it before `commit`."""
        file, content = writer.finish(end, data_path(writer.partition, writer.start, end))
        with content:
            self.objects.write(self._path(file.path), content)
        return file

    def content(self, file: ArchiveFile) -> memoryview:
        """The bytes of a file. Raises ArchiveDamaged where it is missing, or not what was written."""
        try:
            content = self.objects.read(self._path(file.path))
        except FileNotFoundError:
            raise ArchiveDamaged(self._damaged(file, "is missing")) from None
        digest = hashlib.sha256(content).hexdigest()
        if digest != file.sha256:
            found = f"has {len(content):,} bytes with SHA-256 {digest[:12]}..., expected {file.bytes:,} bytes with "
            raise ArchiveDamaged(self._damaged(file, f"{found}{file.sha256[:12]}..."))
        return content

    def chunks(self, file: ArchiveFile, start: int = 0) -> Iterator[FlatChunk]:
        """The records of a file at `start` and after it. Raises ArchiveDamaged."""
        return FileReader(TopicPartition(self.topic, file.partition), self.content(file), file).chunks(start)

    def _damaged(self, file: ArchiveFile, what: str) -> str:
        return (
            f"archive of {self.topic}/{file.where}: {self.url_of(file)} {what}. Bring it back from a copy; if the log "
            f"still has these offsets, move the archive away and archive the topic again"
        )


def reach(log: Log, archive: Archive) -> tuple[Index, dict[int, int]]:
    """The newest index, and where each partition goes on in the log: at its end, or the log's start without one.

    Raises OffsetOutOfRange where the log does not have that offset (any more).
    """
    index = archive.newest()
    while True:
        try:
            return index, _reach(log, index, archive.topic)
        except OffsetOutOfRange:
            # An archiver may have gone on after our look at the index, and retention after it.
            newer = archive.newest()
            if newer.number == index.number:
                raise
            index = newer


def _reach(log: Log, index: Index, topic: str) -> dict[int, int]:
    starts, ends = log.starts(topic), log.ends(topic)
    for partition, reached in index.ends.items():
        start, end = starts.get(partition, 0), ends.get(partition, 0)
        if reached < start:
            raise OffsetOutOfRange(
                f"{topic}/{partition}: the offsets [{reached}, {start}) are neither in the archive, which ends at "
                f"{reached}, nor on the log, which starts at {start}: deleted before they were archived. Archive more "
                f"often than the topic's retention; to go on without them: archive to another place (--archive, "
                f"STREAMKIT_ARCHIVE), which begins at the log's start"
            )
        if reached > end:
            raise OffsetOutOfRange(
                f"{topic}/{partition}: the archive ends at {reached}, beyond the log's end {end}: was the log "
                f"truncated? Later records would have offsets that the archive has given to others: archive to another "
                f"place (--archive, STREAMKIT_ARCHIVE)"
            )
    return {partition: index.ends.get(partition, start) for partition, start in starts.items()}
