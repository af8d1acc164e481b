"""`streamkit mapreduce`: runs MapReduce jobs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from streamkit.batch.mapreduce.local import InlineTasks, JobRunner, LocalTasks, Share, cores
from streamkit.batch.mapreduce.outputs import rows_by_output
from streamkit.batch.mapreduce.plan import LOCAL, SPARK, SPLIT_RECORDS, JobPlan, make_plan
from streamkit.batch.mapreduce.publish import kept, publish
from streamkit.batch.mapreduce.run import Finished, JobProgress, JobRun
from streamkit.batch.mapreduce.stage import Stages
from streamkit.batch.mapreduce.task import TaskFailed
from streamkit.cli.options import ARCHIVE, BROKERS, CLIENT_CONFIG, DATA, TOPOLOGY, err, load, open_log, out
from streamkit.cli.spark import MASTER, RUNNER, SPARK_CONF, RunnerName, Spark, open_spark, spark_asked
from streamkit.errors import DefinitionError
from streamkit.folder import DataFolder
from streamkit.log.archive import open_source
from streamkit.log.kafka import KafkaLog
from streamkit.mapreduce import MAIN, MapReduce
from streamkit.topology import Topology

SKIPS_SHOWN = 20


def mapreduce(
    topology: TOPOLOGY,
    jobs: Annotated[
        list[str] | None, typer.Argument(metavar="[JOB...]", help="Default: all jobs, in order.", show_default=False)
    ] = None,
    runner: RUNNER = RunnerName.local,
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many at once; on Spark its executors say.", show_default="all cores")
    ] = None,
    master: MASTER = None,
    spark_conf: SPARK_CONF = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="What all processes together, or on Spark each task, may take: 512MiB, 4GiB. Sorting goes on on disk "
            "beyond its share.",
            show_default="256 MiB of data a process",
        ),
    ] = None,
    split_records: Annotated[int, typer.Option(min=1, help="Records that a map task reads.")] = SPLIT_RECORDS,
    skip: Annotated[
        int | None, typer.Option(min=0, help="Records a task may skip that map fails on.", show_default="the job's")
    ] = None,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
    data: DATA = None,
    archive: ARCHIVE = None,
) -> None:
    """Run MapReduce jobs over all that their topics hold now, or over files, and publish the results.

    Topics that are archived are read from their archive as far as that goes, then from the log.

    A run that is stopped or killed goes on from its finished tasks when started again, at the same Cut. A task whose
    process dies is tried again; one that is slow while others have nothing to do is begun a second time.

    With `--runner spark` the same tasks run on Spark, on this machine or on a cluster, to the same files; a run that
    was stopped begins anew there, at the same Cut.

    Examples:  streamkit mapreduce app.py   |   streamkit mapreduce topologies/wordcount.py words --memory 512MiB   |
    streamkit mapreduce topologies/wordcount.py --runner spark --master 'local[2]'
    """
    asked = spark_asked(runner is RunnerName.spark, master, spark_conf)
    loaded, folder = load(topology, data)
    share = Share.of(1 if asked else processes or cores(), None if memory is None else parse_size(memory))
    if asked is None and processes is not None and share.processes < processes:
        err.print(f"{memory} are enough for {share.processes} process(es), not for {processes}")
    chosen = [loaded.find_job(name) for name in jobs or loaded.jobs]
    if not chosen:
        raise DefinitionError(f"topology {loaded.name!r} has no mapreduce job: declare one by @app.mapreduce(...)")
    with ExitStack() as stack:
        log = stack.enter_context(open_log(brokers, client_config))
        spark = None if asked is None else stack.enter_context(open_spark(asked, topology, log.connection, folder))
        for job in chosen:
            job = job if skip is None else job.skipping(skip)
            _Run(loaded, topology, job, log, folder, share, archive or folder.archive, spark).do(split_records)


class _Run:
    """One job's run, from the Cut to the manifest."""

    def __init__(
        self,
        topology: Topology,
        spec: str,
        job: MapReduce,
        log: KafkaLog,
        folder: DataFolder,
        share: Share,
        archive: str,
        spark: Spark | None,
    ) -> None:
        self._topology, self._spec, self._job, self._log, self._share = topology, spec, job, log, share
        self._archive, self._spark = archive, spark
        self._source = open_source(log, archive, [topic.name for topic in job.topics])
        self._run = JobRun(self._source, job, folder.mapreduce / job.name)

    def do(self, split_records: int) -> None:
        job = self._job
        plan = self._run.unfinished()
        if plan is not None:
            err.print(f"mapreduce {job.name}: going on with the run that was stopped{_at(plan)}")
        else:
            plan = make_plan(job, self._source, split_records=split_records)
        plan = msgspec.structs.replace(plan, runner=SPARK if self._spark else LOCAL)
        try:
            finished = self._compute(plan)
        except TaskFailed as failed:
            if failed.trace:
                err.print(failed.trace, markup=False, style="red")
            raise
        result = publish(self._log, self._topology.name, job, self._run.folder, finished)
        self._run.finish(kept(self._log, self._topology.name, job.name))
        self._tell(finished, result.sent)

    def _compute(self, plan: JobPlan) -> Finished:
        with progress(self._job.name) as on_progress, closing(self._runner(plan)) as runner:
            finished = self._run.run(plan, runner, on_progress=on_progress)
        if isinstance(runner, LocalTasks):
            for line in runner.tally.told:
                err.print(line, markup=False)
            if runner.tally.doubled:
                err.print(f"mapreduce {self._job.name}: {runner.tally.doubled} slow tasks were begun a second time")
        return finished

    def _runner(self, plan: JobPlan) -> JobRunner:
        """Processes take a second to start: small work is done here."""
        folder, share = self._run.folder, self._share
        if self._spark is not None:
            return self._spark.tasks(self._job, plan, share.memory, self._archive, folder)
        if len(plan.splits) <= 1 and plan.partitions == 1:
            return InlineTasks(Stages(self._source, self._job, folder, plan.partitions, share.memory))
        return LocalTasks(self._spec, self._job, self._log.connection, self._archive, folder, plan.partitions, share)

    def _tell(self, finished: Finished, sent: dict[str, int]) -> None:
        job, seconds = self._job, finished.seconds
        rate = finished.records / seconds if seconds else 0
        out.print(
            f"mapreduce {job.name}: {rows_by_output(finished.rows)} of {finished.records:,} records"
            f"{_at(finished.plan)} in {seconds:.1f} s, {rate:,.0f} records/s; {finished.shuffled:,} rows shuffled "
            f"({finished.bytes / 1e6:,.1f} MB); {finished.rejected:,} rejected, {len(finished.skipped):,} skipped",
            markup=False,
        )
        for output, count in sent.items():
            target = job.outputs[output]
            out.print(f"sent {count:,} records to topic {target.name if target else ''}", markup=False)
        if finished.files[MAIN] and MAIN not in sent:
            out.print(f"result: {self._run.folder / 'results' / finished.plan.id}", markup=False)
        if finished.counters:
            table = Table("counter", "count")
            for name, count in sorted(finished.counters.items()):
                table.add_row(name, f"{count:,}")
            out.print(table)
        for skipped in finished.skipped[:SKIPS_SHOWN]:
            err.print(f"skipped {skipped.where}: {skipped.reason}", markup=False)
        if traces := [s.traceback for s in finished.skipped if s.traceback]:
            err.print(traces[0], markup=False, style="red")


