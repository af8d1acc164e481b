"""Stages on this machine's disk: the tasks' folders, and how tasks read and write them.

stage-S/task-T/run-R.parquet     rows for the next stage
stage-S/task-T/out-NAME.parquet  rows of an output
stage-S/task-T/done.json         what it has counted; written last, then the folder gets its name
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from streamkit.batch.mapreduce.shuffle import RunWriter, read_sorted
from streamkit.batch.mapreduce.source import Batch, read
from streamkit.batch.mapreduce.task import Done, Task
from streamkit.batch.mapreduce.work import Ports, Rejecting, Work
from streamkit.log.base import Log
from streamkit.mapreduce import MapReduce

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
        return finish_task(self.folder / task.name, lambda own: self._work(task, own, counters))

    def _work(self, task: Task, own: Path, counters: Mapping[str, int]) -> Done:
        def batches(rejecting: Rejecting) -> Iterator[Batch]:
            assert task.split is not None
            return read(self.log, self.job, task.split, rejecting)

        writer = RunWriter(own, self.partitions)
        ports = Ports(
            batches=batches,
            rows=lambda order: read_sorted(self.runs(task.stage - 1), task.number, order, self.memory),
            shuffle=writer.write,
            target=lambda output: output_file(own, output),
        )
        work = Work(self.job, task.stage, self.partitions, self.memory, counters, ports)
        for _ in work.go():
            pass
        done = work.finish()
        done.bytes, done.runs = writer.bytes, writer.runs
        return done

    def runs(self, stage: int) -> list[Path]:
        """What the tasks of a stage have written to the shuffle."""
        return sorted(self.folder.glob(f"stage-{stage}/task-*[0-9]/run-*.parquet"))


def output_file(folder: Path, output: str) -> Path:
    return folder / f"out-{output}.parquet"


def finish_task(final: Path, work: Callable[[Path], Done]) -> Done:
    """Let `work` fill a folder, which gets its name when all of it is there, what the task has counted last."""
    own = final.with_name(f"{final.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    own.mkdir(parents=True)
    try:
        done = work(own)
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


def read_done(folder: Path) -> Done:
    return msgspec.json.decode((folder / DONE).read_bytes(), type=Done)
