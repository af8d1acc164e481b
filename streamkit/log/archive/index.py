"""What an archive has of a topic: files of closed ranges, named by the newest index. Pure.

    TOPIC/TOPICID/data/00003/START-END-TAG.parquet   records of the offsets [START, END) of partition 3
    TOPIC/TOPICID/index/0000000042.json              all files in force, as JSON; immutable
    TOPIC/TOPICID/metadata/                          the Iceberg table's

An index is put only where there is none of its number, so of two archivers that would add the next one, one is refused.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Mapping
from functools import cached_property

import msgspec

from streamkit.cut import Cut
from streamkit.errors import ArchiveDamaged

FORMAT = 1


class ArchiveFile(msgspec.Struct, frozen=True):
    """One file: the records of offsets `[start, end)`; `path` is relative to the topic's part of the archive.

    `records` may be fewer than offsets (control records, compaction), `with_headers` of them have headers, `raw` are
    the bytes of their keys and values, `bytes` those of the file.
    """

    partition: int
    start: int
    end: int
    records: int
    with_headers: int
    raw: int
    bytes: int
    sha256: str
    path: str

    @property
    def where(self) -> str:
        """Partition and range, for messages.

        >>> ArchiveFile(3, 0, 250, 250, 0, 1, 1, "", "").where
        '3: [0, 250)'
        """
        return f"{self.partition}: [{self.start}, {self.end})"


class Dropped(msgspec.Struct, frozen=True):
    """A file that is in force no more since `at` (milliseconds since the epoch), kept for those who still read it."""

    path: str
    at: int


class Index(msgspec.Struct, frozen=True, dict=True):
    """All files in force, by partition and offset.

    >>> file = ArchiveFile(0, 5, 9, 4, 0, 1, 1, "", "")
    >>> index = Index("clicks", "id1").add([file])
    >>> index.number, index.starts, index.ends, str(index.cut)
    (1, {0: 5}, {0: 9}, 'clicks[0:9]')
    """

    topic: str
    topic_id: str
    number: int = 0
    files: tuple[ArchiveFile, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    format: int = FORMAT

    @cached_property
    def of(self) -> Mapping[int, tuple[ArchiveFile, ...]]:
        """The files of each partition, in offset order."""
        grouped = itertools.groupby(sorted(self.files, key=lambda f: (f.partition, f.start)), lambda f: f.partition)
        return {partition: tuple(files) for partition, files in grouped}

    @cached_property
    def starts(self) -> Mapping[int, int]:
        return {partition: files[0].start for partition, files in self.of.items()}

    @cached_property
    def ends(self) -> Mapping[int, int]:
        return {partition: files[-1].end for partition, files in self.of.items()}

    @property
    def cut(self) -> Cut:
        return Cut(self.topic, self.topic_id, self.ends)

    def at(self, partition: int, offset: int) -> ArchiveFile | None:
        """The file whose range has the offset."""
        return next((file for file in self.of.get(partition, ()) if file.start <= offset < file.end), None)

    def check(self) -> None:
        """Raises ArchiveDamaged where the ranges of a partition do not lead on from one another."""
        if self.format != FORMAT:
            raise ArchiveDamaged(
                f"archive of topic {self.topic!r}: index {self.number} has format {self.format}, this version of "
                f"streamkit reads format {FORMAT}: use the version that wrote it"
            )
        for partition, files in self.of.items():
            for left, right in itertools.pairwise(files):
                if left.end != right.start:
                    raise ArchiveDamaged(
                        f"archive of {self.topic}/{partition}: index {self.number} leads from [{left.start}, "
                        f"{left.end}) to [{right.start}, {right.end}): expected a range from {left.end} on"
                    )

    def add(self, files: Iterable[ArchiveFile]) -> Index:
        """The next index, with these files too. Raises ArchiveDamaged where they do not lead on."""
        return self._next(files=(*self.files, *files))

    def replace(self, new: ArchiveFile, old: Iterable[ArchiveFile], now: int) -> Index:
        """The next index, with one file in place of others; `now` in milliseconds since the epoch."""
        gone = set(old)
        dropped = (*self.dropped, *(Dropped(file.path, now) for file in gone))
        return self._next(files=(*(f for f in self.files if f not in gone), new), dropped=dropped)

    def forget(self, before: int) -> Index:
        """The next index, without what was dropped before a time."""
        return self._next(dropped=tuple(d for d in self.dropped if d.at >= before))

    def _next(self, **changes: object) -> Index:
        index: Index = msgspec.structs.replace(self, number=self.number + 1, **changes)
        index.check()
        return index


def index_path(number: int) -> str:
    return f"index/{number:010}.json"


def data_path(partition: int, start: int, end: int) -> str:
    """A name that nobody else gives: two archivers may write the same range, and an index names one of the two."""
    return f"data/{partition:05}/{start:020}-{end:020}-{uuid.uuid4().hex[:12]}.parquet"


def folder_of(topic_id: str) -> str:
    """A topic's id as a folder's name: as Kafka's own tools write it, librdkafka does not.

    >>> folder_of("KZjBQynDRhG/3C4WiJJs+w")
    'KZjBQynDRhG_3C4WiJJs-w'
    """
    return topic_id.replace("/", "_").replace("+", "-")
