"""The Spark Runner beside the local one, on a real Kafka, `local[2]` and the connector's real jars."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

from streamkit.batch.local import Inline
from streamkit.batch.plan import Plan, make_plan
from streamkit.batch.run import Result, Run
from streamkit.batch.spark.session import SparkOptions, open_session
from streamkit.batch.spark.source import ParquetRanges
from streamkit.batch.spark.views import SparkViews
from streamkit.batch.spark.where import where_of
from streamkit.batch.tasks import Tasks
from streamkit.cli.options import create_topics
from streamkit.cut import Cut
from streamkit.errors import BadRecord, RunnerFailed
from streamkit.fold import Fold
from streamkit.loading import load_topology
from streamkit.log.kafka import KafkaLog
from streamkit.log.scan import read_all
from streamkit.serving.batches import states_of
from streamkit.settings import Connection
from streamkit.topology import Topology
from streamkit.view import View
from tests.kafka.site import ROOT, wait_for

APP = ROOT / "tests" / "kafka" / "spark_app.py"
SPLIT = 1_500


@dataclass
class Both:
    """The same topology for both Runners, and one Spark session for all tests of this file."""

    log: KafkaLog
    app: Topology
    spark: Any
    folder: Path

    def plan(self, view: View) -> Plan:
        info = self.log.describe(view.topic.name)
        cut = Cut(info.name, info.id, self.log.ends(info.name))
        return make_plan(view, cut, self.log.starts(info.name), {}, SPLIT)

    def local(self, view: View, plan: Plan) -> Result:
        own = self.folder / "local" / view.name
        return Run(self.log, view, own).run(plan, Inline(Tasks(self.log, view, own)))

    def on_spark(self, view: View, plan: Plan, archived: ParquetRanges | None = None) -> Result:
        own, settings = self.folder / "spark" / view.name, {"bootstrap.servers": self.log.connection.brokers}
        where = where_of(self.spark, str(APP), view)
        engine = SparkViews(self.spark, view, where, settings, own, self.folder / "log", archived)
        return Run(self.log, view, own).run(plan, engine)

    def content(self, runner: str, view: View, result: Result) -> dict[str, bytes]:
        own = self.folder / runner / view.name
        return {Path(f.path).name: (own / f.path).read_bytes() for f in result.files}

    def send(self, topic: str, values: list[bytes | None], partition: int | None = None) -> None:
        with closing(self.log.writer()) as writer:
            for number, value in enumerate(values):
                writer.send(topic, value, key=b"%d" % (number % 50), partition=partition, timestamp=number)
            writer.flush()


@pytest.fixture(scope="module")
def both(brokers: str, spark_java: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    del spark_java
    folder = tmp_path_factory.mktemp("spark")
    with pytest.MonkeyPatch.context() as environment, closing(KafkaLog(Connection(brokers))) as log:
        environment.setenv("SPARK_TEST", f"spark-{uuid.uuid4().hex}")
        environment.setenv("PYTHONPATH", str(ROOT))
        app = load_topology(str(APP))
        create_topics(log, app)
        with open_session(SparkOptions("local[2]"), "streamkit tests", folder / "log") as spark:
            yield Both(log, app, spark, folder)


def sales(count: int, **fields: Any) -> list[bytes | None]:
    draw = random.Random(count)
    made: list[bytes | None] = []
    for _ in range(count):
        sale = {
            "shop": f"s{draw.randrange(20)}",
            "item": f"i{draw.randrange(50)}",
            "at": draw.randrange(600_000),
            "cents": draw.randrange(500),
            "weight": draw.random() * 10.0 ** draw.randrange(-8, 8),
            "price": str(Decimal(draw.randrange(100_000)) / 100),
            "note": None if draw.random() < 0.3 else f"n{draw.randrange(9)}",
        }
        made.append(msgspec.json.encode({**sale, **fields}))
    return made


def transactions(brokers: str, topic: str, name: str) -> None:
    """Records that count, records that do not, and offsets at which there is no record."""
    producer = Producer({"bootstrap.servers": brokers, "transactional.id": name})
    producer.init_transactions(20)
    for commit in (False, True, False):
        producer.begin_transaction()
        for value in sales(40):
            producer.produce(topic, value, partition=1)
        producer.flush(20)
        if commit:
            producer.commit_transaction(20)
        else:
            producer.abort_transaction(20)


def test_every_view_becomes_the_same_files_as_with_the_local_runner(both: Both) -> None:
    topic = both.app.views["total"].topic.name
    both.send(topic, [*sales(4_000), None, b'{"shop": 7}', b"not JSON"], partition=0)
    both.send(topic, sales(1_000), partition=1)  # partition 2 stays empty
    transactions(both.log.connection.brokers, topic, both.app.name)
    files = {}
    for name in ("tumbling", "hopping", "session", "total"):
        view = both.app.views[name]
        plan = both.plan(view)
        there, here = both.on_spark(view, plan), both.local(view, plan)
        assert both.content("spark", view, there) == both.content("local", view, here), name
        assert [(f.rows, f.crc32) for f in there.files] == [(f.rows, f.crc32) for f in here.files]
        assert (there.events, there.rejected, there.slots) == (here.events, here.rejected, here.slots)
        assert (there.events, there.rejected) == (5_040, 3)
        files[name] = len(there.files)
    assert files["hopping"] > 1  # so many Slots that they are shared out
    view = both.app.views["spread"]  # a sketch that is random
    plan = both.plan(view)
    fold, there, here = Fold(view), both.on_spark(view, plan), both.local(view, plan)
    of_spark = dict(states_of(fold, both.folder / "spark", there.files))
    of_local = dict(states_of(fold, both.folder / "local", here.files))
    assert of_spark.keys() == of_local.keys()
    assert all(fold.same(of_spark[slot], of_local[slot]) for slot in of_spark)


def test_what_comes_after_the_cut_is_not_counted(both: Both) -> None:
    view = both.app.views["tumbling"]
    topic = view.topic.name
    both.send(topic, sales(100))
    plan = both.plan(view)
    both.send(topic, sales(500))
    both.log.grow(topic, len(plan.offsets) + 1)  # and a partition that the Cut does not know
    both.send(topic, sales(10), partition=len(plan.offsets))
    there, here = both.on_spark(view, plan), both.local(view, plan)
    assert both.content("spark", view, there) == both.content("local", view, here)
    later = both.on_spark(view, both.plan(view))
    assert later.events == there.events + 510


def test_what_is_archived_is_read_from_its_files(both: Both) -> None:
    view = both.app.views["session"]
    plan = both.plan(view)
    records = [r for r in read_all(both.log, view.topic.name) if r.partition < 2 and r.offset < 900]
    columns = {
        "_partition": pa.array([r.partition for r in records], pa.int32()),
        "_offset": pa.array([r.offset for r in records], pa.int64()),
        "_timestamp": pa.array([r.timestamp for r in records], pa.int64()),
        "_key": pa.array([r.key for r in records], pa.large_binary()),
        "_value": pa.array([r.value for r in records], pa.large_binary()),
    }
    path = both.folder / "archive.parquet"
    pq.write_table(pa.table(columns), path)
    archived = ParquetRanges([str(path)], {0: 0, 1: 0}, {0: 900, 1: 900})
    there, here = both.on_spark(view, plan, archived), both.local(view, plan)
    assert both.content("spark", view, there) == both.content("local", view, here)
    assert (there.events, there.rejected) == (here.events, here.rejected)


def test_a_topic_without_records_is_an_empty_batch_view(both: Both) -> None:
    view = both.app.views["timed"]
    if not any(both.log.ends(view.topic.name).values()):
        result = both.on_spark(view, both.plan(view))
        assert (result.files, result.events) == ((), 0)


def test_the_users_error_comes_with_the_record_it_is_about_and_without_javas(both: Both) -> None:
    view = both.app.views["fussy"]
    both.send(view.topic.name, [*sales(900), *sales(1, cents=2_000_000_000), *sales(900)], partition=1)
    with pytest.raises(RunnerFailed) as told:
        both.on_spark(view, both.plan(view))
    said = str(told.value)
    assert f"{view.topic.name}/1/900: view 'fussy' failed on it" in said
    assert said.count("LookupError: no shelf holds 2000000000") == 1
    assert "spark_app.py" in said
    assert "java" not in said.lower()
    assert "batch/spark" not in said


def test_a_record_that_is_none_fails_the_job_where_the_policy_is_fail(both: Both) -> None:
    view = both.app.views["timed"]
    both.send(view.topic.name, [*sales(200), b"{}"], partition=0)
    for run in (both.on_spark, both.local):
        with pytest.raises(BadRecord) as told:
            run(view, both.plan(view))
        assert (told.value.partition, told.value.offset) == (0, 200), run
        assert "error policy `fail`" in str(told.value)


# -- the command ------------------------------------------------------------------------------------------------------


def start(both: Both, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "streamkit", "batch", str(APP), "total", "--runner", "spark", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STREAMKIT_BROKERS": both.log.connection.brokers}
    environment["STREAMKIT_DATA"] = str(both.folder / "command")
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def test_ctrl_c_stops_the_job_and_leaves_no_jvm(both: Both) -> None:
    both.send(both.app.views["total"].topic.name, sales(3_000))
    with start(both, "--master", "local[2]", "--split-records", "100") as process:
        family: set[psutil.Process] = set()

        def works() -> bool:
            family.update(psutil.Process(process.pid).children(recursive=True))
            return any("pyspark.daemon" in " ".join(command_of(child)) for child in family)

        wait_for(works, process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err, err
    gone, alive = psutil.wait_procs(family, timeout=60)
    assert len(gone) >= 2  # the JVM, and its Python workers
    assert not alive


def test_without_the_connector_the_error_tells_how_to_get_it(both: Both) -> None:
    with start(both, "--master", "local[2]", "--spark-conf", "spark.jars=") as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out + err
    assert "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0" in err
    assert "Traceback" not in err


def command_of(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
