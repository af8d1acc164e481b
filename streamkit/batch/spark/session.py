"""A Spark session for one command: quiet, with this interpreter's workers, and gone without a trace when it ends."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pyspark
from py4j.protocol import Py4JError
from pyspark import InheritableThread, StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from streamkit.batch.mapreduce import task
from streamkit.batch.spark.connector import connector_of
from streamkit.batch.spark.java import java_home
from streamkit.batch.spark.source import BATCH_BYTES, BATCH_ROWS
from streamkit.errors import BadRecord, RunnerFailed

T = TypeVar("T")

CONNECTOR = connector_of(pyspark.__version__)

_IN_SPARK = "org.apache.hadoop:hadoop-client-api,org.apache.hadoop:hadoop-client-runtime,org.slf4j:slf4j-api"
"""What the connector depends on and every Spark has: 50 MB that need not be downloaded."""

DEFAULTS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
    # The number of files is ours to say, not to be coalesced; nothing else here has a plan that could adapt.
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.maxRecordsPerBatch": str(BATCH_ROWS),
    "spark.sql.execution.arrow.maxBytesPerBatch": str(BATCH_BYTES),
    "spark.redaction.regex": r"(?i)secret|password|token|access[.]?key|jaas|keystore[.]key",
}
_LOCAL = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
_OURS = str(Path(__file__).parents[2])
_FAILURE = re.compile(r"STREAMKIT-FAILURE:([A-Za-z0-9+/=]+)")


@dataclass(frozen=True)
class SparkOptions:
    """How to reach Spark.

    `master` is Spark's (`local[2]`, `yarn`, `spark://...`); None for what spark-submit has said, else all cores of this
    machine. `conf` are Spark's settings; those that begin with `kafka.` are the Kafka client's, in Java's names.
    """

    master: str | None = None
    conf: Mapping[str, str] = field(default_factory=dict)

    @property
    def submitted(self) -> bool:
        """Did spark-submit start this program? Then the JVM is there, and much has been said to it."""
        return "PYSPARK_GATEWAY_PORT" in os.environ

    @property
    def kafka(self) -> dict[str, str]:
        return {n.removeprefix("kafka."): v for n, v in self.conf.items() if n.startswith("kafka.")}

    def settings(self) -> dict[str, str]:
        """All settings of the session, the user's last."""
        own = {name: value for name, value in self.conf.items() if not name.startswith("kafka.")}
        if self.submitted:
            return {**DEFAULTS, **({"spark.master": self.master} if self.master else {}), **own}
        master = self.master or "local[*]"
        settings = {"spark.master": master, **DEFAULTS, **(_LOCAL if master.startswith("local") else {})}
        if "spark.jars" not in own:  # who names jars has the connector among them
            settings |= {"spark.jars.packages": CONNECTOR, "spark.jars.excludes": _IN_SPARK}
        if extra := own.pop("spark.jars.packages", None):
            settings["spark.jars.packages"] = ",".join(filter(None, (settings.get("spark.jars.packages"), extra)))
        return {**settings, **own}


@contextlib.contextmanager
def open_session(options: SparkOptions, name: str, log: Path) -> Iterator[SparkSession]:
    """A session; what its JVM and its workers print goes to the file `log`.

    At the end, however it comes, running jobs are cancelled and the JVM ends. Raises RunnerFailed where none starts.
    """
    if not options.submitted:
        os.environ["JAVA_HOME"] = str(java_home())
    _use_this_interpreter(options)
    log.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext() if options.submitted else _output_to(log):
        try:
            builder = SparkSession.builder.appName(name)
            for key, value in options.settings().items():
                builder = builder.config(key, value)
            interrupt = signal.getsignal(signal.SIGINT)
            session = builder.getOrCreate()
            signal.signal(signal.SIGINT, interrupt)  # Spark's own would call the JVM in the middle of another call
        except (PySparkException, Py4JError) as error:
            raise RunnerFailed(_why(error, log)) from None
    try:
        yield session
    finally:
        _close(session)


def _use_this_interpreter(options: SparkOptions) -> None:
    """Workers on this machine run this interpreter; those of a cluster what the user says they should."""
    named = options.conf.get("spark.pyspark.python")
    master = options.master or ("" if options.submitted else "local[*]")
    if named:
        os.environ["PYSPARK_PYTHON"] = named
    elif master.startswith("local"):
        os.environ["PYSPARK_PYTHON"] = sys.executable
    elif not options.submitted:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """What starts meanwhile inherits `log` as its output: the JVM, and the Python workers from it."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = [os.dup(number) for number in (1, 2)]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for number in (1, 2):
            os.dup2(file, number)
        yield
    finally:
        for number, saved in zip((1, 2), before, strict=True):
            os.dup2(saved, number)
            os.close(saved)
        os.close(file)


def _why(error: Exception, log: Path) -> str:
    told = log.read_text(errors="replace") if log.exists() else ""
    if "unresolved dependency" in told:
        return (
            f"Spark's Kafka connector {CONNECTOR} could not be had from Maven. Connect once (it is kept in ~/.ivy2*), "
            f"or name your mirror by --spark-conf spark.jars.ivySettings=FILE, or jars by --spark-conf spark.jars=A,B; "
            f"what Spark said is in {log}"
        )
    lines = [line for line in told.splitlines() if line.strip()][-8:]
    return "\n".join([f"Spark did not start: {str(error).splitlines()[0]}", *lines, f"(all of it is in {log})"])


def _close(session: SparkSession) -> None:
    """Stop the jobs, the context and the JVM; the last ends when its standard input does, killed or not."""
    context = session.sparkContext
    gateway = context._gateway
    with contextlib.suppress(Exception):  # where the JVM is gone already, all of this fails, and nothing is left to do
        context.cancelAllJobs()
    with contextlib.suppress(Exception):
        session.stop()
    process = getattr(gateway, "proc", None)
    if gateway is not None and process is not None:
        with contextlib.suppress(Exception):
            gateway.shutdown()
        process.stdin.close()
        process.wait(30)
        type(context)._gateway = type(context)._jvm = None


# -- what goes wrong in a worker, told where the command runs ----------------------------------------------------------


class Failure(msgspec.Struct, frozen=True):
    """Why a task cannot go on. `record` is topic, partition and offset, where it is one record's doing; `trace` is the
    user's traceback, of a MapReduce task that has told all in its reason ("" for one without)."""

    reason: str
    record: tuple[str, int, int] | None = None
    bad: bool = False
    """The record's bytes are at fault, rather than code."""
    trace: str | None = None


