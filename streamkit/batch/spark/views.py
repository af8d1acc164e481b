"""Views on Spark: a fold in every task that reads, a shuffle by bucket, a merge that makes a file's bytes.

    topic's offsets -> fold (as many tasks as there are Splits) -> states, kept on the executors' disks
      counts, Population -> driver: how many buckets
    states -> shuffle by bucket -> merge -> (bucket, rows, bytes of a Parquet file) -> driver: stores it

The driver alone writes files, so no file system needs to be shared; it holds one bucket at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from streamkit.batch.plan import Plan
from streamkit.batch.run import Computed, Progress, Tell
from streamkit.batch.spark.session import Failure, TaskFailed, failure_of, kept, run_jobs, told
from streamkit.batch.spark.source import KafkaRanges, ParquetRanges, chunks, divide, read
from streamkit.batch.spark.where import Where
from streamkit.checkpoint import slot_key, slot_of
from streamkit.control import File
from streamkit.decode import Decoded, Decoder, Rejected
from streamkit.fold import FOLD_ROWS, Fold, States, fields_of, halves
from streamkit.native.loader import loader
from streamkit.store.batchfile import bucket_bytes, bucket_count, key_hash, write_bucket
from streamkit.store.population import Population
from streamkit.view import View

_COLUMNS = ("partition", "offset", "timestamp", "value")
_FOLDED = "hash bigint, slot binary, state binary, counts binary"
_MERGED = "bucket int, rows int, content binary"
_BULK = 5_000
_ROWS = 16_384


class Counts(msgspec.Struct, frozen=True):
    """What one task tells beside its states."""

    events: int
    rejected: int
    population: bytes


@dataclass(frozen=True)
class FoldRecords:
    """Arrow batches of records to rows of states, and one row of Counts; runs in a Python worker."""

    where: Where

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        view = self.where.view()
        fold, decode = Fold(view), Decoder(view.topic, fields_of(view))
        states: dict[int, States] = {}
        events = rejected = 0
        for decoded, bad in _decoded(view, decode, batches):
            found, failed = _states(fold, decoded)
            _check_policy(view, [*bad, *failed])
            fold.merge_into(states, found)
            events += sum(map(len, decoded)) - len(failed)
            rejected += len(bad) + len(failed)
        # One task reads one partition of the log, but many of an archive's file.
        merged = fold.merge_slots(item for slots in states.values() for item in slots.items())
        slots = [slot_key(slot) for slot in merged]
        counts = Counts(events, rejected, Population.of(slots, view.window).dump())
        yield _rows([None], [None], [None], [msgspec.msgpack.encode(counts)])
        dumped = map(fold.dump, merged.values())
        for start in range(0, len(slots), _ROWS):
            part = slots[start : start + _ROWS]
            kept = list(islice(dumped, len(part)))
            yield _rows(list(map(key_hash, part)), part, kept, [None] * len(part))


def _rows(
    hashes: Sequence[int | None], slots: Sequence[bytes | None], states: Sequence[bytes | None],
    counts: Sequence[bytes | None],
) -> pa.RecordBatch:  # fmt: skip
    columns = [pa.array(hashes, pa.int64()), *(pa.array(each, pa.binary()) for each in (slots, states, counts))]
    return pa.RecordBatch.from_arrays(columns, names=["hash", "slot", "state", "counts"])


def _decoded(
    view: View, decode: Decoder, batches: Iterator[pa.RecordBatch]
) -> Iterator[tuple[list[Decoded], list[Rejected]]]:
    """Values, many at a time. The compiled loops are loaded where records come in bulk, as a reader does."""
    waiting: list[Decoded] = []
    rejected: list[Rejected] = []
    for batch in batches:
        if loader.wanted == "on":
            loader.load()
        elif batch.num_rows >= _BULK:
            loader.ready()
        for chunk in chunks(view.topic.name, batch):
            decoded, bad = decode(chunk)
            waiting += [decoded] if len(decoded) else []
            rejected += bad
        if sum(map(len, waiting)) >= FOLD_ROWS:
            yield waiting, rejected
            waiting, rejected = [], []
    yield waiting, rejected


def _states(fold: Fold, batches: list[Decoded]) -> tuple[dict[int, States], list[Rejected]]:
    """As `Fold.states`; where code of the user's raises, the record that it raises on is found and told."""
    if not batches:
        return {}, []
    states = _tried(fold, batches)
    if not isinstance(states, Exception):
        return states
    culprit, raised = _culprit(fold, batches, states)
    record = (*culprit[0].source, int(culprit[0].offsets[0]))
    raise TaskFailed(failure_of(raised, f"view {fold.view.name!r} failed on it:", record))


