"""Records for Spark: ranges of a topic, on the log or in files, as one DataFrame; and its Arrow batches as Chunks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from streamkit.errors import RunnerFailed
from streamkit.log.archive import Archived
from streamkit.log.base import Log
from streamkit.record import Array, FlatBytes, FlatChunk, Headers, TopicPartition

COLUMNS = ("partition", "offset", "timestamp", "key", "value", "headers")
"""Of every source: int, long, long (milliseconds since the epoch), binary, binary, array of (key, value)."""

BATCH_ROWS = 65_536
"""Records that come to Python at once, see also `BATCH_BYTES`."""
BATCH_BYTES = 32 << 20

_EMPTY = np.zeros(FlatBytes.PADDING, np.uint8)


@dataclass(frozen=True)
class KafkaRanges:
    """The offsets `[starts, ends)` of each partition that is named, on the log.

    `settings` are the Java client's; `tasks` are how many Spark divides them into, about.
    """

    topic: str
    settings: Mapping[str, str]
    starts: Mapping[int, int]
    ends: Mapping[int, int]
    tasks: int

    def read(self, spark: SparkSession, columns: Sequence[str]) -> DataFrame:
        # `assign`, not `subscribe`: a partition that was added after the Cut is not of it.
        options = {
            "assign": json.dumps({self.topic: sorted(self.ends)}),
            "startingOffsets": self._offsets(self.starts),
            "endingOffsets": self._offsets(self.ends),
            "minPartitions": str(self.tasks),
            "includeHeaders": "true",
            "failOnDataLoss": "true",
            "kafka.isolation.level": "read_committed",
            **{f"kafka.{name}": value for name, value in self.settings.items()},
        }
        frame = spark.read.format("kafka").options(**options).load()
        return frame.withColumn("timestamp", F.unix_millis("timestamp")).select(*columns)

    def _offsets(self, offsets: Mapping[int, int]) -> str:
        return json.dumps({self.topic: {str(p): offsets[p] for p in sorted(self.ends)}})


@dataclass(frozen=True)
class ParquetRanges:
    """The same, in files: columns _partition, _offset, _timestamp (milliseconds), _key, _value, _headers.

    `paths` are as Spark takes them: of a file system that all executors see, or `s3a://`, `gs://`, ...
    """

    paths: Sequence[str]
    starts: Mapping[int, int]
    ends: Mapping[int, int]

    def read(self, spark: SparkSession, columns: Sequence[str]) -> DataFrame:
        partition, offset = F.col("_partition"), F.col("_offset")
        inside = ((partition == p) & (offset >= self.starts[p]) & (offset < end) for p, end in self.ends.items())
        frame = spark.read.parquet(*self.paths).where(reduce(lambda left, right: left | right, inside, F.lit(False)))
        return frame.select(*(F.col(f"_{name}").alias(name) for name in columns))


def archived_ranges(source: Log, topic: str) -> ParquetRanges | None:
    """What `source` has of the topic in an archive. Raises as an ArchivedLog, and RunnerFailed for an address that
    Spark has no name for."""
    archive = source.archive(topic) if isinstance(source, Archived) else None
    index = archive.newest() if archive else None
    if archive is None or index is None or not index.files:
        return None
    return ParquetRanges([spark_path(archive.url_of(file)) for file in index.files], index.starts, index.ends)


def spark_path(url: str) -> str:
    """A URL as Hadoop's file systems name it.

    >>> spark_path("s3://bucket/clicks/a.parquet"), spark_path("file:///data/a.parquet")
    ('s3a://bucket/clicks/a.parquet', 'file:///data/a.parquet')
    """
    scheme, _, rest = url.partition("://")
    if scheme in ("az", "azure", "adl"):
        raise RunnerFailed(
            f"archive {url}: Spark needs the account in the address: name the archive (--archive, STREAMKIT_ARCHIVE) "
            f"abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/..."
        )
    return f"s3a://{rest}" if scheme == "s3" else url


Ranges = KafkaRanges | ParquetRanges


def divide(log: KafkaRanges, archived: ParquetRanges | None) -> list[Ranges]:
    """The offsets of `log` from the archive as far as that goes, the rest from the log: each exactly once.

    >>> log = KafkaRanges("clicks", {}, {0: 0, 1: 5}, {0: 100, 1: 9}, tasks=1)
    >>> for part in divide(log, ParquetRanges(["clicks.parquet"], {0: 0}, {0: 60})):
    ...     print(type(part).__name__, part.starts, part.ends)
    ParquetRanges {0: 0} {0: 60}
    KafkaRanges {0: 60, 1: 5} {0: 100, 1: 9}
    """
    if archived is None:
        return [log]
    ends = {
        p: min(archived.ends[p], end)
        for p, end in log.ends.items()
        if p in archived.ends and archived.starts[p] <= log.starts[p] < archived.ends[p]
    }
    files = replace(archived, starts={p: log.starts[p] for p in ends}, ends=ends)
    rest = replace(log, starts={p: ends.get(p, start) for p, start in log.starts.items()})
    return [each for each in (files, rest) if any(each.ends[p] > each.starts[p] for p in each.ends)]


def read(spark: SparkSession, ranges: Sequence[Ranges], columns: Sequence[str] = COLUMNS) -> DataFrame:
    """Some of COLUMNS of all ranges, one after the other. Spark reads of each only the columns asked for."""
    return reduce(DataFrame.unionByName, (each.read(spark, columns) for each in ranges))


def chunks(topic: str, batch: pa.RecordBatch) -> Iterator[FlatChunk]:
    """An Arrow batch with `partition`, `offset` and any other of COLUMNS as Chunks, one for each run of a partition.

    Nothing is made an object of: payloads go from Arrow's buffers to flat bytes.
    """
    column = dict(zip(batch.schema.names, batch.columns, strict=True))
    partitions = _numbers(column["partition"], np.int32)
    edges = np.flatnonzero(np.diff(partitions)) + 1
    for start, end in zip([0, *edges.tolist()], [*edges.tolist(), len(partitions)], strict=True):
        if end > start:
            part = {name: values.slice(start, end - start) for name, values in column.items()}
            yield _chunk(TopicPartition(topic, int(partitions[start])), part, end - start)


def _chunk(source: TopicPartition, column: Mapping[str, Any], rows: int) -> FlatChunk:
    nothing = FlatBytes(_EMPTY, np.zeros(rows, np.int64), np.full(rows, -1, np.int64))
    times = _numbers(column["timestamp"], np.int64) if "timestamp" in column else np.full(rows, -1, np.int64)
    return FlatChunk(
        source,
        _numbers(column["offset"], np.int64),
        times,
        flat_bytes(column["value"]) if "value" in column else nothing,
        flat_bytes(column["key"]) if "key" in column else nothing,
        _headers(column["headers"]) if "headers" in column else {},
    )


def flat_bytes(values: Any) -> FlatBytes:
    """A binary column in one buffer with padding behind it.

    >>> flat_bytes(pa.array([b"one", None, b"three"])).tolist()
    [b'one', None, b'three']
    >>> flat_bytes(pa.array([b"one", None, b"three"], pa.large_binary()).slice(1)).tolist()
    [None, b'three']
    """
    _, ends, data = values.buffers()
    width = np.int64 if pa.types.is_large_binary(values.type) else np.int32
    edges = np.frombuffer(ends, width)[values.offset : values.offset + len(values) + 1].astype(np.int64)
    first, last = int(edges[0]), int(edges[-1])
    flat = np.zeros(last - first + FlatBytes.PADDING, np.uint8)
    if last > first:
        flat[: last - first] = np.frombuffer(data, np.uint8)[first:last]
    lengths = np.diff(edges)
    if values.null_count:
        lengths[values.is_null().to_numpy(zero_copy_only=False)] = -1
    return FlatBytes(flat, edges[:-1] - first, lengths)


def _numbers(values: Any, kind: Any) -> Array:
    numbers: Array = values.to_numpy(zero_copy_only=False)
    return numbers.astype(kind, copy=False)


def _headers(values: Any) -> dict[int, Headers]:
    return {i: tuple((h["key"], h["value"]) for h in found) for i, found in enumerate(values.to_pylist()) if found}
