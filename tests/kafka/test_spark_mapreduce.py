"""MapReduce on Spark beside the local runner, on a real Kafka and `local[2]`: the same files, byte for byte."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamkit.batch.local import Inline
from streamkit.batch.mapreduce.local import InlineTasks, JobRunner, Share
from streamkit.batch.mapreduce.plan import SPARK, JobPlan, make_plan
from streamkit.batch.mapreduce.run import Finished, JobProgress, JobRun
from streamkit.batch.mapreduce.stage import Stages
from streamkit.batch.mapreduce.task import TaskFailed
from streamkit.batch.plan import make_plan as make_view_plan
from streamkit.batch.run import Run
from streamkit.batch.spark.connector import java_settings
from streamkit.batch.spark.engines import Engines
from streamkit.batch.spark.session import SparkOptions, open_session
from streamkit.batch.tasks import Tasks
from streamkit.cli.options import create_topics
from streamkit.cut import Cut
from streamkit.loading import load_topology
from streamkit.log.archive import open_source
from streamkit.log.kafka import KafkaLog
from streamkit.mapreduce import MapReduce
from streamkit.settings import Connection
from streamkit.topology import Topology
from tests.kafka.site import ROOT

APP = ROOT / "tests" / "kafka" / "spark_jobs_app.py"
MEMORY = Share.of(1, None).memory


@dataclass
class Both:
    """The same jobs for both Runners, and one Spark session for all tests of this file."""

    log: KafkaLog
    app: Topology
    engines: Engines
    folder: Path

    @property
    def topic(self) -> str:
        return f"{self.app.name}-sales"

    def plan(self, job: MapReduce) -> JobPlan:
        return make_plan(job, self.log, split_records=700)

    def local(self, job: MapReduce, plan: JobPlan) -> Finished:
        run = JobRun(self.log, job, self.folder / "local" / job.name)
        return run.run(plan, InlineTasks(Stages(self.log, job, run.folder, plan.partitions, MEMORY)))

    def on_spark(self, job: MapReduce, plan: JobPlan, heard: list[JobProgress] | None = None) -> Finished:
        run = JobRun(self.log, job, self.folder / "spark" / job.name)
        plan = msgspec.structs.replace(plan, runner=SPARK)
        with closing(self.runner(job, plan, run.folder)) as runner:
            return run.run(plan, runner, on_progress=(heard if heard is not None else []).append)

    def runner(self, job: MapReduce, plan: JobPlan, folder: Path, archive: str | None = None) -> JobRunner:
        return self.engines.tasks(job, plan, MEMORY, archive, folder)

    def content(self, where: str, job: MapReduce, finished: Finished) -> dict[str, bytes]:
        results = self.folder / where / job.name / "results"
        return {file.path: (results / file.path).read_bytes() for files in finished.files.values() for file in files}


@pytest.fixture(scope="module")
def both(brokers: str, spark_java: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    del spark_java
    folder, connection = tmp_path_factory.mktemp("spark"), Connection(brokers)
    (folder / "names.txt").write_text("north east south west\n" * 300)
    (folder / "more.txt").write_text("south of the south\nand more\n")
    with pytest.MonkeyPatch.context() as environment, closing(KafkaLog(connection)) as log:
        environment.setenv("SPARK_TEST", f"jobs-{uuid.uuid4().hex}")
        environment.setenv("SPARK_TEST_FILES", str(folder))
        environment.setenv("PYTHONPATH", str(ROOT))
        app = load_topology(str(APP))
        create_topics(log, app)
        send(log, f"{app.name}-sales", 5_000)
        with open_session(SparkOptions("local[2]"), "streamkit tests", folder / "log") as session:
            engines = Engines(session, str(APP), connection, java_settings(connection), folder / "log")
            yield Both(log, app, engines, folder)


def send(log: KafkaLog, topic: str, count: int) -> None:
    draw = random.Random(count)
    with closing(log.writer()) as writer:
        for _ in range(count):
            sale = (f"s{draw.randrange(20)}", f"i{draw.randrange(50)}", draw.randrange(600_000), draw.randrange(500))
            value = msgspec.json.encode(dict(zip(("shop", "item", "at", "cents"), sale, strict=True)))
            writer.send(topic, value, key=sale[1].encode(), timestamp=sale[2])
        writer.send(topic, b"not a sale", key=b"i1", timestamp=0)
        writer.flush()


@pytest.mark.parametrize("name", ["last", "spend", "columns", "only", "counted", "sent"])
def test_every_job_becomes_the_same_files_as_with_the_local_runner(name: str, both: Both) -> None:
    job = both.app.find_job(name)
    plan = both.plan(job)
    heard: list[JobProgress] = []
    there, here = both.on_spark(job, plan, heard), both.local(job, plan)
    assert both.content("spark", job, there) == both.content("local", job, here)
    assert there.files == here.files
    assert (there.records, there.rejected, there.counters) == (here.records, here.rejected, here.counters)
    assert (there.shuffled, there.skipped) == (here.shuffled, here.skipped)
    assert sum(there.rows.values()) > 0
    assert [p.stage for p in heard] == sorted(p.stage for p in heard)
    assert heard[-1].done == heard[-1].tasks
    if name == "last":
        assert there.rows["big"] == there.counters["big"] > 0
    if name != "counted":
        assert there.rejected == 1


def test_a_run_that_was_stopped_on_spark_goes_on_here_at_its_cut(both: Both) -> None:
    job = both.app.find_job("spend")
    run = JobRun(both.log, job, both.folder / "moved" / job.name)
    plan = msgspec.structs.replace(both.plan(job), runner=SPARK)

    class Stops:
        """As far as the end of the first stage, whose rows only Spark has."""

        def run(self, tasks: Any, counters: Any, tell: Any) -> Any:
            if tasks[0].stage:
                raise KeyboardInterrupt
            return runner.run(tasks, counters, tell)

        def close(self) -> None:
            """Spark's own is closed below."""

    with closing(both.runner(job, plan, run.folder)) as runner, pytest.raises(KeyboardInterrupt):
        run.run(plan, Stops())
    found = run.unfinished()
    assert found == plan
    here = msgspec.structs.replace(plan, runner="local")
    finished = run.run(here, InlineTasks(Stages(both.log, job, run.folder, plan.partitions, MEMORY)))
    assert finished.files == both.local(job, plan).files


