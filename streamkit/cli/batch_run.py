"""A recomputation of one View, from the Cut to the manifest: what `batch`, `scheduler`, `upgrade` and `verify` do."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from streamkit.batch.base import check_files, find_base
from streamkit.batch.local import Inline, Processes
from streamkit.batch.plan import SPLIT_RECORDS, Plan, make_plan
from streamkit.batch.publish import discard_old, manifest, publish
from streamkit.batch.run import Engine, Result, Run, Runner
from streamkit.batch.run import Progress as Done
from streamkit.batch.tasks import Tasks
from streamkit.cli.options import (
    err,
    is_empty,
    out,
)
from streamkit.cli.spark import Spark
from streamkit.control import BatchView, Kind, Proof, RunEnded, RunStarted, Trigger
from streamkit.cut import Cut
from streamkit.errors import CutMismatch, RunStopped, StateMissing, StreamkitError
from streamkit.fold import Fold
from streamkit.folder import DataFolder
from streamkit.log.archive import open_source
from streamkit.log.control import ControlTopic, request_seal
from streamkit.log.kafka import KafkaLog
from streamkit.serving.batches import states_of
from streamkit.serving.connect import open_serving
from streamkit.serving.proof import compare
from streamkit.serving.seam import Seam
from streamkit.speed.worker import group_of
from streamkit.topology import Topology
from streamkit.view import View

SEAL_SECONDS = 10.0

CutFrom = tuple[Cut, Mapping[int, int]]
"""Where to cut, and from where on older results have counted, by partition."""


@dataclass(frozen=True)
class Wish:
    """What is asked of a run. `check` is called between its steps, and `last_check` just before the publication: what
    they raise stops the run."""

    kind: Kind = "full"
    trigger: Trigger = "by hand"
    due: int = 0
    seal_seconds: float = SEAL_SECONDS
    split_records: int = SPLIT_RECORDS
    at: CutFrom | None = None
    check: Callable[[], None] = lambda: None
    last_check: Callable[[], None] = lambda: None


class BatchRun:
    """One View's recomputation, from the Cut to the manifest."""

    def __init__(
        self,
        topology: Topology,
        spec: str,
        view: View,
        log: KafkaLog,
        folder: DataFolder,
        processes: int | None,
        results: Path | None = None,
        spark: Spark | None = None,
        archive: str | None = None,
    ) -> None:
        """`results` is where results go instead of the batch folder, `archive` where topics are archived; with `spark`
        Spark computes."""
        self.topology, self.spec, self.view, self.log, self.folder = topology, spec, view, log, folder
        self._spark = spark
        self._processes = processes or os.cpu_count() or 1
        self._results = results or folder.batch
        self._own = self._results / view.name
        self._archive = archive or folder.archive
        self.source = open_source(log, self._archive, [view.topic.name])
        self._run = Run(self.source, view, self._own)

    def recompute(self, wish: Wish) -> BatchView:
        """From the Cut to the manifest, and noted in the history.

        Raises StateLocked where another run of this View holds the folder (that is no run, and not noted), RunStopped.
        """
        with self._run.alone(), closing(ControlTopic(self.log, self.topology.name)) as control:
            control.catch_up()
            by, now = f"{socket.gethostname()}:{os.getpid()}", _now()
            view = self.view
            note = RunStarted(uuid.uuid4().hex, view.name, view.fingerprint, wish.kind, wish.trigger, wish.due, now, by)
            control.append(note)
            ended = RunEnded(note.id, "failed", 0, wish.kind)
            try:
                plan = self.plan(wish, control)
                ended = msgspec.structs.replace(ended, kind=plan.kind, offsets=plan.offsets, records=plan.records)
                batch = self.publish(control, plan, wish)
            except BaseException as error:
                stopped = isinstance(error, KeyboardInterrupt | SystemExit | RunStopped)
                reason = str(error) if isinstance(error, StreamkitError) else f"{type(error).__name__}: {error}"
                ended = msgspec.structs.replace(ended, outcome="stopped" if stopped else "failed", reason=reason)
                with suppress(StreamkitError):  # without a broker there is no note: it will look like one killed
                    control.append(msgspec.structs.replace(ended, time=_now()))
                raise
            control.append(_noted(ended, batch))
            return batch

    def plan(self, wish: Wish, control: ControlTopic) -> Plan:
        """The Plan of a run that was stopped, else one for `wish.at`, else for where the workers seal."""
        batches = control.published.of(self.view.name, self.view.fingerprint)
        unfinished = self._unfinished(batches)
        if unfinished is not None:
            err.print(f"view {self.view.name}: going on with the run that was stopped, at its Cut {unfinished.cut}")
            return unfinished
        if is_empty(self.source, self.view.topic.name):
            err.print(f"view {self.view.name}: topic {self.view.topic.name!r} is empty; its BatchView will be, too")
        cut, counted_from = wish.at or self.cut(wish.seal_seconds, control)
        before, incremental = None, wish.kind == "incremental"
        try:
            before = find_base(batches, cut)
            if incremental:
                check_files(before, self._own)
        except StateMissing as reason:
            if incremental:
                err.print(f"view {self.view.name}: computed from the start, in full: {reason}", markup=False)
            incremental = False
        log_starts = self.source.starts(self.view.topic.name)
        return make_plan(
            self.view, cut, log_starts, counted_from, wish.split_records, before=before, incremental=incremental
        )

    def _unfinished(self, batches: Sequence[BatchView]) -> Plan | None:
        """The Plan of a run that was stopped, where going on with it leads somewhere; else why not is told."""
        plan = self._run.unfinished()
        if plan is None:
            return None
        try:
            _check_not_overtaken(plan, batches)
            if plan.base is not None:
                check_files(plan.base, self._own)
        except (RunStopped, StateMissing) as reason:
            err.print(f"view {self.view.name}: not going on with the run that was stopped: {reason}", markup=False)
            return None
        return plan

    def cut(self, seal_seconds: float, control: ControlTopic) -> CutFrom:
        topic = self.log.describe(self.view.topic.name)
        sealed = self.seal(control, topic.partitions, seal_seconds)
        before = control.published.of(self.view.name, self.view.fingerprint)
        counted = dict(before[0].starts) if before and before[0].topic_id == topic.id else {}
        if sealed is None:
            err.print(f"view {self.view.name}: the Cut is the log's end")
            return Cut(topic.name, topic.id, self.log.ends(topic.name)), counted
        cut, starts = sealed
        return cut, counted or starts

    def seal(self, control: ControlTopic, partitions: int, seal_seconds: float) -> CutFrom | None:
        """The Cut that the running workers agree on, None where there are none."""
        if not self.log.members(group_of(self.topology.name)):
            err.print(f"view {self.view.name}: no worker to seal its Segments")
            return None
        sealed = request_seal(control, self.view, partitions, timeout_seconds=seal_seconds)
        if sealed is None:
            err.print(f"view {self.view.name}: the workers have not sealed within {seal_seconds:g} s (--seal-seconds)")
        return sealed

    def runner(self, plan: Plan) -> Runner | Engine:
        """Processes take a second to start: small work is done here."""
        if self._spark is not None:
            return self._spark.views(self.view, self.source, self._own)
        here = Tasks(self.source, self.view, self._own)
        if plan.records + (plan.base.slots if plan.base else 0) <= plan.split_records:
            return Inline(here)
        own = (self.log.connection, self._own, self._processes, here, self._archive)
        return Processes(self.spec, self.view.name, *own)

    def compute(self, plan: Plan, check: Callable[[], None] = lambda: None) -> Result:
        with progress(self.view.name) as on_progress:

            def tell(done: Done) -> None:
                check()
                on_progress(done)

            return self._run.run(plan, self.runner(plan), on_progress=tell)

    def publish(self, control: ControlTopic, plan: Plan, wish: Wish) -> BatchView:
        result = self.compute(plan, wish.check)
        proof = self.prove_somehow(result)
        batch = manifest(result, proof)
        wish.check()
        control.catch_up()
        _check_not_overtaken(plan, control.published.of(self.view.name, self.view.fingerprint))
        wish.last_check()
        publish(control, batch)
        self._run.finish()
        discard_old(control, self.view.name, self._own)
        self._tell(result, proof)
        return batch

    def prove_somehow(self, result: Result) -> Proof | None:
        """By the speed layer; a full result that no Segments lead to, by the BatchView before; None without either."""
        try:
            return self.prove(result)
        except (CutMismatch, StateMissing) as reason:
            err.print(f"view {self.view.name}: not compared with the speed layer: {reason}", markup=False)
        try:
            return self.prove_before(result)
        except StateMissing as reason:
            err.print(f"view {self.view.name}: not compared with the BatchView before: {reason}", markup=False)
            return None

    def prove_before(self, result: Result) -> Proof | None:
        """Compare a full result, as it was at the Cut of the BatchView before, with that one: if it came about by
        incremental runs, this proves them. None where there is no such. Raises StateMissing where its files are not
        as they were published."""
        before = result.plan.before
        runner = self.runner(result.plan)
        if before is None or result.plan.incremental or isinstance(runner, Engine):
            return None
        check_files(before, self._own)
        fold = Fold(self.view)
        files = self._run.merge_before(result, runner)
        old, new = (states_of(fold, self._results, found) for found in (before.files, files))
        return msgspec.structs.replace(compare(fold, old, new), against=before.id)

    def prove(self, result: Result) -> Proof:
        """Compare with `batch(old Cut) + Segments` at the same Cut. Raises CutMismatch where they do not meet there."""
        fold = Fold(self.view)
        with open_serving(self.topology, self.log, self.folder) as serving:
            seam = serving.seam_at(self.view, result.plan.cut)
            check_reach(result.plan, seam)
            return compare(fold, serving.merged(self.view, seam), states_of(fold, self._results, result.files))

    def _tell(self, result: Result, proof: Proof | None) -> None:
        plan = result.plan
        rate = plan.records / result.seconds if result.seconds else 0
        new = f" ({plan.records:,} records after BatchView {plan.base.id})" if plan.base else ""
        out.print(
            f"view {self.view.name}: BatchView {result.id} at {plan.cut}: {result.slots:,} states of "
            f"{result.events:,} events{new} ({result.rejected:,} rejected) in {result.seconds:.1f} s, "
            f"{rate:,.0f} events/s; {_said(proof, plan)}"
        )
        if proof is not None and proof.differences:
            wrong = f"BatchView {proof.against}" if proof.against else "the speed layer"
            err.print(
                f"view {self.view.name}: {wrong} was wrong until now; first divergence: {proof.first}",
                style="red",
                markup=False,
            )


