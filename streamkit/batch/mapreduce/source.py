"""Splits to decoded values: of a topic's partitions, and of files."""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from streamkit.aggregate import OFFSET, PARTITION, TIME
from streamkit.batch.mapreduce.task import FileSplit, Split, TopicSplit
from streamkit.decode import Decoded, Decoder, Rejected
from streamkit.errors import BadRecord, DefinitionError
from streamkit.log.base import Log
from streamkit.mapreduce import Files, Input, MapReduce
from streamkit.record import FlatBytes, FlatChunk, TopicPartition
from streamkit.topic import Topic

POLL_RECORDS = 50_000
BLOCK = 8 << 20
"""Bytes of a file that are read at once."""
FILE_SPLIT = 64 << 20
"""Bytes of a file that one task reads."""
_LINES = (".txt", ".log", ".jsonl", ".ndjson")


class Values:
    """Values of one input, as objects or as columns; `where(i)` is where the i-th comes from."""

    def __init__(self, decoded: Decoded, name: Callable[[Decoded, int], str]) -> None:
        self._decoded, self._name = decoded, name

    def __len__(self) -> int:
        return len(self._decoded)

    @property
    def objects(self) -> Any:
        return self._decoded.values

    def where(self, index: int) -> str:
        return self._name(self._decoded, index)

    def frame(self) -> pl.DataFrame:
        """A column for each field that can be one, and `__time` (ms), `__partition`, `__offset`."""
        decoded = self._decoded
        return decoded.frame(column_fields(decoded.topic)).with_columns(
            pl.Series(TIME, np.asarray(decoded.timestamps, np.int64)),
            pl.lit(decoded.source.partition, pl.Int64).alias(PARTITION),
            pl.Series(OFFSET, np.asarray(decoded.offsets, np.int64)),
        )


@dataclass(frozen=True)
class Rows:
    """Rows of a Parquet file; objects are made of them when asked for."""

    path: str
    topic: Topic
    rows: pl.DataFrame
    first: int

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def objects(self) -> list[Any]:
        try:
            return [msgspec.convert(row, self.topic.value) for row in self.rows.iter_rows(named=True)]
        except msgspec.ValidationError as error:
            raise BadRecord(self.path, 0, self.first, f"not a {self.topic.schema.owner}: {error}") from error

    def where(self, index: int) -> str:
        return f"{self.path}:{self.first + index + 1}"

    def frame(self) -> pl.DataFrame:
        return self.rows


Batch = Values | Rows


def column_fields(topic: Topic) -> tuple[str, ...]:
    return tuple(field.name for field in topic.schema.fields if field.dtype is not None)


def input_of(job: MapReduce, split: Split) -> Input:
    """The input that a Split is of."""
    if isinstance(split, TopicSplit):
        return next(t for t in job.topics if t.name == split.topic)
    files = [i for i in job.inputs if isinstance(i, Files)]
    return next(i for i in files if split.path in matching(i))


def matching(files: Files) -> list[str]:
    """The files that match, sorted. Raises DefinitionError for none."""
    path = Path(files.pattern)
    if "*" not in files.pattern:
        found = [path] if path.is_file() else []
    else:
        root = Path(path.anchor) if path.anchor else Path()
        found = sorted(p for p in root.glob(str(path.relative_to(path.anchor) if path.anchor else path)) if p.is_file())
    if not found:
        raise DefinitionError(f"no file matches {files.pattern!r} (below {Path.cwd()})")
    return [os.fspath(p) for p in found]


def file_splits(files: Files) -> list[FileSplit]:
    """Splits of all files; lines are divided where they lie, what is packed is not."""
    splits = []
    for path in matching(files):
        size, step = Path(path).stat().st_size, FILE_SPLIT if path.endswith(_LINES) else 1 << 62
        splits += [FileSplit(path, start, min(start + step, size)) for start in range(0, size, step)]
    return splits


