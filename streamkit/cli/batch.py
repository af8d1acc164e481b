"""`streamkit batch`: the batch layer."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from streamkit.batch.local import Inline, Processes
from streamkit.batch.plan import SPLIT_RECORDS, Plan, make_plan
from streamkit.batch.publish import discard_old, manifest, publish
from streamkit.batch.run import Engine, Result, Run, Runner
from streamkit.batch.run import Progress as Done
from streamkit.batch.tasks import Tasks
from streamkit.cli.options import (
    ARCHIVE,
    BROKERS,
    CLIENT_CONFIG,
    DATA,
    TOPOLOGY,
    check_topics,
    err,
    is_empty,
    load,
    open_log,
    out,
)
from streamkit.cli.spark import MASTER, SPARK_CONF, Spark, open_spark, spark_asked
from streamkit.control import Proof
from streamkit.cut import Cut
from streamkit.errors import CutMismatch, StateMissing
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


class RunnerName(enum.StrEnum):
    local = "local"
    spark = "spark"


def batch(
    topology: TOPOLOGY,
    views: Annotated[
        list[str] | None, typer.Argument(metavar="[VIEW...]", help="Default: all Views.", show_default=False)
    ] = None,
    runner: Annotated[RunnerName, typer.Option(help="What executes the plan.")] = RunnerName.local,
    processes: Annotated[int | None, typer.Option(min=1, help="How many at once.", show_default="all cores")] = None,
    master: MASTER = None,
    spark_conf: SPARK_CONF = None,
    split_records: Annotated[int, typer.Option(min=1, help="Records a task reads.")] = SPLIT_RECORDS,
    seal_seconds: Annotated[
        float, typer.Option(min=0, help="How long to wait for the workers to seal; then the Cut is the log's end.")
    ] = SEAL_SECONDS,
    archive: ARCHIVE = None,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
    data: DATA = None,
) -> None:
    """Recompute Views by replaying their topics up to a Cut, prove the result, and publish it.

    A running worker seals its Segments, and their ends are the Cut; without one the Cut is the log's end. A run that is
    stopped or killed leaves the BatchView before it in force, and goes on from its finished splits when started again.
    A topic that is archived (`streamkit archive`) is read from its archive as far as that goes, then from the log.

    With `--runner spark` the same is computed by Spark, to the same files: on this machine, or on a cluster.

    Examples:  streamkit batch topologies/ad_clicks.py   |   streamkit batch app.py campaign --processes 4
    streamkit batch app.py --runner spark --master 'local[2]' --spark-conf spark.driver.memory=4g
    """
    asked = spark_asked(runner is RunnerName.spark, master, spark_conf)
    loaded, folder = load(topology, data)
    with ExitStack() as stack:
        log = stack.enter_context(open_log(brokers, client_config))
        check_topics(log, loaded, topology)
        chosen = [loaded.find_view(name) for name in views or loaded.views]
        spark = None if asked is None else stack.enter_context(open_spark(asked, topology, log.connection, folder))
        for view in chosen:
            run = BatchRun(loaded, topology, view, log, folder, processes, spark=spark, archive=archive)
            run.publish(run.plan(seal_seconds, split_records))


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

    def plan(self, seal_seconds: float, split_records: int, at: CutFrom | None = None) -> Plan:
        """The Plan of a run that was stopped, else one for `at`, else for where the workers seal."""
        unfinished = self._run.unfinished()
        if unfinished is not None:
            err.print(f"view {self.view.name}: going on with the run that was stopped, at its Cut {unfinished.cut}")
            return unfinished
        if is_empty(self.source, self.view.topic.name):
            err.print(f"view {self.view.name}: topic {self.view.topic.name!r} is empty; its BatchView will be, too")
        cut, counted_from = at or self.cut(seal_seconds)
        return make_plan(self.view, cut, self.source.starts(self.view.topic.name), counted_from, split_records)

    def cut(self, seal_seconds: float) -> CutFrom:
        topic = self.log.describe(self.view.topic.name)
        with closing(ControlTopic(self.log, self.topology.name)) as control:
            control.catch_up()
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
            return self._spark(self.view, self._own)
        if plan.records <= plan.split_records:
            return Inline(Tasks(self.source, self.view, self._own))
        own = (self.log.connection, self._own, self._processes, self._archive)
        return Processes(self.spec, self.view.name, *own)

    def compute(self, plan: Plan) -> Result:
        with progress(self.view.name) as on_progress:
            return self._run.run(plan, self.runner(plan), on_progress=on_progress)

    def publish(self, plan: Plan) -> None:
        result = self.compute(plan)
        try:
            proof = self.prove(result)
        except (CutMismatch, StateMissing) as reason:
            err.print(f"view {self.view.name}: not compared with the speed layer: {reason}", markup=False)
            proof = None
        with closing(ControlTopic(self.log, self.topology.name)) as control:
            publish(control, manifest(result, proof))
            self._run.finish()
            discard_old(control, self.view.name, self._own)
        rate = plan.records / result.seconds if result.seconds else 0
        out.print(
            f"view {self.view.name}: BatchView {result.id} at {plan.cut}: {result.slots:,} states of "
            f"{result.events:,} events ({result.rejected:,} rejected) in {result.seconds:.1f} s, {rate:,.0f} events/s; "
            f"{_said(proof)}"
        )
        if proof is not None and proof.differences:
            err.print(
                f"view {self.view.name}: the speed layer was wrong until now; first divergence: {proof.first}",
                style="red",
                markup=False,
            )

    def prove(self, result: Result) -> Proof:
        """Compare with `batch(old Cut) + Segments` at the same Cut. Raises CutMismatch where they do not meet there."""
        fold = Fold(self.view)
        with open_serving(self.topology, self.log, self.folder) as serving:
            seam = serving.seam_at(self.view, result.plan.cut)
            check_reach(result.plan, seam)
            return compare(fold, serving.merged(self.view, seam), states_of(fold, self._results, result.files))


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


def _said(proof: Proof | None) -> str:
    return "not compared" if proof is None else f"{proof.differences} differences to the speed layer"


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
