"""`--runner spark`: its options, and the session that a command has for as long as it runs."""

from __future__ import annotations

import enum
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import typer

from streamkit.batch.mapreduce.local import JobRunner
from streamkit.batch.mapreduce.plan import JobPlan
from streamkit.batch.run import Engine
from streamkit.cli.options import err
from streamkit.errors import RunnerFailed
from streamkit.folder import DataFolder
from streamkit.log.base import Log
from streamkit.mapreduce import MapReduce
from streamkit.settings import Connection
from streamkit.view import View

MASTER = Annotated[
    str | None,
    typer.Option(
        "--master",
        help="Spark's master, with --runner spark: local[2], yarn, spark://HOST:7077, k8s://...",
        show_default="what spark-submit was told, else local[*]",
    ),
]
SPARK_CONF = Annotated[
    list[str] | None,
    typer.Option(
        "--spark-conf",
        metavar="NAME=VALUE",
        help="A setting of Spark's; kafka.NAME=VALUE for one of Kafka's Java client, by which Spark reads. Repeatable.",
        show_default=False,
    ),
]


class RunnerName(enum.StrEnum):
    local = "local"
    spark = "spark"


RUNNER = Annotated[RunnerName, typer.Option(help="What executes the plan.")]


class Spark(Protocol):
    """A session's engines."""

    def views(self, view: View, source: Log, folder: Path) -> Engine:
        """For a View whose topic is read from `source`, and whose own folder is `folder`."""

    def tasks(self, job: MapReduce, plan: JobPlan, memory: int, archive: str | None, folder: Path) -> JobRunner:
        """For a plan of a job; `memory` is what one task's data may take, in bytes."""


@dataclass(frozen=True)
class Asked:
    """What the command line says of Spark."""

    master: str | None
    conf: dict[str, str]


def spark_asked(chosen: bool, master: str | None, conf: Sequence[str] | None) -> Asked | None:
    """None where another runner is meant. Raises RunnerFailed for options that would then mean nothing."""
    if not chosen:
        if master or conf:
            raise RunnerFailed("--master and --spark-conf are for --runner spark: name that, or leave them out")
        return None
    settings = dict(_pair(text) for text in conf or ())
    return Asked(master, settings)


def _pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise RunnerFailed(f"--spark-conf {text!r}: expected NAME=VALUE, such as spark.executor.memory=4g")
    return name.strip(), value


@contextmanager
def open_spark(asked: Asked, topology: str, connection: Connection, folder: DataFolder) -> Iterator[Spark]:
    """A Spark session; raises RunnerFailed where pyspark or Java is missing, or it does not start."""
    for module in ("pyspark", "pyarrow", "pandas"):
        if importlib.util.find_spec(module) is None:
            raise RunnerFailed(f"--runner spark needs {module}: pip install 'streamkit[spark]'")
    from streamkit.batch.spark.connector import java_settings
    from streamkit.batch.spark.engines import Engines
    from streamkit.batch.spark.session import SparkOptions, open_session

    options = SparkOptions(asked.master, asked.conf)
    settings = {**java_settings(connection), **options.kafka}
    log = folder.root / "spark.log"
    err.print("starting Spark")
    with open_session(options, f"streamkit {folder.root.name}", log) as session:
        yield Engines(session, topology, connection, settings, log)
