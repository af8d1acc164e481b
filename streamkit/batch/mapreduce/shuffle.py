"""The shuffle: sorted runs on disk, written by the tasks of one stage, and merged, a partition at a time, by the next.

A task's rows wait in memory until they are as many bytes as it may have, are then sorted and written as one *run*: a
Parquet file in the order of partition, key, sort and tie. A partition is read by merging all runs, some rows of each at
a time: external merge sort (Knuth, The Art of Computer Programming 3, section 5.4). DuckDB, which sorts on disk too,
gave up at 192 MiB on 1 GB of rows of a KB, and at 256 MiB on 5 GB; and what is sorted already need not be sorted again.
"""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from streamkit.batch.mapreduce.pairs import PARTITION

BATCH_ROWS = 65_536
_GROUP_BYTES, _GROUP_ROWS = 256 << 10, 16_384
"""Of a row group, which is what is read of a run at once: at most."""
_LEAST_GROUP = 64
_RUN, _ROW_BYTES = "__run", "row_bytes"


class Waiting:
    """Rows of one task that wait until they are `budget` bytes, and are then handed to `write` together.

    `combine` makes fewer rows of many (of columns; of records that is done before).
    """

    def __init__(
        self,
        budget: int,
        write: Callable[[pl.DataFrame], None],
        combine: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    ) -> None:
        self._budget, self._write, self._combine = budget, write, combine
        self._frames: list[pl.DataFrame] = []
        self._bytes = self.rows = 0

    def add(self, frame: pl.DataFrame) -> None:
        if not len(frame):
            return
        self._frames.append(frame)
        self._bytes += int(frame.estimated_size())
        if self._bytes >= self._budget and not self._combined():
            self._hand_over()

    def close(self) -> None:
        if self._frames:
            self._combined()
            self._hand_over()

    def _combined(self) -> bool:
        """True where combining has made so much room that nothing need be written yet."""
        if self._combine is None:
            return False
        self._frames = [self._combine(pl.concat(self._frames))]
        self._bytes = int(self._frames[0].estimated_size())
        return 2 * self._bytes < self._budget

    def _hand_over(self) -> None:
        rows = pl.concat(self._frames)
        self._frames, self._bytes = [], 0
        self.rows += len(rows)
        self._write(rows)
        del rows
        gc.collect()  # see `relax_collector`


def relax_collector() -> None:
    """Python's cyclic collector, in a process that does nothing but tasks, runs where rows have just been handed over.

    As it is by default it walks over all pairs that wait, which took a quarter of the time of a word count by records;
    and yet frames hang in cycles until it comes by: few objects, and several times the memory that a task may have.
    """
    gc.freeze()
    gc.set_threshold(1_000_000, 10, 10)


class RunWriter:
    """Writes rows as sorted runs into a task's folder; `bytes` are those on disk."""

    def __init__(self, folder: Path, partitions: int) -> None:
        self._folder, self._partitions = folder, partitions
        self.runs = self.bytes = 0

    def write(self, order: Sequence[str], rows: pl.DataFrame) -> None:
        """One run."""
        rows = rows.sort(PARTITION, *order)
        path = self._folder / f"run-{self.runs:05}.parquet"
        write_run(rows, path, self._partitions)
        self.runs += 1
        self.bytes += path.stat().st_size