def _tried(fold: Fold, batches: Sequence[Decoded]) -> tuple[dict[int, States], list[Rejected]] | Exception:
    try:
        return fold.states(batches)
    except Exception as error:
        return error


def _culprit(fold: Fold, batches: Sequence[Decoded], raised: Exception) -> tuple[Sequence[Decoded], Exception]:
    """The smallest part on which it raises, by halving; the whole, where neither half raises alone."""
    for half in halves(batches) or ():
        tried = _tried(fold, half)
        if isinstance(tried, Exception):
            return _culprit(fold, half, tried)
    return batches, raised


def _check_policy(view: View, rejected: list[Rejected]) -> None:
    if rejected and view.topic.errors == "fail":
        first = min(rejected, key=lambda r: (r.source, r.offset))
        reason = f"{first.reason} (error policy `fail`)"
        raise TaskFailed(Failure(reason, (*first.source, first.offset), bad=True))


@dataclass(frozen=True)
class MergeBuckets:
    """Rows of some buckets, each of them whole, to one row a bucket: its file; runs in a Python worker."""

    where: Where

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        view = self.where.view()
        fold = Fold(view)
        buckets: dict[int, States] = {}
        for batch in batches:
            for bucket, slot, state in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                fold.merge_into(buckets, {bucket: {slot_of(slot): fold.load(state)}})
        for bucket in list(buckets):
            states = fold.merge_slots(buckets.pop(bucket).items())
            made = (([bucket], pa.int32()), ([len(states)], pa.int32()))
            content = ([bucket_bytes(view, fold, states)], pa.binary())
            columns = [pa.array(values, kind) for values, kind in (*made, content)]
            yield pa.RecordBatch.from_arrays(columns, names=["bucket", "rows", "content"])


@dataclass(frozen=True)
class SparkViews:
    """The Engine for one View. `folder` is the View's own, `log` where Spark's output is.

    `archived` is what of the topic lies in files as well: read from there rather than from the log.
    """

    spark: SparkSession
    view: View
    where: Where
    settings: dict[str, str]
    folder: Path
    log: Path
    archived: ParquetRanges | None = None

    def compute(self, plan: Plan, result: str, on_progress: Tell) -> Computed:
        """Raises BadRecord (policy `fail`), RunnerFailed."""
        if not plan.records:
            return Computed((), 0, 0)
        kafka = KafkaRanges(plan.topic, self.settings, plan.starts, plan.offsets, len(plan.splits()))

        def folding(done: int, tasks: int) -> None:
            on_progress(Progress(plan.records * done // max(tasks, 1), plan.records, done, tasks, 0))

        with told(self.log), contextlib.ExitStack() as stack:
            records = read(self.spark, divide(kafka, self.archived), _COLUMNS)
            folded = stack.enter_context(kept(records.mapInArrow(FoldRecords(self.where), _FOLDED)))
            counted = folded.where("counts is not null").select("counts")
            rows = run_jobs(self.spark, f"{self.where.name} {result} fold", counted.collect, folding)
            counts = [msgspec.msgpack.decode(bytes(row[0]), type=Counts) for row in rows]
            events, rejected = sum(c.events for c in counts), sum(c.rejected for c in counts)
            on_progress(Progress(plan.records, plan.records, len(counts), len(counts), rejected))
            slots = Population.union(Population.load(c.population) for c in counts).estimate
            return Computed(self._merge(stack, folded, bucket_count(slots), result), events, rejected)

    def _merge(self, stack: contextlib.ExitStack, folded: DataFrame, buckets: int, result: str) -> tuple[File, ...]:
        states = folded.where("slot is not null")
        states = states.select(F.pmod(F.col("hash"), F.lit(buckets)).cast("int").alias("bucket"), "slot", "state")
        shuffled = states.repartition(buckets, "bucket")
        merged = stack.enter_context(kept(shuffled.mapInArrow(MergeBuckets(self.where), _MERGED)))

        def write() -> dict[int, File]:
            merged.count()  # all at once; the loop then has one bucket after another of what is made
            return {
                row.bucket: write_bucket(self.folder, result, row.bucket, row.rows, bytes(row.content))
                for row in merged.toLocalIterator(prefetchPartitions=True)
            }

        files = run_jobs(self.spark, f"{self.where.name} {result} merge", write, lambda *_: None)
        for bucket in set(range(buckets)) - set(files):
            files[bucket] = write_bucket(self.folder, result, bucket, 0, bucket_bytes(self.view, Fold(self.view), {}))
        return tuple(files[bucket] for bucket in sorted(files))