def test_a_failure_is_the_users_own_with_where_it_was(both: Both) -> None:
    job = both.app.find_job("fails")
    with pytest.raises(TaskFailed) as told:
        both.on_spark(job, both.plan(job))
    assert f"map failed at {both.topic}/" in str(told.value)
    assert told.value.trace.count("ZeroDivisionError") == 1
    assert "in bad" in told.value.trace
    assert "java" not in f"{told.value}{told.value.trace}".lower()
    skipping = job.skipping(100)
    plan = both.plan(skipping)
    there, here = both.on_spark(skipping, plan), both.local(skipping, plan)
    assert there.skipped == here.skipped != ()
    assert there.files == here.files


@pytest.fixture(scope="module")
def archived(both: Both) -> str:
    """All but the last records are archived, most of them are deleted from the log."""
    place = str(both.folder / "archive")
    command = [sys.executable, "-m", "streamkit", "archive", str(APP), both.topic, "--archive", place]
    environment = {**os.environ, "STREAMKIT_BROKERS": both.log.connection.brokers}
    subprocess.run([*command, "--file-records", "400"], env=environment, check=True, capture_output=True)
    both.log.delete_records(both.topic, {p: end - 100 for p, end in both.log.ends(both.topic).items()})
    send(both.log, both.topic, 500)
    return place


def test_a_job_reads_from_the_archive_what_the_log_has_no_more(both: Both, archived: str) -> None:
    source = open_source(both.log, archived, [both.topic])
    for name in ("spend", "columns"):
        job = both.app.find_job(name)
        plan = msgspec.structs.replace(make_plan(job, source, split_records=700), runner=SPARK)
        run = JobRun(source, job, both.folder / "archive-there" / name)
        with closing(both.runner(job, plan, run.folder, archived)) as runner:
            there = run.run(plan, runner)
        run = JobRun(source, job, both.folder / "archive-here" / name)
        here = run.run(plan, InlineTasks(Stages(source, job, run.folder, plan.partitions, MEMORY)))
        assert (there.records, there.rejected) == (5_500, 2)
        assert there.files == here.files


def test_a_view_reads_from_the_archive_what_the_log_has_no_more(both: Both, archived: str) -> None:
    view, source = both.app.views["sold"], open_source(both.log, archived, [both.topic])
    assert min(both.log.starts(both.topic).values()) > 0
    cut = Cut(both.topic, both.log.describe(both.topic).id, both.log.ends(both.topic))
    plan = make_view_plan(view, cut, source.starts(both.topic), {}, 700)
    own = both.folder / "view-there"
    there = Run(source, view, own).run(plan, both.engines.views(view, source, own))
    own = both.folder / "view-here"
    here = Run(source, view, own).run(plan, Inline(Tasks(source, view, own)))
    assert (there.events, there.rejected) == (5_500, 2)
    assert [(f.rows, f.crc32) for f in there.files] == [(f.rows, f.crc32) for f in here.files]
