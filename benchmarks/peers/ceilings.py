"""What reading alone comes to: confluent-kafka as Python calls it, and Kafka's own tool on the JVM."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peers.peer import JavaPeer, PythonPeer
from benchmarks.peers.task import Task
from streamkit.broker.jars import KAFKA_VERSION

ONLY_READS = "it only reads: see the job views"
CANNOT = dict.fromkeys(("unique", "heavy", "agent"), ONLY_READS)
MAIN = "org.apache.kafka.tools.ConsumerPerformance"


class PerfTool:
    """`kafka-consumer-perf-test.sh`, without the script: `MAIN`, started by a program that reads what it prints."""

    name, title, keeps, slow = "perf-tool", "kafka-consumer-perf-test", "nothing: it only reads", False
    only_reads = True
    cannot: Mapping[str, str] = CANNOT
    settings: Mapping[str, str] = {"messages": "--num-records"}

    def __init__(self) -> None:
        coordinates = f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}!+org.slf4j:slf4j-nop:1.7.36!"
        self._java = JavaPeer("", "", "", "", coordinates)
        self._python = PythonPeer("", "", "", "perf")

    def prepare(self) -> None:
        self._java.prepare()

    @property
    def version(self) -> str:
        return self._java.version

    def command(self, task: Task) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        classpath = os.pathsep.join(map(str, self._java.classpath))
        java = [str(self._java.java.executable), *self._java.java.flags(), "-Xmx512m", "-cp", classpath, MAIN]
        command, environment = self._python.command(task)
        return command, {**environment, "PERF_COMMAND": json.dumps(java)}


PEERS = [
    PythonPeer(
        "consume", "bare `Consumer.consume` loop", "nothing: it only reads", "consume", cannot=CANNOT, only_reads=True
    ),
    PerfTool(),
]
