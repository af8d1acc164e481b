"""Joining small files to whole ranges."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from streamkit.log.archive.archive import Archive
from streamkit.log.archive.archiver import Limits
from streamkit.log.archive.index import ArchiveFile, Index
from streamkit.log.archive.parquet import RangeWriter

MANY = 16
"""Files of a range that is still growing, from which on joining them is worth it by itself."""


def groups(index: Index, limits: Limits, *, every: bool) -> list[tuple[ArchiveFile, ...]]:
    """Files side by side that belong into one; with `every` also those of ranges that still grow.

    >>> files = [ArchiveFile(0, start, start + 5, 5, 0, 50, 1, "", str(start)) for start in (0, 5, 10)]
    >>> index = Index("clicks", "id1", 1, tuple(files))
    >>> [[file.where for file in group] for group in groups(index, Limits(records=10), every=True)]
    [['0: [0, 5)', '0: [5, 10)']]
    """
    found = []
    for files in index.of.values():
        for _, own in itertools.groupby(files, lambda file: file.start // limits.records):
            group = tuple(own)
            grows = group[-1] is files[-1]
            if every or not grows or len(group) >= MANY:
                found += [some for some in _within(group, limits.raw) if len(some) > 1]
    return found


def compact(archive: Archive, limits: Limits, *, every: bool) -> Iterator[tuple[Index, int]]:
    """Join what belongs together, a file and an index at a time: yields each index, and how many files became one.

    The small files stay until `Archive.clean`: readers may hold the index before, and Iceberg its snapshot.
    """
    while found := groups(archive.newest(), limits, every=every):
        for group in found:
            index = archive.newest()
            if not set(group) <= set(index.files):
                break  # another archiver has joined them
            joined = join(archive, group)
            index = index.replace(joined, group, int(time.time() * 1000))
            if not archive.commit(index):
                break
            yield index, len(group)


def join(archive: Archive, group: tuple[ArchiveFile, ...]) -> ArchiveFile:
    """Write the files' records to one file, which no index names yet. Raises ArchiveDamaged."""
    writer = RangeWriter(group[0].partition, group[0].start)
    try:
        for file in group:
            writer.add_file(archive.content(file), file)
        return archive.write(writer, group[-1].end)
    finally:
        writer.abandon()


def _within(group: tuple[ArchiveFile, ...], raw: int) -> list[tuple[ArchiveFile, ...]]:
    """Runs of files whose keys and values are at most `raw` bytes together."""
    runs: list[list[ArchiveFile]] = []
    for file in group:
        if runs and sum(f.raw for f in runs[-1]) + file.raw <= raw:
            runs[-1].append(file)
        else:
            runs.append([file])
    return [tuple(run) for run in runs]
