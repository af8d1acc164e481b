"""What a peer is, and what it is told."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.recovery.load import Expected

COMMIT_SECONDS = 1.0
TRANSACTION_TIMEOUT_MS = 10_000
"""Kafka Streams' own; a disk lost may leave a transaction that nobody can end before, and readers wait for it."""


class RecoveryError(RuntimeError):
    """A run that gives no figure: a peer that ended, does not recover, or has wrong totals."""


@dataclass(frozen=True, slots=True)
class Job:
    """The load a peer works on, and what is equal for all of them.

    `directory` is the peer's alone: state, logs, what it compiles. `session_timeout_ms` is after how long the broker
    misses a dead member of a classic group. With `static_membership` the member that comes again has the name of the
    one that died (KIP-345), and nobody waits for that.
    """

    brokers: str
    topic: str
    partitions: int
    keys: int
    rate: int
    directory: Path
    session_timeout_ms: int
    static_membership: bool

    @property
    def group(self) -> str:
        return f"{self.topic}-group"

    @property
    def member(self) -> dict[str, str]:
        """Settings of the consumer, by names that the Java client and librdkafka share."""
        settings = {"session.timeout.ms": str(self.session_timeout_ms)}
        # A third of the session, so that two lost heartbeats do no harm (the Java client's documentation).
        settings["heartbeat.interval.ms"] = str(self.session_timeout_ms // 3)
        if self.static_membership:
            settings["group.instance.id"] = "one"
        return settings


class Peer(Protocol):
    """One system under test, made by calling its class with a Job.

    `prepare` gets what it needs (downloads, compilers) and may take long. `start` starts a worker in a new session
    (see `process.launch`), state below `state_dir`, and returns at once; whatever is in `state_dir` is what the worker
    before left, or nothing. The worker ends on SIGTERM. `group` is the consumer group in which it commits offsets of
    `Job.topic`: each event counts once in its count per key before its offset is committed. `check` raises
    RecoveryError unless all keys' counts and sums are as expected; it is called when all is committed and the worker
    still runs. `version` is known after `prepare`.
    """

    name: str

    def __init__(self, job: Job) -> None: ...

    @property
    def group(self) -> str: ...

    @property
    def state_dir(self) -> Path: ...

    @property
    def version(self) -> str: ...

    def prepare(self) -> None: ...

    def start(self, state_dir: Path) -> subprocess.Popen[bytes]: ...

    def check(self, expected: Expected) -> None: ...
