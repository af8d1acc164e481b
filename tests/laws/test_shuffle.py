"""The merge of sorted runs gives what sorting all rows at once gives, whatever the runs and however little is held."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamkit.batch.mapreduce import shuffle
from streamkit.batch.mapreduce.pairs import PARTITION
from streamkit.batch.mapreduce.shuffle import RunWriter, read_sorted

ORDER = ["key", "tie"]
_rows = st.lists(st.tuples(st.integers(0, 2), st.none() | st.integers(0, 5), st.integers(0, 1 << 62)), max_size=60)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shuffle, "_GROUP_BYTES", 1)
    monkeypatch.setattr(shuffle, "_LEAST_GROUP", 3)


def write(folder: Path, runs: list[list[tuple[int, int | None, int]]]) -> list[Path]:
    for number, rows in enumerate(runs):
        (folder / str(number)).mkdir()
        writer = RunWriter(folder / str(number), 3)
        schema = {PARTITION: pl.Int32, "key": pl.Int64, "tie": pl.Int64}
        if rows:
            writer.write(ORDER, pl.DataFrame(rows, schema=schema, orient="row"))
    return sorted(folder.glob("*/run-*.parquet"))


@settings(max_examples=25, deadline=None)
@given(st.lists(_rows, max_size=6), st.booleans())
def test_merged_runs_are_all_rows_in_order(runs: list[list[tuple[int, int | None, int]]], in_order: bool) -> None:
    if in_order:  # each run after the one before it, as where the input was sorted
        rows = sorted((r for run in runs for r in run), key=lambda r: (r[1] is not None, r[1] or 0, r[2]))
        runs = [rows[i : i + 7] for i in range(0, len(rows), 7)]
    everything = pl.DataFrame(
        [row for run in runs for row in run], schema={"p": pl.Int64, "key": pl.Int64, "tie": pl.Int64}, orient="row"
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = write(Path(folder), runs)
        for partition in range(3):
            frames = list(read_sorted(paths, partition, ORDER, 1))
            expected = everything.filter(pl.col("p") == partition).drop("p").sort(ORDER)
            merged = pl.concat(frames) if frames else expected.clear()
            assert merged.rows() == expected.rows()


def test_what_is_held_goes_by_what_rows_are_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the file a key that is there a thousand times is there once."""
    monkeypatch.undo()
    rows = pl.DataFrame({"key": ["k" * 200] * 40_000, "tie": range(40_000)})
    writer = RunWriter(tmp_path, 1)
    writer.write(ORDER, rows.with_columns(pl.lit(0, pl.Int32).alias(PARTITION)))
    memory = 16 << 20
    frames = list(read_sorted(sorted(tmp_path.glob("*.parquet")), 0, ORDER, memory))
    assert sum(map(len, frames)) == 40_000
    assert max(map(len, frames)) * 208 < memory // 8
