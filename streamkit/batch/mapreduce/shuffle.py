"""The shuffle: sorted runs on disk, written by the tasks of one stage, and read, a partition at a time, by the next.

A task's rows wait in memory until they are as many bytes as it may have, are then sorted and written as one *run*: a
Parquet file in the order of partition, key, sort and tie. A partition is read by DuckDB, which sorts the rows of all
runs with the memory it is given and spills what is beyond it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq

from streamkit.batch.mapreduce.pairs import PARTITION

BATCH_ROWS = 65_536
_GROUP_ROWS = 16_384
LEAST_MEMORY = 192 << 20
"""With less, DuckDB's sort gives up on rows of a KB, of which a partition holds more: it merges what it has spilled."""


class RunWriter:
    """Writes the rows of one task as runs of at most about `budget` bytes each.

    `combine` makes fewer rows of many (of columns; of records that is done before).
    """

    def __init__(
        self,
        folder: Path,
        order: Sequence[str],
        partitions: int,
        budget: int,
        combine: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    ) -> None:
        self._folder, self._order, self._budget, self._combine = folder, list(order), budget, combine
        self._partitions = partitions
        self._waiting: list[pl.DataFrame] = []
        self._bytes = 0
        self.runs = self.rows = self.bytes = 0

    def add(self, frame: pl.DataFrame) -> None:
        if not len(frame):
            return
        self._waiting.append(frame)
        self._bytes += int(frame.estimated_size())
        if self._bytes >= self._budget and not self._combined():
            self._write()

    def close(self) -> None:
        if self._waiting:
            self._combined()
            self._write()

    def _combined(self) -> bool:
        """True where combining has made so much room that nothing need be written yet."""
        if self._combine is None:
            return False
        self._waiting = [self._combine(pl.concat(self._waiting))]
        self._bytes = int(self._waiting[0].estimated_size())
        return 2 * self._bytes < self._budget

    def _write(self) -> None:
        rows = pl.concat(self._waiting)
        self._waiting, self._bytes = [], 0
        rows = rows.sort(PARTITION, *self._order)
        path = self._folder / f"run-{self.runs:05}.parquet"
        # A partition is read by the row groups that hold it: small ones, or each reader would decode its neighbours'.
        groups = max(1_024, min(_GROUP_ROWS, len(rows) // self._partitions))
        rows.write_parquet(path, compression="lz4", row_group_size=groups, statistics=True)
        self.runs += 1
        self.rows += len(rows)
        self.bytes += path.stat().st_size


def read_sorted(
    runs: Sequence[Path], partition: int, order: Sequence[str], memory: int, temporary: Path
) -> Iterator[pl.DataFrame]:
    """The rows of one partition in order, BATCH_ROWS at most at a time, with at most about `memory` bytes held."""
    if not runs:
        return
    schema = pl.read_parquet_schema(runs[0])
    columns = [name for name in schema if name != PARTITION]
    listed, by = ", ".join(map(_quoted, columns)), ", ".join(map(_quoted, order))
    rows = max(2_048, min(BATCH_ROWS, memory // 32 // _row_bytes(runs[0])))
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{max(memory, LEAST_MEMORY) >> 20}MiB",
        "threads": 1,
        "temp_directory": os.fspath(temporary),
        "preserve_insertion_order": False,
    }
    with duckdb.connect(config=settings) as database:
        database.execute("SET enable_progress_bar = false")
        found = database.sql(
            f"SELECT {listed} FROM read_parquet(?) WHERE {PARTITION} = ? ORDER BY {by}",
            params=[[os.fspath(run) for run in runs], partition],
        )
        wanted = {name: schema[name] for name in columns}
        for batch in found.to_arrow_reader(rows):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            yield frame.cast(wanted)  # type: ignore[arg-type]


def _row_bytes(run: Path) -> int:
    """What a row of a run weighs, unpacked."""
    first = pq.read_metadata(run).row_group(0)
    return 1 + int(first.total_byte_size) // max(1, int(first.num_rows))


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
