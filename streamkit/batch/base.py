"""Bases: the BatchView that an incremental run starts from, looked at before anything is built on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from streamkit.control import BatchView
from streamkit.cut import Cut
from streamkit.errors import StateMissing
from streamkit.store.batchfile import SLOT, STATE, checksum, key_hash


def find_base(batches: Sequence[BatchView], cut: Cut) -> BatchView:
    """The newest of a View's BatchViews (newest first), if a run up to `cut` can start from it.

    Raises StateMissing, with the reason, where only a run from the log's start will do: there is none of this
    definition (`batches` are of the present one), it is of a topic that was made anew, or the Cut is not after it.
    """
    if not batches:
        raise StateMissing("there is no BatchView of its present definition to start from")
    base = batches[0]
    if base.topic_id != cut.topic_id:
        raise StateMissing(f"BatchView {base.id} is of a topic {base.topic!r} that was deleted and made again since")
    if not cut.covers(base.cut):
        raise StateMissing(f"the Cut {cut} is before that of BatchView {base.id}, {base.cut}")
    return base


def check_files(base: BatchView, folder: Path) -> None:
    """Raises StateMissing where a file in the View's `folder` is gone or was changed since it was published.

    A wrong state that is built on would be wrong in every result that follows.
    """
    for file in base.files:
        path = folder / file.path
        if not path.exists():
            raise StateMissing(f"{path} of BatchView {base.id} is missing")
        if (found := checksum(path)) != file.crc32:
            raise StateMissing(
                f"{path} of BatchView {base.id} was changed since it was published (checksum {found}, manifest "
                f"{file.crc32})"
            )


def read_base(base: BatchView, folder: Path, bucket: int, buckets: int) -> Iterator[tuple[bytes, bytes]]:
    """The Slots and states of a BatchView that belong to one of `buckets`, however many it has itself.

    Both counts are powers of two, so a key's bucket of the smaller count is its bucket of the larger one, modulo it.
    """
    common = min(len(base.files), buckets)
    for number, file in enumerate(base.files):
        if number % common == bucket % common:
            frame = pl.read_parquet(folder / file.path, columns=[SLOT, STATE])
            yield from (row for row in frame.iter_rows() if key_hash(row[0]) % buckets == bucket)
