"""What a task does: read, reduce what the stage before has shuffled, map, and write to the shuffle or to outputs.

A job of n steps has n + 1 stages: the first maps the input; each after it reduces the step before and maps the next, in
one go; the last reduces. What lies between two stages is the shuffle alone.

    stage-S/task-T/run-R.parquet     rows for the next stage
    stage-S/task-T/out-NAME.parquet  rows of an output
    stage-S/task-T/done.json         what it has counted; written last, then the folder gets its name
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from streamkit.batch.mapreduce import columns as frames
from streamkit.batch.mapreduce.outputs import FramePart, Part, check_output, frame_part, part
from streamkit.batch.mapreduce.pairs import Pairs
from streamkit.batch.mapreduce.records import Mapper, Shuffled, reduced
from streamkit.batch.mapreduce.shuffle import RunWriter, read_sorted
from streamkit.batch.mapreduce.source import Batch, read
from streamkit.batch.mapreduce.task import Done, Task, TaskContext
from streamkit.decode import Rejected
from streamkit.errors import BadRecord, DefinitionError
from streamkit.log.base import Log
from streamkit.mapreduce import MAIN, MapReduce, Step, To
from streamkit.topic import Topic

DONE = "done.json"


@dataclass(frozen=True)
class Stages:
    """The tasks of one job in `folder`; `memory` is what one task's data may take, in bytes."""

    log: Log
    job: MapReduce
    folder: Path
    partitions: int
    memory: int

    def run(self, task: Task, counters: Mapping[str, int]) -> Done:
        """Do a task; its folder appears when all of it is there. What another try has done meanwhile stays.

        Raises TaskFailed, BadRecord, DefinitionError.
        """
        final = self.folder / task.name
        own = final.with_name(f"{final.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
        own.mkdir(parents=True)
        try:
            done = _Work(self, task, own, counters).run()
            (own / DONE).write_bytes(msgspec.json.encode(done))
            try:
                own.rename(final)
            except OSError:
                if not final.is_dir():
                    raise
                return read_done(final)  # a second try was quicker
            return done
        finally:
            shutil.rmtree(own, ignore_errors=True)

    def runs(self, stage: int) -> list[Path]:
        """What the tasks of a stage have written to the shuffle."""
        return sorted(self.folder.glob(f"stage-{stage}/task-*[0-9]/run-*.parquet"))


def read_done(folder: Path) -> Done:
    return msgspec.json.decode((folder / DONE).read_bytes(), type=Done)


class _Work:
    """One try of one task."""

    def __init__(self, stages: Stages, task: Task, folder: Path, counters: Mapping[str, int]) -> None:
        self._stages, self._job, self._task, self._folder = stages, stages.job, task, folder
        self._context = TaskContext(self._job.files, counters)
        steps = self._job.make()  # of a class: an instance of its own
        self._before: Step | None = steps[task.stage - 1] if task.stage else None
        self._step: Step | None = steps[task.stage] if task.stage < len(steps) else None
        self._parts: dict[str, Part] = {}
        self._frames: dict[str, FramePart] = {}
        self._writer: RunWriter | None = None

    def run(self) -> Done:
        (self._columns if self._job.batches else self._records)()
        return self._finish()

    # -- records ------------------------------------------------------------------------------------------------------

    def _records(self) -> None:
        shuffled = self._shuffled()
        emit = shuffled.emit if shuffled is not None else self._part(MAIN).extend
        step = self._step
        if self._before is None:
            assert step is not None
            mapper = Mapper(step, self._context, emit, self._aside, self._job.skip)
            for batch in self._read():
                mapper.feed(batch.objects, batch.where)
        else:
            self._reduce_records(self._before, emit)
        if shuffled is not None:
            shuffled.close()

    def _reduce_records(self, before: Step, emit: Any) -> None:
        step, served = self._step, self._job.served and self._step is None
        if step is not None and step.map is not None:
            emit = Mapper(step, self._context, emit, self._aside, 0).pairs
        pairs, last = Pairs(before, self._stages.partitions), None
        for key, made in reduced(before, pairs, self._context, self._sorted(pairs.order)):
            if isinstance(made, To):
                self._aside(made)
                continue
            if served:
                _check_served(key, made, last)
                last = (key,)
            emit([made])

    def _shuffled(self) -> Shuffled | None:
        """None where the pairs are the result."""
        step = self._step
        if step is None or step.reduce is None:
            return None
        pairs = Pairs(step, self._stages.partitions)
        return Shuffled(step, pairs, self._context, self._to_shuffle(pairs.order).add, self._stages.memory)

    def _aside(self, pair: To) -> None:
        self._part(pair.output).add(pair.key, pair.value)

    def _part(self, output: str) -> Part:
        if output not in self._parts:
            check_output(self._job, output)
            self._parts[output] = part(self._job, output, self._file(output))
        return self._parts[output]

    # -- columns ------------------------------------------------------------------------------------------------------

    def _columns(self) -> None:
        for frame in self._incoming():
            step = self._step
            if step is None:
                self._result(frame)
                continue
            for mapped in (frame,) if step.map is None else frames.call("map", step.map, self._context, frame):
                self._result(mapped) if step.reduce is None else self._spread(step, mapped)

    def _incoming(self) -> Iterator[pl.DataFrame]:
        before = self._before
        if before is None:
            for batch in self._read():
                self._context.where = f"{batch.where(0)} to {batch.where(len(batch) - 1)}"
                yield batch.frame()
            return
        assert before.reduce is not None
        for whole in frames.whole_keys(before, self._sorted(frames.order_of(before)), self._context):
            self._context.where = f"keys {whole.select(before.keys).row(0)} to {whole.select(before.keys).row(-1)}"
            yield from frames.call("reduce", before.reduce, self._context, whole)

    def _spread(self, step: Step, frame: pl.DataFrame) -> None:
        placed = frames.placed(step, frame, self._stages.partitions)
        if self._writer is None:
            combine = frames.combiner(step, self._context, self._stages.partitions)
            self._to_shuffle(frames.order_of(step), combine)
        assert self._writer is not None
        self._writer.add(placed)

    def _result(self, frame: pl.DataFrame) -> None:
        if MAIN not in self._frames:
            self._frames[MAIN] = frame_part(self._job, MAIN, self._file(MAIN))
        self._frames[MAIN].add(frame)

    # -- both ---------------------------------------------------------------------------------------------------------

    def _read(self) -> Iterator[Batch]:
        split, done = self._task.split, self._context.done
        assert split is not None
        for batch in read(self._stages.log, self._job, split, self._rejected):
            done.records += len(batch)
            yield batch

    def _rejected(self, topic: Topic, rejected: list[Rejected]) -> None:
        """The speed layer has dead-lettered or counted them; only `fail` concerns the batch layer."""
        if topic.errors == "fail":
            first = rejected[0]
            raise BadRecord(*first.source, first.offset, f"{first.reason} (error policy `fail`)")
        self._context.done.rejected += len(rejected)

    def _sorted(self, order: list[str]) -> Iterator[pl.DataFrame]:
        stages, task = self._stages, self._task
        return read_sorted(stages.runs(task.stage - 1), task.number, order, stages.memory)

    def _to_shuffle(self, order: list[str], combine: Any = None) -> RunWriter:
        stages = self._stages
        # What sorts a run holds it twice, and what writes it once more.
        self._writer = RunWriter(self._folder, order, stages.partitions, stages.memory // 6, combine)
        return self._writer

    def _file(self, output: str) -> Path:
        return self._folder / f"out-{output}.parquet"

    def _finish(self) -> Done:
        done = self._context.done
        if self._writer is not None:
            self._writer.close()
            done.shuffled, done.bytes, done.runs = self._writer.rows, self._writer.bytes, self._writer.runs
        outputs: list[tuple[str, Part | FramePart]] = [*self._parts.items(), *self._frames.items()]
        for output, written in outputs:
            written.close()
            done.rows[output] = written.rows
        return done


def _check_served(key: Any, made: tuple[Any, Any], last: tuple[Any] | None) -> None:
    if made[0] != key or type(made[0]) is not type(key):
        raise DefinitionError(
            f"served=True: reduce must yield the key that it was given, {key!r}, and yielded {made[0]!r}; "
            f"add a Step that groups by it"
        )
    if last is not None and last[0] == key and type(last[0]) is type(key):
        raise DefinitionError(f"served=True: reduce must yield one pair a key, and yielded several for {key!r}")
