"""One peer at one load: build its state, kill it, start it again, time it."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.process import end, said
from benchmarks.recovery.load import Expected, sender
from benchmarks.recovery.peer import Job, Peer, RecoveryError
from benchmarks.recovery.watch import Watch

POLL_SECONDS = 0.02
WARM_SECONDS = 5
SETTLE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds from the kill to the first new commit, and until less than a second of load was not committed."""

    first_commit: float
    caught_up: float

    def __str__(self) -> str:
        return f"{self.first_commit:.2f} s (caught up {self.caught_up:.2f} s)"


class Trial:
    """A peer and what is seen of it. `close` leaves no process behind."""

    def __init__(self, peer: Peer, job: Job, expected: Expected, patience_seconds: float) -> None:
        self._peer, self._job, self._expected, self._patience = peer, job, expected, patience_seconds
        self._watch = Watch(job.brokers, peer.group, job.topic, job.partitions)
        self._process: subprocess.Popen[bytes] | None = None

    def build(self) -> float:
        """Count all that is on the topic, from nothing; seconds until it is committed."""
        began = time.perf_counter()
        self._start()
        self._all_committed()
        seconds = time.perf_counter() - began
        self._peer.check(self._expected)
        self._stop()
        return seconds

    def round(self, draw: random.Random) -> dict[str, Recovery]:
        """The figures with the disk intact and with the disk lost. Raises RecoveryError where totals are wrong."""
        self._start()
        found = {case: self._case(draw, lost=case == "lost") for case in ("intact", "lost")}
        self._stop()
        return found

    def close(self) -> None:
        if self._process:
            end(self._process, signal.SIGKILL)

    # -- one kill ------------------------------------------------------------------------------------------------------

    def _case(self, draw: random.Random, *, lost: bool) -> Recovery:
        job = self._job
        with sender(job.brokers, job.topic, job.keys, job.rate):
            enough = self._watch.committed() + WARM_SECONDS * job.rate
            self._until(lambda: self._watch.committed() >= enough and self._watch.lag() < job.rate, "keep up")
            time.sleep(draw.random())  # commits come once a second: kill anywhere between two
            recovery = self._recover(lost=lost)
        self._all_committed()
        self._peer.check(self._expected)
        return recovery

    def _recover(self, *, lost: bool) -> Recovery:
        """Kill, start again, time.

        What was committed at the kill is read a moment after it, and until the new process cannot have committed yet
        (a commit needs an interpreter or JVM, a group, and a second): the dead one may have asked for the end of its
        transaction just before it died. The coordinator then writes the markers after the kill, and offsets that grow
        by that are no recovery.
        """
        assert self._process
        killed = time.perf_counter()
        end(self._process, signal.SIGKILL)
        aside = self._job.directory / "lost"
        if lost:
            self._peer.state_dir.rename(aside)  # deleted below: how fast a disk forgets is not the question
        self._start()
        settled, before = time.perf_counter() + SETTLE_SECONDS, self._watch.committed()
        while time.perf_counter() < settled:
            before = self._watch.committed()
        first = self._until(lambda: self._watch.committed() > before, "commit anything new")
        caught_up = self._until(lambda: self._watch.lag() < self._job.rate, "catch up")
        if lost:
            shutil.rmtree(aside)
        return Recovery(first - killed, caught_up - killed)

    # -- the process ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._process = self._peer.start(self._peer.state_dir)

    def _stop(self) -> None:
        assert self._process
        end(self._process, signal.SIGTERM)
        self._process = None

    def _all_committed(self) -> None:
        self._until(lambda: self._watch.lag() == 0, "commit all events")

    def _until(self, condition: Callable[[], bool], what: str) -> float:
        """Wait for it; when it was seen, on `time.perf_counter`. Raises RecoveryError if the worker ends before."""
        assert self._process
        deadline = time.perf_counter() + self._patience
        while not condition():
            if (code := self._process.poll()) is not None:
                raise RecoveryError(self._failed(f"the worker ended with {code}, and did not {what}"))
            if time.perf_counter() > deadline:
                raise RecoveryError(self._failed(f"after {self._patience:g} s the worker did not {what}"))
            time.sleep(POLL_SECONDS)
        return time.perf_counter()

    def _failed(self, how: str) -> str:
        progress = f"{self._watch.committed():,} of {self._watch.ends():,} events are committed"
        return f"{self._peer.name}: {how}; {progress}. Its last words:\n{said(self._job.directory)}"
