"""Kafka Streams: CountPerKey.java, compiled and run on the JVM that the embedded broker has.

Kafka Streams' defaults, but for: exactly_once_v2; a commit a second; as many stream threads as there are cores;
what `Job.member` says. Its group is a classic one (`group.protocol=classic`, the default): the session of its own
protocol (KIP-1071) is the broker's to set, 45 s at least.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.process import launch
from benchmarks.recovery.load import Expected
from benchmarks.recovery.peer import COMMIT_SECONDS, TRANSACTION_TIMEOUT_MS, Job, RecoveryError
from benchmarks.recovery.totals import Changelog, Integers
from benchmarks.setup import compile_java, jars
from streamkit.broker.jars import KAFKA_VERSION
from streamkit.broker.java import Java, find_java

SOURCE = Path(__file__).parent / "CountPerKey.java"
STORE = "totals"
STREAMS = f"org.apache.kafka:kafka-streams:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36!"

LOGGING = ["-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS"]


class KafkaStreams:
    """See `Peer`."""

    name = "kafka-streams"

    def __init__(self, job: Job) -> None:
        self.group, self.state_dir = job.group, job.directory / "state"
        self._job, self._classes = job, job.directory / "classes"
        self._java: Java
        self._jars: list[Path]
        self._changelog = Changelog(job.brokers, f"{self.group}-{STORE}-changelog", job.keys, decode)

    def prepare(self) -> None:
        self._java, self._jars = find_java(), jars(STREAMS)
        compile_java(self._java, SOURCE, self._jars, self._classes)

    @property
    def version(self) -> str:
        return f"Kafka Streams {KAFKA_VERSION}, Java {self._java.major}"

    def start(self, state_dir: Path) -> subprocess.Popen[bytes]:
        classpath = os.pathsep.join(map(str, (self._classes, *self._jars)))
        settings = [f"{name}={value}" for name, value in self._settings(state_dir).items()]
        java = [str(self._java.executable), *self._java.flags(), *LOGGING, "-cp", classpath]
        return launch([*java, SOURCE.stem, self._job.topic, STORE, *settings], self._job.directory)

    def _settings(self, state_dir: Path) -> dict[str, str]:
        return {
            "application.id": self.group,
            "bootstrap.servers": self._job.brokers,
            "state.dir": str(state_dir),
            "processing.guarantee": "exactly_once_v2",
            "commit.interval.ms": str(int(COMMIT_SECONDS * 1000)),
            "num.stream.threads": str(min(os.cpu_count() or 1, self._job.partitions)),
            "replication.factor": "1",
            "auto.offset.reset": "earliest",
            "producer.transaction.timeout.ms": str(TRANSACTION_TIMEOUT_MS),
            **{f"main.consumer.{name}": value for name, value in self._job.member.items()},
        }

    def check(self, expected: Expected) -> None:
        if wrong := self._changelog.wrong(expected):
            raise RecoveryError(f"{self.name}: {wrong}")


def decode(values: Sequence[bytes]) -> Integers:
    """Totals as CountPerKey writes them.

    >>> decode([b"\\0\\0\\0\\0\\0\\0\\0\\1" + b"\\0\\0\\0\\0\\0\\0\\1\\0"])
    array([[  1, 256]])
    """
    return np.frombuffer(b"".join(values), ">i8").reshape(-1, 2).astype(np.int64)