class TaskFailed(Exception):
    """Raised in a worker: carries a Failure through the JVM, which passes on no more than text."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"STREAMKIT-FAILURE:{base64.b64encode(msgspec.json.encode(failure)).decode()}")


def failure_of(error: Exception, what: str, record: tuple[str, int, int]) -> Failure:
    """An exception of the user's code, with its traceback from there on where ours ends."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
        trace = trace.tb_next
    told = "".join(traceback.format_exception(error.with_traceback(trace or error.__traceback__))).rstrip()
    return Failure(f"{what}\n{told}", record)


@contextlib.contextmanager
def told(log: Path) -> Iterator[None]:
    """Errors of Spark's as a Failure's own words, or as RunnerFailed with Spark's first line."""
    try:
        yield
    except (PySparkException, Py4JError) as error:
        if found := _FAILURE.search(str(error)):
            raise _raised(msgspec.json.decode(base64.b64decode(found[1]), type=Failure)) from None
        if "data source: kafka" in str(error):
            raise RunnerFailed(
                f"Spark has no Kafka connector here: {CONNECTOR} and what it depends on should be among spark.jars or "
                f"spark.jars.packages. Leave --spark-conf spark.jars out, and it is downloaded from Maven"
            ) from None
        # Python's traceback whole, and of Java's what it ends in.
        said = str(error).partition("\n\nJVM stacktrace")[0].splitlines()
        lines = [line for line in said if line.strip() and not line.startswith(("\tat ", "\t... "))]
        raise RunnerFailed("\n".join(["a Spark job failed:", *lines[:60], f"(more in {log})"])) from None


def _raised(failure: Failure) -> Exception:
    if failure.bad and failure.record is not None:
        return BadRecord(*failure.record, failure.reason)
    if failure.trace is not None:
        return task.TaskFailed(failure.reason, failure.trace)
    where = "/".join(map(str, failure.record)) + ": " if failure.record else ""
    return RunnerFailed(where + failure.reason)


@contextlib.contextmanager
def kept(frame: DataFrame) -> Iterator[DataFrame]:
    """Computed once, and kept on the executors' disks meanwhile."""
    made = frame.persist(StorageLevel.DISK_ONLY)
    try:
        yield made
    finally:
        with contextlib.suppress(Exception):  # the JVM may be gone: so is what it kept
            made.unpersist()


# -- jobs --------------------------------------------------------------------------------------------------------------


def run_jobs(session: SparkSession, group: str, jobs: Callable[[], T], tell: Callable[[int, int], None]) -> T:
    """What `jobs` returns, having Spark run some; `tell` hears twice a second how many of their tasks are done, of all.

    They run in a thread of their own, whose answer is waited for: Ctrl-C in the middle of a call to the JVM would leave
    half an answer on the line. Here it finds this thread waiting, which cancels the jobs and waits for their end.
    """
    context, outcome = session.sparkContext, Future[T]()

    def run() -> None:
        context.setJobGroup(group, group, interruptOnCancel=True)
        try:
            outcome.set_result(jobs())
        except BaseException as error:
            outcome.set_exception(error)

    thread = InheritableThread(run, daemon=True)
    thread.start()
    try:
        with _interrupt_noted() as asked:
            while not wait([outcome], 0.5).done:
                tell(*_tasks(context.statusTracker(), group))
                if asked.is_set():
                    raise KeyboardInterrupt
    except BaseException:
        context.cancelJobGroup(group)
        raise
    finally:
        thread.join(60)
    return outcome.result()


@contextlib.contextmanager
def _interrupt_noted() -> Iterator[threading.Event]:
    """Within, Ctrl-C sets the event: raised where it comes, it could be lost in py4j, which this thread asks for how
    far the tasks are, and the command would run on."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
    if asked.is_set():
        raise KeyboardInterrupt


def _tasks(tracker: Any, group: str) -> tuple[int, int]:
    jobs = [job for id in tracker.getJobIdsForGroup(group) if (job := tracker.getJobInfo(id))]
    stages = [stage for job in jobs for id in job.stageIds if (stage := tracker.getStageInfo(id))]
    return sum(stage.numCompletedTasks for stage in stages), sum(stage.numTasks for stage in stages)