def read(
    log: Log, job: MapReduce, split: Split, on_rejected: Callable[[Topic, list[Rejected]], None]
) -> Iterator[Batch]:
    """The values of a Split, many at a time. Raises BadRecord for what is none, where its policy is `fail`."""
    source = input_of(job, split)
    if isinstance(split, TopicSplit):
        assert isinstance(source, Topic)
        return _read_topic(log, source, split, job.batches, on_rejected)
    assert isinstance(source, Files)
    if split.path.endswith(".parquet"):
        return _read_parquet(split.path, source.topic)
    return _read_lines(split, source.topic, job.batches)


def _read_topic(
    log: Log, topic: Topic, split: TopicSplit, columns: bool, on_rejected: Callable[[Topic, list[Rejected]], None]
) -> Iterator[Batch]:
    decode = Decoder(topic, column_fields(topic) if columns else ())
    source = TopicPartition(split.topic, split.partition)
    with contextlib.closing(log.reader({source: split.start})) as reader:
        while reader.positions()[source] < split.end:
            for chunk in reader.poll(POLL_RECORDS, 1.0):
                decoded, bad = decode(chunk)
                bad = [r for r in bad if r.offset < split.end]
                if bad:
                    on_rejected(topic, bad)
                inside = decoded.before(split.end)
                if len(inside):
                    yield Values(inside, _offset_of)


def _offset_of(decoded: Decoded, index: int) -> str:
    return f"{decoded.source}/{decoded.offsets[index]}"


def _byte_of(decoded: Decoded, index: int) -> str:
    return f"{decoded.source.topic} at byte {decoded.offsets[index]}"


def _read_lines(split: FileSplit, topic: Topic, columns: bool) -> Iterator[Batch]:
    """A line belongs to the Split in which it begins."""
    decode = Decoder(topic, column_fields(topic) if columns else ())
    source = TopicPartition(split.path, 0)
    for at, block in _blocks(split):
        flat, offsets = _lines(block, at)
        nothing = FlatBytes(flat.data, np.zeros_like(offsets), np.full_like(offsets, -1))
        chunk = FlatChunk(source, offsets, np.zeros_like(offsets), flat, nothing, {})
        decoded, bad = decode(chunk)
        if bad:
            raise BadRecord(
                split.path, 0, bad[0].offset, f"the line that begins at byte {bad[0].offset}: {bad[0].reason}"
            )
        if len(decoded):
            yield Values(decoded, _byte_of)


def _blocks(split: FileSplit) -> Iterator[tuple[int, bytes]]:
    """Whole lines, some MB of them at a time, and where they begin."""
    packed = split.path.endswith(".gz")
    with gzip.open(split.path) if packed else Path(split.path).open("rb") as file:
        at, end = split.start, split.end if not packed else 1 << 62
        if at:
            file.seek(at - 1)
            at += len(file.readline()) - 1  # what is left of a line that began before; nothing where one ended there
        while at < end:
            block = file.read(min(BLOCK, end - at)) + file.readline()
            if not block:
                return
            yield at, block
            at += len(block)


def _lines(block: bytes, at: int) -> tuple[FlatBytes, Any]:
    """The lines of a block, and the byte at which each begins; empty ones are none."""
    raw = np.frombuffer(block + bytes(FlatBytes.PADDING), np.uint8)
    ends = np.flatnonzero(raw[: len(block)] == ord("\n"))
    if not block.endswith(b"\n"):
        ends = np.append(ends, len(block))
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    lengths = ends - starts
    lengths -= (lengths > 0) & (raw[np.maximum(ends - 1, 0)] == ord("\r"))
    some = lengths > 0
    return FlatBytes(raw, starts[some], lengths[some].astype(np.int64)), starts[some] + at


def _read_parquet(path: str, topic: Topic) -> Iterator[Batch]:
    frame = pl.scan_parquet(path)
    total = frame.select(pl.len()).collect().item()
    for first in range(0, total, POLL_RECORDS):
        yield Rows(path, topic, frame.slice(first, POLL_RECORDS).collect(), first)
