"""The Driver: a Topology in one process, on a log in memory, with one verb for each durable step.

Between any two verbs a test can `crash`; what was durable stays, all else is gone. Several workers share the tasks as
they would by Kafka's group: verbs of the speed layer take the worker's number.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polars as pl

from streamkit.batch.base import check_files, find_base
from streamkit.batch.local import Inline
from streamkit.batch.mapreduce.local import InlineTasks
from streamkit.batch.mapreduce.plan import make_plan as plan_job
from streamkit.batch.mapreduce.publish import kept
from streamkit.batch.mapreduce.publish import publish as publish_job
from streamkit.batch.mapreduce.run import JobRun
from streamkit.batch.mapreduce.stage import Stages
from streamkit.batch.plan import make_plan
from streamkit.batch.publish import discard_old, manifest, publish
from streamkit.batch.run import Result, Run
from streamkit.batch.tasks import Tasks
from streamkit.changelog.changelogs import Changelogs, existing
from streamkit.changelog.follower import Follower
from streamkit.checkpoint import Slot, segment_prefix, states_range, task_prefix
from streamkit.control import BatchView, File, JobResult, Proof, Reset, Sealed, SealRequest
from streamkit.cut import Cut
from streamkit.deadletter import DeadLetter
from streamkit.errors import CutMismatch, Fenced, StateMissing, StreamkitError
from streamkit.fold import Fold, State
from streamkit.log.control import ControlTopic
from streamkit.log.memory import MemoryLog
from streamkit.log.scan import read_all
from streamkit.mapreduce import MapReduce
from streamkit.record import Headers, Record, TopicPartition
from streamkit.serving.batches import states_of
from streamkit.serving.copies import Copies
from streamkit.serving.merge import Serving
from streamkit.serving.proof import compare
from streamkit.speed.worker import Worker
from streamkit.store.memory import MemoryReader, MemoryStore
from streamkit.topic import Topic
from streamkit.topology import Topology
from streamkit.view import Answer, View

_JOB_MEMORY = 64 << 20


class Driver:
    """Runs a Topology step by step.

    >>> import msgspec, streamkit as sk
    >>> class Click(msgspec.Struct):
    ...     campaign: str
    >>> app = sk.Topology("ads")
    >>> clicks = app.topic("clicks", value=Click, key="campaign")
    >>> spend = app.view("spend", clicks, key="campaign", aggregates={"clicks": sk.Count()})
    >>> with Driver(app) as driver:
    ...     driver.send(clicks, Click("acme"), Click("acme"))
    ...     driver.step(); driver.checkpoint()
    ...     driver.send(clicks, Click("acme"))
    ...     driver.step(); driver.crash()         # the third click was read, and forgotten
    ...     driver.step(); driver.checkpoint()    # it comes again
    ...     driver.ask(spend, "acme").value
    {'clicks': 3}
    """

    def __init__(
        self, topology: Topology, *, log: MemoryLog | None = None, split_records: int = 250_000, workers: int = 1
    ) -> None:
        self.topology = topology
        self.log = log or MemoryLog()
        self._split_records = split_records
        self._folder = tempfile.TemporaryDirectory(prefix="streamkit-driver-")
        for topic in topology.topics.values():
            self.log.create(topic.name, partitions=topic.partitions)
        self._stores = [MemoryStore() for _ in range(workers)]
        self._running: dict[int, Worker] = {}
        self._replica = MemoryStore()
        self._control = ControlTopic(self.log, topology.name)
        self._changelogs = Changelogs(self.log, topology.name)
        copies = Copies(self._changelogs, lambda: [MemoryReader(store) for store in [*self._stores, self._replica]])
        self._serving = Serving(self.log, topology, self.folder, copies)
        far = Copies(self._changelogs, lambda: [MemoryReader(self._replica)])
        self._far = Serving(self.log, topology, self.folder, far)
        self._follower: Follower | None = None
        self._writer = self.log.writer()
        self._results: dict[str, Result] = {}
        self._before: dict[str, tuple[File, ...]] = {}

    @property
    def folder(self) -> Path:
        """The batch folder."""
        return Path(self._folder.name)

    @property
    def serving(self) -> Serving:
        """What answers, as a reader in another process would, from the furthest copies that there are."""
        return self._serving

    @property
    def far(self) -> Serving:
        """What answers on another machine: by its own copies, as far as `follow` has brought them."""
        return self._far

    @property
    def worker(self) -> Worker:
        """The first worker, started if it does not run."""
        return self.worker_at(0)

    def worker_at(self, number: int) -> Worker:
        """A worker, started if it does not run."""
        if number not in self._running:
            worker = Worker(self.topology, self.log, self._stores[number], name=f"worker-{number}")
            self._running[number] = worker
            worker.hear()
            while worker.restoring() is not None:
                worker.hear()
        return self._running[number]

    # -- the log ------------------------------------------------------------------------------------------------------

    def send(self, topic: Topic, *values: Any) -> None:
        """Put values on a topic as their producer would: keyed, and with their event time as the timestamp."""
        for value in values:
            key, timestamp = topic.key_of(value), topic.time_of(value)
            self._writer.send(topic.name, topic.encode(value), key=key, timestamp=timestamp)
        self._writer.flush()

    def send_bytes(self, topic: Topic, value: bytes | None, *, key: bytes | None = None, headers: Headers = ()) -> None:
        """Put a record on a topic as it is."""
        self._writer.send(topic.name, value, key=key, headers=headers)
        self._writer.flush()

    def records(self, topic: str) -> list[Record]:
        """All records of a topic, by partition and offset."""
        return list(read_all(self.log, topic))

    def values(self, topic: Topic) -> list[Any]:
        """All values of a topic, by partition and offset."""
        return [topic.decode(r.value) for r in self.records(topic.name) if r.value is not None]

    def dead_letters(self, topic: Topic) -> list[DeadLetter]:
        return [DeadLetter.of(r) for r in self.records(topic.dead_letters)]

    # -- the speed layer ----------------------------------------------------------------------------------------------

    def step(self, max_records: int = 20_000, *, worker: int = 0) -> None:
        """Hear the group and read once; nothing of it is durable yet."""
        self._verb(worker, lambda w: w.step(max_records))

    def settle(self, *, worker: int = 0) -> None:
        """Agents are done; outputs and dead letters are held."""
        self._verb(worker, Worker.settle)

    def commit(self, *, worker: int = 0) -> None:
        """Outputs, dead letters, state and offsets are on the log, together."""
        self._verb(worker, Worker.commit)

    def write(self, *, worker: int = 0) -> None:
        """They are in the worker's store, too."""
        self._verb(worker, Worker.write)

    def report(self, *, worker: int = 0) -> None:
        """The seals are known to the batch layer."""
        self._verb(worker, Worker.report)

    def checkpoint(self, *, worker: int = 0) -> None:
        """`settle`, `commit`, `write`, `report`."""
        self._verb(worker, Worker.listen)
        self._verb(worker, Worker.checkpoint)

    def catch_up(self, *, worker: int = 0) -> None:
        """All workers that run read to the log's end, this one too, and make their Checkpoints."""
        for _ in range(1_000):
            ends = {TopicPartition(t, p): end for t in self.topology.sources() for p, end in self.log.ends(t).items()}
            self.worker_at(worker)
            for number in sorted(self._running):
                self.step(worker=number)
                self.checkpoint(worker=number)
            if worker in self._running and self._running[worker].reached(ends):
                return self.checkpoint(worker=worker)
        raise StreamkitError(f"worker {worker} does not come to the log's end {ends}")

    def crash(self, *, worker: int = 0) -> None:
        """The worker is gone at once, and all that was not durable; the group gives its tasks to the others."""
        if worker in self._running:
            gone = self._running.pop(worker)
            self.log.expire(gone.member)
            gone.close()

    def suspend(self, *, worker: int = 0) -> None:
        """The worker is stopped for so long that the group gives its tasks to others; it does not know of it.

        Whatever verb comes next for it, wakes it.
        """
        self.log.expire(self.worker_at(worker).member)

    def lose_disk(self, *, worker: int = 0) -> None:
        """The worker crashes, and its store is gone, too."""
        self.crash(worker=worker)
        self._stores[worker] = MemoryStore()

    def follow(self, max_records: int | None = None) -> None:
        """A serving node on another machine follows the changelogs to their ends, or reads just so many records."""
        if self._follower is None:
            self._follower = Follower(self.log, self._changelogs, self._replica)
        self._changelogs.forget()
        there = existing(self.log, self.topology.name, self.topology.sources())
        self._follower.follow([TopicPartition(t, number) for t, count in there.items() for number in range(count)])
        if max_records is not None:
            self._follower.step(max_records=max_records)
            return
        while self._follower.step():
            pass

    @property
    def followed(self) -> bool:
        """Has `follow` ever been called?"""
        return self._follower is not None

    def _verb(self, number: int, verb: Callable[[Worker], object]) -> None:
        """A worker that is fenced leaves, and begins again at its next verb."""
        try:
            verb(self.worker_at(number))
        except Fenced:
            self.crash(worker=number)

    # -- the batch layer ----------------------------------------------------------------------------------------------

    def seal(self, view: View) -> None:
        """Ask the workers to seal; they do at their next `commit`, and tell of it at their next `report`."""
        self._control.append(SealRequest(uuid.uuid4().hex, view.name))
        for worker in self._running.values():
            worker.listen()

    def cut(self, view: View) -> Cut:
        """Where the batch layer would cut: where the newest seal is that all partitions report, else the log's end."""
        info = self.log.describe(view.topic.name)
        reports: dict[str, dict[int, int]] = {}
        with closing(ControlTopic(self.log, self.topology.name)) as control:
            for message in control.catch_up():
                if isinstance(message, Sealed) and message.view == view.name and message.topic_id == info.id:
                    reports.setdefault(message.request, {}).update(message.ends)
        whole = [ends for ends in reports.values() if len(ends) >= info.partitions]
        return Cut(view.topic.name, info.id, whole[-1]) if whole else self.end(view)

    def end(self, view: View) -> Cut:
        """The log's end, where the batch layer cuts when it hears of no worker."""
        return Cut(view.topic.name, self.log.describe(view.topic.name).id, self.log.ends(view.topic.name))

    def batch(self, view: View, cut: Cut | None = None, *, incremental: bool = False) -> Result:
        """Recompute the View at a Cut (see `cut`); nobody sees it before `publish`.

        An `incremental` run starts from the BatchView in force where it can; `result.plan` tells.
        """
        folder, cut = self.folder / view.name, cut or self.cut(view)
        self._control.catch_up()
        batches = self._control.published.of(view.name, view.fingerprint)
        before = None
        with suppress(StateMissing):
            found = find_base(batches, cut)
            check_files(found, folder)
            before = found
        run, starts = Run(self.log, view, folder), self.log.starts(view.topic.name)
        plan = make_plan(
            view, cut, starts, {}, self._split_records, before=before, incremental=incremental and before is not None
        )
        runner = Inline(Tasks(self.log, view, folder))
        result = run.run(plan, runner)
        self._before[view.name] = () if incremental or before is None else run.merge_before(result, runner)
        run.finish()
        self._results[view.name] = result
        return result

    def states(self, view: View) -> dict[Slot, State]:
        """All states of the last `batch`."""
        fold, result = Fold(view), self._results[view.name]
        return dict(states_of(fold, self.folder, result.files))

    def prove_before(self, view: View) -> Proof | None:
        """Compare the last `batch`, a full one, with the BatchView before, at the Cut of that; None for any other."""
        plan = self._results[view.name].plan
        if plan.before is None or plan.incremental:
            return None
        fold = Fold(view)
        old, new = (states_of(fold, self.folder, f) for f in (plan.before.files, self._before[view.name]))
        return compare(fold, old, new)

    def publish(self, view: View) -> BatchView:
        """Put the last `batch` in force."""
        batch = manifest(self._results.pop(view.name), None)
        publish(self._control, batch)
        discard_old(self._control, view.name, self.folder / view.name)
        for worker in self._running.values():
            worker.listen()
        return batch

    def mapreduce(self, job: MapReduce, cuts: Mapping[str, Cut] | None = None) -> JobResult:
        """Run a MapReduce job here, at these Cuts or at the topics' ends, and publish its result."""
        folder = self.folder / "mapreduce" / job.name
        run = JobRun(self.log, job, folder)
        plan = run.unfinished() or plan_job(job, self.log, cuts, self._split_records)
        stages = Stages(self.log, job, folder, plan.partitions, _JOB_MEMORY)
        result = publish_job(self.log, self.topology.name, job, folder, run.run(plan, InlineTasks(stages)))
        run.finish(kept(self.log, self.topology.name, job.name))
        return result

    def rows(self, job: MapReduce, output: str = "") -> pl.DataFrame:
        """The rows of a job's newest result, of one of its outputs, as they lie in its files."""
        self._control.catch_up()
        folder = self.folder / "mapreduce" / job.name / "results"
        files = self._control.published.results(job.name)[0].files[output]
        return pl.concat([pl.read_parquet(folder / file.path) for file in files]) if files else pl.DataFrame()

    def prove(self, view: View) -> Proof | None:
        """Compare the last `batch` with what the serving layer has at its Cut; None where it has nothing there."""
        result = self._results[view.name]
        try:
            seam = self._serving.seam_at(view, result.plan.cut)
        except (CutMismatch, StateMissing):
            return None
        fold = Fold(view)
        return compare(fold, self._serving.merged(view, seam), states_of(fold, self.folder, result.files))

    def reset(self, view: View) -> None:
        """Void the View's BatchViews and Segments; the workers begin it anew at their next `commit`."""
        self._results.pop(view.name, None)
        self._control.append(Reset(view.name, uuid.uuid4().hex))
        for worker in self._running.values():
            worker.listen()

    # -- the serving layer --------------------------------------------------------------------------------------------

    def ask(self, view: View, *key: Any, window: int | tuple[int, int] | None = None) -> Answer:
        """The merged Answer, as a reader in another process would get it."""
        return self._serving.get(view, view.key(*key), window)

    def scan(self, view: View) -> list[Answer]:
        """All Answers, by key and window."""
        return list(self._serving.scan(view))

    def orphans(self, view: View) -> int:
        """States in the furthest copies that belong to no Segment: 0, or released ones were left."""
        count = 0
        for partition, segments in self._serving.segments(view).items():
            task = TopicPartition(view.topic.name, partition)
            prefix, (start, end) = task_prefix(task), states_range(view.name)
            live = tuple(prefix + segment_prefix(view.name, begin) for begin, _ in segments.all())
            copy = self._serving.copies.of(task)
            assert copy is not None
            count += sum(not key.startswith(live) for key, _ in copy.scan(prefix + start, prefix + end))
        return count

    def close(self) -> None:
        for number in list(self._running):
            self.crash(worker=number)
        if self._follower is not None:
            self._follower.close()
        self._serving.close()
        self._far.close()
        self._control.close()
        self._writer.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
