"""All that keeps an archive: the archiver, the Iceberg table that follows, small files joined, garbage deleted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from threading import Event

import numpy as np

from streamkit.errors import StreamkitError
from streamkit.log.archive.archive import GRACE_SECONDS, Archive
from streamkit.log.archive.archiver import Archiver, Limits, Progress
from streamkit.log.archive.compaction import compact
from streamkit.log.archive.iceberg import IcebergTable
from streamkit.log.archive.index import ArchiveFile, Index
from streamkit.log.base import Log

_TIDY_SECONDS = 60.0


class Keeper:
    """Keeps one archive; `register` it as a table first, where it is to be one."""

    def __init__(self, log: Log, archive: Archive, limits: Limits, *, grace_seconds: float = GRACE_SECONDS) -> None:
        self.archive, self.limits = archive, limits
        self._log, self._grace = log, grace_seconds
        self._table: IcebergTable | None = None
        self._tidied = time.monotonic()

    def register(self, topology: str, properties: Mapping[str, str]) -> None:
        """Let the Iceberg table `topology.topic` follow, from the index on that is in force."""
        self._table = IcebergTable(self.archive, topology, properties)
        self._follow(self.archive.newest())

    def run(self, stop: Event, *, follow: bool, on_progress: Callable[[int, int, int], None]) -> int:
        """Archive up to the log's end, or until `stop`, and tidy up; returns the records that were archived."""

        def told(progress: Progress) -> None:
            on_progress(progress.records, progress.files, progress.left)

        archiver = Archiver(self._log, self.archive, self.limits, on_commit=self._committed, on_progress=told)
        records = archiver.run(stop, follow=follow)
        self.tidy()
        return records

    def tidy(self, *, every: bool = False) -> int:
        """Join small files and delete what nobody reads any more; returns how many files were joined.

        In this order: a file is deleted only when the table has followed the index that replaced it.
        """
        self._tidied, joined = time.monotonic(), 0
        for index, count in compact(self.archive, self.limits, every=every):
            self._follow(index)
            joined += count
        if self._table is not None and self.archive.newest().files:
            self._table.follow(self.archive.newest())
            self._table.expire(self._grace)
        self.archive.clean(self._grace)
        return joined

    def _committed(self, index: Index) -> Index:
        self._follow(index)
        if time.monotonic() - self._tidied < _TIDY_SECONDS:
            return index
        self.tidy()
        return self.archive.newest()

    def _follow(self, index: Index) -> None:
        if self._table is not None and index.files:
            self._table.follow(index)


def problems(archive: Archive) -> Iterator[str]:
    """What is wrong with an archive: of each file that is not what its index says, what and where."""
    try:
        index = archive.newest()
    except StreamkitError as error:
        yield str(error)
        return
    for file in index.files:
        try:
            found = _contradiction(archive, file)
        except StreamkitError as error:
            yield str(error)
        else:
            if found:
                yield f"archive of {archive.topic}/{file.where}: {archive.url_of(file)} has {found}"


def _contradiction(archive: Archive, file: ArchiveFile) -> str | None:
    offsets = [chunk.offsets_array for chunk in archive.chunks(file)]
    found = np.concatenate(offsets) if offsets else np.empty(0, np.int64)
    if len(found) != file.records:
        return f"{len(found):,} records, expected {file.records:,}"
    if len(found) and (found[0] < file.start or found[-1] >= file.end or (np.diff(found) <= 0).any()):
        return f"offsets {found[0]} to {found[-1]}, expected them to rise from {file.start} on, to before {file.end}"
    return None