def write_run(rows: pl.DataFrame, target: Path | io.BytesIO, partitions: int) -> None:
    """Rows in order, of so many partitions, as Parquet.

    What is read at once is a row group, and of each run one is held: they are small, or many runs would be too much.
    How many bytes a row has in memory is written down: from the file it could not be told, where the same key is there
    once for a thousand rows.
    """
    row_bytes = max(1, int(rows.estimated_size()) // max(1, len(rows)))
    group = max(_LEAST_GROUP, min(_GROUP_ROWS, _GROUP_BYTES // row_bytes, len(rows) // partitions))
    about = {_ROW_BYTES: str(row_bytes)}
    rows.write_parquet(target, compression="lz4", row_group_size=group, statistics=True, metadata=about)


def read_sorted(runs: Sequence[Path], partition: int, order: Sequence[str], memory: int) -> Iterator[pl.DataFrame]:
    """The rows of one partition in order, BATCH_ROWS at most at a time, with at most about `memory` bytes held."""
    cursors = [c for number, run in enumerate(runs) if (c := _Cursor(number, run, partition)).left]
    if not cursors:
        return
    row_bytes = max(cursor.row_bytes for cursor in cursors)
    rows = max(2_048, min(BATCH_ROWS, memory // 16 // row_bytes))
    for merged in _Merge(cursors, order, memory // 4 // len(cursors) // row_bytes).frames():
        yield from merged.iter_slices(rows)
        gc.collect()  # see `relax_collector`


class _Cursor:
    """What is still to be read of one run's part of a partition."""

    def __init__(self, number: int, path: Path, partition: int) -> None:
        self.number, self._path, self._partition = number, path, partition
        self._metadata = pq.read_metadata(path)
        place = self._metadata.schema.names.index(PARTITION)
        groups = [self._metadata.row_group(i) for i in range(self._metadata.num_row_groups)]
        spans = [group.column(place).statistics for group in groups]
        self.left = [i for i, span in enumerate(spans) if span.min <= partition <= span.max]
        self.row_bytes = int(self._metadata.metadata[_ROW_BYTES.encode()])

    def read(self, rows: int) -> pl.DataFrame:
        """The next row groups that hold so many rows, or one."""
        count = 0
        taken: list[int] = []
        while self.left and (not taken or count < rows):
            count += self._metadata.row_group(self.left[0]).num_rows
            taken.append(self.left.pop(0))
        with pq.ParquetFile(self._path, metadata=self._metadata) as file:
            frame = pl.from_arrow(file.read_row_groups(taken, use_threads=False))
        assert isinstance(frame, pl.DataFrame)
        mine = frame.filter(pl.col(PARTITION) == self._partition).drop(PARTITION)
        return mine.with_columns(pl.lit(self.number, pl.Int32).alias(_RUN))


class _Merge:
    """Merges runs: some rows of each are held; those up to the first place where one may go on are in order for good.

    Every row that is yet to be read of a run comes after the last one held of it. So what is before the earliest of
    these last ones, over all runs that go on, is complete.
    """

    def __init__(self, cursors: Sequence[_Cursor], order: Sequence[str], rows: int) -> None:
        self._cursors = {cursor.number: cursor for cursor in cursors}
        self._order, self._rows = list(order), max(1, rows)
        self._eager = dict.fromkeys(self._cursors, 1)
        """How many times its share is read of a run: twice as much whenever it alone has held up the others, as each
        run does in its turn where the input was in order."""
        self._held = pl.DataFrame()
        self._counts: dict[int, int] = {}

    def frames(self) -> Iterator[pl.DataFrame]:
        while self._fill() or len(self._held):
            yield self._take()

    def _fill(self) -> bool:
        """Read on in the runs of which little is left."""
        fresh = []
        for number, cursor in self._cursors.items():
            wanted = self._rows * self._eager[number]
            while cursor.left and 2 * self._counts.get(number, 0) < wanted:
                frame = cursor.read(wanted)
                self._counts[number] = self._counts.get(number, 0) + len(frame)
                fresh.append(frame)
        if fresh:
            self._held = pl.concat([self._held, *fresh] if len(self._held) else fresh).sort(self._order)
        return bool(fresh)

    def _take(self) -> pl.DataFrame:
        """The rows that are complete."""
        runs = self._held[_RUN].to_numpy()
        numbers, places = np.unique(runs[::-1], return_index=True)
        last = {int(n): len(runs) - 1 - int(at) for n, at in zip(numbers, places, strict=True)}
        open_ = [number for number, cursor in self._cursors.items() if cursor.left]
        first = min(open_, key=lambda number: last[number], default=None)
        end = len(runs) if first is None else last[first] + 1
        if first is not None:
            alone = 4 * end < len(runs)
            self._eager[first] = min(2 * self._eager[first], len(self._cursors)) if alone else 1
        taken, self._held = self._held[:end].drop(_RUN), self._held[end:]
        left: Any = np.unique(runs[end:], return_counts=True)
        self._counts = dict(zip(left[0].tolist(), left[1].tolist(), strict=True))
        return taken
