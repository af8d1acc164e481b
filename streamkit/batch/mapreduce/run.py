"""A MapReduce run: its stages one after the other, and what it leaves on disk, so that a killed one goes on.

    plan.json           written first: a run that is killed goes on with the same Cuts
    stage-S/task-T/     a task that is done: see `stage`
    results/ID/...      the result's files, and below the name of an output its own

Only the manifest on the control topic makes a result one that is answered from: see `publish`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from streamkit.batch.lock import alone
from streamkit.batch.mapreduce.local import JobRunner
from streamkit.batch.mapreduce.plan import LOCAL, JobPlan
from streamkit.batch.mapreduce.stage import read_done
from streamkit.batch.mapreduce.task import Done, Skipped, Task
from streamkit.control import File
from streamkit.errors import TopicChanged
from streamkit.log.base import Log
from streamkit.mapreduce import MAIN, MapReduce
from streamkit.store.batchfile import checksum


@dataclass(frozen=True)
class JobProgress:
    """How far a run is: the stage (from 0) of `stages`, its tasks, and what all of them have counted so far."""

    stage: int
    stages: int
    done: int
    tasks: int
    records: int
    shuffled: int
    bytes: int
    skipped: int


@dataclass(frozen=True)
class Finished:
    """A finished run, not yet published. `files` are by output; `bytes` are the shuffle's, on disk."""

    plan: JobPlan
    files: Mapping[str, tuple[File, ...]]
    counters: Mapping[str, int]
    skipped: tuple[Skipped, ...]
    rejected: int
    records: int
    shuffled: int
    bytes: int
    seconds: float

    @property
    def rows(self) -> dict[str, int]:
        return {output: sum(file.rows for file in files) for output, files in self.files.items()}


class JobRun:
    """Runs the plans of one job in `folder`; one run at a time."""

    def __init__(self, log: Log, job: MapReduce, folder: Path) -> None:
        self._log, self._job, self.folder = log, job, folder

    def unfinished(self) -> JobPlan | None:
        """The plan of a run that was stopped, if it is still of this definition, these topics and this polars."""
        path = self.folder / "plan.json"
        if not path.exists():
            return None
        plan = msgspec.json.decode(path.read_bytes(), type=JobPlan)
        now = JobPlan(
            plan.id, self._job.name, self._job.fingerprint, plan.cuts, plan.splits, plan.partitions, runner=plan.runner
        )
        same = all(self._log.describe(topic).id == cut.topic_id for topic, cut in plan.cuts.items())
        return plan if plan == now and same else None

    def run(
        self, plan: JobPlan, runner: JobRunner, *, on_progress: Callable[[JobProgress], None] = lambda _: None
    ) -> Finished:
        """Do the plan, going on from the tasks that are done.

        Raises TaskFailed, BadRecord, DefinitionError, TopicChanged, and StateLocked where another run is under way.
        """
        began = time.monotonic()
        with alone(self.folder, f"mapreduce {self._job.name!r}"):
            self._begin(plan)
            stages = len(self._job.steps) + (self._job.steps[-1].reduce is not None)
            totals = Totals()
            for stage in range(stages):
                self._stage(plan, stage, stages, runner, totals, on_progress)
            files = self._gather(plan.id)
            return Finished(
                plan, files, dict(totals.counters), tuple(totals.skipped), totals.rejected, totals.records,
                totals.shuffled, totals.bytes, time.monotonic() - began,
            )  # fmt: skip

    def finish(self, keep: Sequence[str]) -> None:
        """Drop what only an unfinished run needs, and results that nobody reads; comes after the publication."""
        (self.folder / "plan.json").unlink(missing_ok=True)
        for stage in self.folder.glob("stage-*"):
            shutil.rmtree(stage, ignore_errors=True)
        results = self.folder / "results"
        for path in results.iterdir() if results.is_dir() else ():
            if path.name not in keep:
                shutil.rmtree(path)

    def _begin(self, plan: JobPlan) -> None:
        for topic, cut in plan.cuts.items():
            topic_id = self._log.describe(topic).id
            if topic_id != cut.topic_id:
                raise TopicChanged(f"topic {topic!r} was deleted and made again (id {topic_id}, Cut {cut.topic_id})")
        path = self.folder / "plan.json"
        same = path.exists() and msgspec.json.decode(path.read_bytes(), type=JobPlan) == plan
        if same and plan.runner == LOCAL:
            return
        path.unlink(missing_ok=True)
        for stage in self.folder.glob("stage-*"):
            shutil.rmtree(stage)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.encode(plan))
        temporary.replace(path)

    def _stage(
        self,
        plan: JobPlan,
        stage: int,
        stages: int,
        runner: JobRunner,
        totals: Totals,
        on_progress: Callable[[JobProgress], None],
    ) -> None:
        tasks = plan.tasks(stage)
        before = dict(totals.counters)
        left = []
        for task in tasks:
            if (self.folder / task.name).is_dir():
                totals.add(task, read_done(self.folder / task.name))
            else:
                left.append(task)
        finished = len(tasks) - len(left)

        def tell(more: int = 0) -> None:
            told = (totals.records, totals.shuffled, totals.bytes, len(totals.skipped))
            on_progress(JobProgress(stage, stages, finished + more, len(tasks), *told))

        tell()
        for task, done in runner.run(left, before, tell):
            totals.add(task, done)
            finished += 1
            tell()
        if stage:  # what the stage before has shuffled has been read
            for runs in self.folder.glob(f"stage-{stage - 1}/task-*[0-9]/run-*.parquet"):
                runs.unlink()

    def _gather(self, identity: str) -> dict[str, tuple[File, ...]]:
        """The parts of all tasks under the result's name; links, so that a run killed in between can begin again."""
        files: dict[str, list[File]] = {output: [] for output in self._job.outputs}
        for path in sorted(self.folder.glob("stage-*/task-*[0-9]/out-*.parquet")):
            output = path.stem.removeprefix("out-")
            stage, task = path.parent.parent.name.removeprefix("stage-"), path.parent.name.removeprefix("task-")
            rows = read_done(path.parent).rows[output]
            if not rows:
                continue
            part = f"part-{task}.parquet" if output == MAIN else f"{output}/part-{stage}-{task}.parquet"
            target = self.folder / "results" / identity / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                os.link(path, target)
            size = target.stat().st_size
            files[output].append(File(f"{identity}/{part}", rows, size, checksum(target)))
        return {output: tuple(found) for output, found in files.items()}


class Totals:
    """What the tasks that are done have counted together."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.skipped: list[Skipped] = []
        self.records = self.shuffled = self.bytes = self.rejected = 0

    def add(self, task: Task, done: Done) -> None:
        self.counters.update(done.counters)
        self.skipped += done.skipped
        self.rejected += done.rejected
        self.shuffled += done.shuffled
        self.bytes += done.bytes
        self.records += done.records if task.stage == 0 else 0
