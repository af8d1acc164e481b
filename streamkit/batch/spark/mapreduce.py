"""MapReduce jobs on Spark: the tasks of the local runner in executors, and between two stages Spark's own shuffle.

    Splits -> map tasks -> runs, cut by partition: kept on the executors' disks
    runs -> Spark's shuffle by partition -> reduce tasks, which merge them -> runs for the next stage, or outputs
    outputs and what was counted -> driver: a folder for each task, as the local runner leaves it

Tasks are the plan's, not Spark's: so the result is the same to the byte. A task reads the offsets of its Split itself
(from the archive, then the log), by the reader that is used everywhere. What lies in the shuffle are sorted runs, as
Parquet, as Spark has no types for all columns that polars has, and need not sort again what is sorted.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from streamkit.batch.mapreduce.local import Tell
from streamkit.batch.mapreduce.pairs import PARTITION
from streamkit.batch.mapreduce.plan import JobPlan
from streamkit.batch.mapreduce.shuffle import read_sorted, relax_collector, write_run
from streamkit.batch.mapreduce.source import Batch, read
from streamkit.batch.mapreduce.stage import finish_task, output_file
from streamkit.batch.mapreduce.task import Done, Task
from streamkit.batch.mapreduce.task import TaskFailed as JobFailed
from streamkit.batch.mapreduce.work import Ports, Rejecting, Work
from streamkit.batch.spark.session import Failure, TaskFailed, kept, run_jobs, told
from streamkit.batch.spark.where import Where
from streamkit.errors import StreamkitError
from streamkit.log.archive import open_source
from streamkit.log.kafka import KafkaLog
from streamkit.mapreduce import MapReduce
from streamkit.settings import Connection

_MADE = "task int, kind string, name string, partition int, content binary"
_RUN, _OUT, _DONE = "run", "out", "done"
_PIECE = 8 << 20
"""Bytes of an output that are one row: a file may be larger than a row of Spark's can be."""
_NUMBER, _TEXT = pa.int32(), pa.string()
_SCHEMA = pa.schema(
    [("task", _NUMBER), ("kind", _TEXT), ("name", _TEXT), ("partition", _NUMBER), ("content", pa.binary())]
)


@dataclass(frozen=True)
class Site:
    """What a task needs to know of its job, wherever it runs."""

    where: Where
    plan: JobPlan
    skip: int
    memory: int
    connection: Connection
    archive: str | None


@dataclass(frozen=True)
class RunTasks:
    """Numbers of tasks (stage 0), or runs (later ones), to what the tasks make; runs in a Python worker."""

    site: Site
    stage: int
    counters: Mapping[str, int]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        relax_collector()
        place = os.environ.get("SPARK_LOCAL_DIRS", "").partition(",")[0]
        with tempfile.TemporaryDirectory(dir=place or None) as folder:
            job = self.site.where.job(self.site.skip)
            for task, runs in self._tasks(batches, Path(folder)):
                try:
                    yield from _Try(self, job, task, runs, Path(folder)).rows()
                except JobFailed as error:
                    raise TaskFailed(Failure(str(error), trace=error.trace)) from None
                except StreamkitError as error:
                    raise TaskFailed(Failure(str(error), trace="")) from None

    def _tasks(self, batches: Iterator[pa.RecordBatch], folder: Path) -> Iterator[tuple[Task, list[Path]]]:
        if self.stage == 0:
            splits = self.site.plan.splits
            for number in (number for batch in batches for number in batch.column(0).to_pylist()):
                yield Task(0, number, splits[number]), []
            return
        for number, runs in sorted(_spooled(batches, folder).items()):
            yield Task(self.stage, number), sorted(runs)


def _spooled(batches: Iterator[pa.RecordBatch], folder: Path) -> dict[int, list[Path]]:
    """The runs of each partition as files: a merge goes back and forth between them. A partition may have none."""
    runs: dict[int, list[Path]] = {}
    for batch in batches:
        for partition, name, content in zip(*batch.columns, strict=True):
            found = runs.setdefault(partition.as_py(), [])
            if name.is_valid:
                path = folder / f"{partition}-{name}.parquet"
                path.write_bytes(memoryview(content.as_buffer()))
                found.append(path)
    return runs