def parse_size(text: str) -> int:
    """Bytes, of a text such as 512MiB, 4G or 1000000. Raises DefinitionError.

    >>> parse_size("512MiB") == 512 << 20, parse_size("4g") == 4 << 30
    (True, True)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise DefinitionError(f"--memory must be a size such as 512MiB or 4GiB, got {text!r}")
    power = {"": 0, "K": 10, "M": 20, "G": 30}[found[2].upper()]
    return int(float(found[1]) * (1 << power))


def _at(plan: JobPlan) -> str:
    return f" at {', '.join(map(str, plan.cuts.values()))}" if plan.cuts else ""


@contextmanager
def progress(label: str) -> Iterator[Callable[[JobProgress], None]]:
    """A bar over the tasks of each stage, with what has been read, shuffled and skipped beside it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} tasks"),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bar:
        shown: dict[int, int] = {}

        def tell(now: JobProgress) -> None:
            if now.stage not in shown:
                name = "map" if now.stage == 0 else f"reduce {now.stage}" if now.stages > 2 else "reduce"
                shown[now.stage] = int(bar.add_task(f"{label}: {name}", total=now.tasks, counts=""))
            skipped = f", {now.skipped:,} skipped" if now.skipped else ""
            counts = f"{now.records:,} records, {now.shuffled:,} rows shuffled ({now.bytes / 1e6:,.0f} MB){skipped}"
            bar.update(shown[now.stage], completed=now.done, total=now.tasks, counts=counts)  # type: ignore[arg-type]

        yield tell