def check_reach(plan: Plan, seam: Seam) -> None:
    """Raises CutMismatch where the archive gave records from before the speed layer, or an older result, began."""
    for partition, spans in seam.segments.items():
        counted = seam.batch.starts.get(partition) if seam.batch else None
        began = counted if counted is not None else spans[0][0] if spans else plan.starts[partition]
        if plan.starts[partition] < began:
            raise CutMismatch(
                f"{plan.topic}/{partition}: recomputed from {plan.starts[partition]} on, by the archive, and what was "
                f"there began at {began}, where the log did; from the next published batch on, both reach as far"
            )


def _now() -> int:
    return time.time_ns() // 1_000_000


def _noted(ended: RunEnded, batch: BatchView) -> RunEnded:
    return msgspec.structs.replace(
        ended, outcome="published", time=_now(), states=batch.slots, rejected=batch.rejected, proof=batch.proof,
        batch=batch.id,
    )  # fmt: skip


def _check_not_overtaken(plan: Plan, batches: Sequence[BatchView]) -> None:
    """Raises RunStopped where a BatchView at a later Cut is in force: readers and workers would have to go back; and
    where the base is in force no more: what a reset has made void must not come back by what was built on it."""
    if plan.base is not None and plan.base.id not in {batch.id for batch in batches}:
        raise RunStopped(f"BatchView {plan.base.id}, which it starts from, is in force no more")
    newest = next((b for b in batches[:1] if b.topic_id == plan.topic_id and b.cut != plan.cut), None)
    if newest is not None and newest.cut.covers(plan.cut):
        raise RunStopped(
            f"BatchView {newest.id} is in force, at a later Cut ({newest.cut}) than this run's ({plan.cut}): another "
            f"run has overtaken it"
        )


def _said(proof: Proof | None, plan: Plan) -> str:
    if proof is None:
        return "not compared"
    if not proof.against:
        return f"{proof.differences} differences to the speed layer"
    kind = f" ({plan.before.kind})" if plan.before else ""
    return f"{proof.differences} differences to BatchView {proof.against}{kind} at its Cut"


@contextmanager
def progress(label: str) -> Iterator[Callable[[Done], None]]:
    """A bar over records, with splits and rejected records beside it."""
    columns = (
        TextColumn(label),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} records"),
        TextColumn("{task.fields[splits]} splits, {task.fields[rejected]} rejected"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bar:
        task = bar.add_task(label, total=0, splits="0/0", rejected=0)

        def tell(done: Done) -> None:
            splits = f"{done.splits}/{done.all_splits}"
            bar.update(task, completed=done.records, total=done.total, splits=splits, rejected=done.rejected)

        yield tell
