"""Who is measured, and on what."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from benchmarks.batch.data import JOBS
from benchmarks.peers import spark
from benchmarks.peers.peer import ROOT
from benchmarks.peers.task import Task
from benchmarks.setup import python_with, versions_in

BESIDE_US = ("duckdb", "polars")
"""Packages that are installed with StreamKit or its extras: their programs run on our own Python."""


@dataclass
class Peer:
    """A program of `programs`, and what it reads: `kafka`, `archive`, `parquet` or `text`.

    `packages` are those of an environment of its own; without any, this Python runs it. One that is `slow` gets a tenth
    of the records: a rate does not depend on their number, how long a run takes does.
    """

    name: str
    title: str
    program: str
    reads: str = "kafka"
    packages: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    jobs: Sequence[str] = JOBS
    slow: bool = False
    version: str = ""
    python: Path = field(default_factory=lambda: Path(sys.executable))

    def prepare(self) -> None:
        """Get what it needs. Raises SetupError."""
        if not self.packages:
            own = f", {self.program} {version(self.program)}" if self.program in BESIDE_US else ""
            self.version = f"Python {platform.python_version()}{own}"
            return
        self.python = python_with(self.program, *self.packages)
        names = [each.partition("=")[0] for each in self.packages]
        *found, python = versions_in(self.python, *names)
        self.version = ", ".join([*map(" ".join, zip(names, found, strict=True)), f"Python {python}"])

    def command(self, task: Task) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        """Arguments, and additions to the environment."""
        del task
        module = f"benchmarks.batch.programs.{self.program}_program"
        return [self.python, "-m", module], {"PYTHONPATH": str(ROOT), **self.environment}


@dataclass
class PySpark(Peer):
    """Its environment is that of Spark in benchmarks/peers: the same version, jars and Java."""

    def prepare(self) -> None:
        (self._spark,) = spark.PEERS
        self._spark.prepare()
        self.python, self.version = self._spark.python, self._spark.version

    def command(self, task: Task) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        _, environment = self._spark.command(task)
        command, own = super().command(task)
        return command, {**environment, **own}


def streamkit(name: str, title: str, job: str = "", *, processes: int = 2, **more: object) -> Peer:
    """StreamKit by its command line. `options` are added to the command; `before` is one that comes first, untimed, and
    whose archive is then read."""
    settings = {"processes": str(processes), "words": job or "words", **{k: str(v) for k, v in more.items()}}
    jobs = ("words",) if job else JOBS
    reads = "archive" if "before" in more else "kafka"
    return Peer(name, title, "streamkit", reads, settings=settings, jobs=jobs)


TWO = {"POLARS_MAX_THREADS": "2"}
SPARK = {
    "spark.sql.shuffle.partitions": "2",
    "spark.driver.memory": "4g",
    "spark.ui.enabled": "false",
    "spark.log.level": "ERROR",
    "spark.ui.showConsoleProgress": "false",
}
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        streamkit("streamkit", "StreamKit, 2 processes"),
        streamkit("streamkit-1", "StreamKit, 1 process", processes=1),
        streamkit("streamkit-columns", "StreamKit by columns, 2 processes", "words_by_columns"),
        streamkit("streamkit-columns-1", "StreamKit by columns, 1 process", "words_by_columns", processes=1),
        streamkit("streamkit-no-combine", "StreamKit without combine, 2 processes", "words_no_combine"),
        streamkit("streamkit-archive", "StreamKit, 2 processes", before="archive"),
        streamkit(
            "streamkit-columns-archive", "StreamKit by columns, 2 processes", "words_by_columns", before="archive"
        ),
        streamkit("streamkit-spark", "StreamKit on Spark local[2]", options="--runner spark --master local[2]"),
        PySpark("spark", "PySpark local[2]", "spark", settings=SPARK),
        PySpark("spark-parquet", "PySpark local[2]", "spark", "parquet", settings=SPARK),
        Peer("duckdb", "DuckDB, 2 threads", "duckdb", "parquet"),
        Peer("polars", "polars, 2 threads", "polars", "parquet", environment=TWO),
        Peer(
            "mrjob", "mrjob's local runner, 2 cores", "mrjob", "text", ("mrjob==0.7.4", "setuptools==80.9.0"), slow=True
        ),
    )
}
SMALL = ("streamkit", "streamkit-columns", "streamkit-archive", "streamkit-no-combine", "duckdb", "polars")