@dataclass
class _Try:
    """One task: its rows as they come."""

    tasks: RunTasks
    job: MapReduce
    task: Task
    runs: list[Path]
    folder: Path
    outputs: dict[str, Path] = field(default_factory=dict)
    made: list[tuple[str, str, int, bytes]] = field(default_factory=list)
    size: int = 0
    written: int = 0

    def rows(self) -> Iterator[pa.RecordBatch]:
        site = self.tasks.site
        with contextlib.ExitStack() as stack:
            ports = Ports(
                batches=lambda rejecting: self._batches(stack, rejecting),
                rows=lambda order: read_sorted(self.runs, self.task.number, order, site.memory),
                shuffle=self._shuffle,
                target=self._target,
            )
            partitions = site.plan.partitions
            work = Work(self.job, self.tasks.stage, partitions, site.memory, self.tasks.counters, ports)
            for _ in work.go():
                yield from self._handed_over()
            yield from self._handed_over()
            done = work.finish()
        done.bytes, done.runs = self.size, self.written
        yield from self._outputs()
        yield self._row((_DONE, "", -1, msgspec.json.encode(done)))

    def _batches(self, stack: contextlib.ExitStack, rejecting: Rejecting) -> Iterator[Batch]:
        site = self.tasks.site
        assert self.task.split is not None
        log = stack.enter_context(closing(KafkaLog(site.connection)))
        source = open_source(log, site.archive, [topic.name for topic in self.job.topics])
        return read(source, self.job, self.task.split, rejecting)

    def _shuffle(self, order: Sequence[str], rows: pl.DataFrame) -> None:
        """One run, cut by partition."""
        for part in rows.sort(PARTITION, *order).partition_by(PARTITION, maintain_order=True):
            content = io.BytesIO()
            write_run(part, content, partitions=1)
            name = f"{self.task.number:05}-{self.written:05}"
            self.made.append((_RUN, name, part[PARTITION][0], content.getvalue()))
            self.size += len(self.made[-1][-1])
        self.written += 1

    def _handed_over(self) -> Iterator[pa.RecordBatch]:
        made, self.made = self.made, []
        return map(self._row, made)

    def _target(self, output: str) -> Path:
        return self.outputs.setdefault(output, self.folder / f"{self.task.number}-{len(self.outputs)}.out")

    def _outputs(self) -> Iterator[pa.RecordBatch]:
        for output, path in self.outputs.items():
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    yield self._row((_OUT, output, -1, piece))
            path.unlink()
        for run in self.runs:
            run.unlink()

    def _row(self, made: tuple[str, str, int, bytes]) -> pa.RecordBatch:
        values = (self.task.number, *made)
        columns = [pa.array([value], each.type) for value, each in zip(values, _SCHEMA, strict=True)]
        return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


class SparkTasks:
    """The tasks of one job on Spark. `folder` is the job's own, `log` where Spark's output is.

    Each stage is computed once, and what it has shuffled is kept on the executors' disks until the next one is done.
    """

    def __init__(self, spark: SparkSession, site: Site, folder: Path, log: Path) -> None:
        self._spark, self._site, self._folder, self._log = spark, site, folder, log
        self._before: tuple[DataFrame, contextlib.ExitStack] | None = None

    def run(self, tasks: Sequence[Task], counters: Mapping[str, int], tell: Tell) -> Iterator[tuple[Task, Done]]:
        """All tasks of a stage. Raises TaskFailed, RunnerFailed."""
        if not tasks:
            return iter(())
        stage = tasks[0].stage
        stack = contextlib.ExitStack()
        made = stack.enter_context(kept(self._incoming(stage, tasks).mapInArrow(self._tasks(stage, counters), _MADE)))

        def collect() -> list[tuple[Task, Done]]:
            made.count()  # all at once; the loop then has one task after another of what is made
            columns = made.where(F.col("kind") != _RUN).select("task", "kind", "name", "content")
            rows = itertools.groupby(columns.toLocalIterator(prefetchPartitions=True), lambda row: int(row.task))
            known = {task.number: task for task in tasks}
            return [(known[number], self._keep(known[number], own)) for number, own in rows]

        def heard(done: int, of: int) -> None:
            tell(len(tasks) * done // max(of, 1))

        try:
            with told(self._log):
                name = f"mapreduce {self._site.where.name} {self._site.plan.id} stage {stage}"
                return iter(run_jobs(self._spark, name, collect, heard))
        finally:
            self.close()
            self._before = made, stack

    def close(self) -> None:
        if self._before is not None:
            self._before[1].close()
        self._before = None

    def _tasks(self, stage: int, counters: Mapping[str, int]) -> RunTasks:
        return RunTasks(self._site, stage, dict(counters))

    def _incoming(self, stage: int, tasks: Sequence[Task]) -> DataFrame:
        """One partition of Spark's for each task."""
        if stage == 0:
            return self._spark.range(0, len(tasks), 1, len(tasks))
        assert self._before is not None
        partitions = self._site.plan.partitions
        runs = self._before[0].where(F.col("kind") == _RUN).select("partition", "name", "content")
        # A task that no row goes to is one, too: it may yield what it has counted.
        absent = F.lit(None)
        all_ = self._spark.range(0, partitions, 1, 1).select(
            F.col("id").cast("int").alias("partition"), absent.cast("string"), absent.cast("binary")
        )
        return runs.union(all_).repartitionById(partitions, F.col("partition"))

    def _keep(self, task: Task, rows: Iterator[Any]) -> Done:
        """A task's outputs in its folder, as the local runner leaves them."""

        def write(own: Path) -> Done:
            for row in rows:
                if row.kind == _DONE:
                    return msgspec.json.decode(bytes(row.content), type=Done)
                with output_file(own, row.name).open("ab") as file:
                    file.write(row.content)
            raise AssertionError(f"{task.name} has not told what it has counted")

        return finish_task(self._folder / task.name, write)
