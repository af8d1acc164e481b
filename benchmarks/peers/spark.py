"""Spark Structured Streaming: availableNow, local[2], two shuffle partitions, state in memory with files beside it.

What is on the topic comes in four micro-batches; the first, in which the JVM warms up, is before the first point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.peer import PythonPeer, java_until
from benchmarks.peers.task import Task
from benchmarks.setup import jars

VERSION = "4.2.0"
CONNECTOR = f"org.apache.spark:spark-sql-kafka-0-10_2.13:{VERSION}"


@dataclass
class Spark(PythonPeer):
    """PySpark's jars come with it; the Kafka connector's from Maven Central."""

    def prepare(self) -> None:
        super().prepare()
        java = java_until(21)
        self.environment = {"JAVA_HOME": str(java.executable.parents[1]), "PYSPARK_PYTHON": str(self.python)}
        self.version += f", Java {java.major}"
        wanted = ("kafka-clients", "spark-sql-kafka", "spark-token-provider-kafka", "commons-pool2")
        self._jars = [jar for jar in jars(CONNECTOR) if jar.name.startswith(wanted)]

    def command(self, task: Task) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        command, environment = super().command(task)
        return command, {**environment, "PYSPARK_SUBMIT_ARGS": f"--jars {','.join(map(str, self._jars))} pyspark-shell"}


PEERS = [
    Spark(
        "spark", "Spark Structured Streaming", "state and offsets in files, each micro-batch, exactly once", "spark",
        packages=(f"pyspark=={VERSION}",),
        settings={
            "batches": "4",
            "spark.sql.shuffle.partitions": "2",
            "spark.driver.memory": "4g",
            "spark.ui.enabled": "false",
            "spark.log.level": "ERROR",
        },
        cannot={"agent": "no function called for each event with state; applyInPandasWithState has batches"},
    )
]  # fmt: skip
