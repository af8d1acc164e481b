"""One run of one peer: start it, listen to it, watch its CPU and memory, compare its totals."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.batch.peers import Peer
from benchmarks.peers.events import Totals, wrong
from benchmarks.peers.task import VARIABLE, Task
from benchmarks.process import kill_all, launch, said

_SAMPLE_SECONDS = 0.2


class RunError(RuntimeError):
    """A run that gives no figure: the program ended too early, took too long, or has wrong totals."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a whole run, from the start of its process to its written results. `shuffled` rows and `shuffled_mb` where
    the peer tells them; `own_seconds` what it measures itself, without its start-up."""

    records: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    told: dict[str, float] = field(default_factory=dict)

    @property
    def records_per_second(self) -> float:
        """
        >>> Figures(1_000, 2.0, 1.0, 10.0).records_per_second
        500.0
        """
        return self.records / self.seconds


def run(peer: Peer, task: Task, right: Totals, patience_seconds: float) -> Figures:
    """Raises RunError."""
    command, environment = peer.command(task)
    if "before" in peer.settings:
        _before(command, {**environment, VARIABLE: task.dump()}, Path(task.directory), patience_seconds)
    began = time.monotonic_ns()
    process = launch(command, Path(task.directory), {**environment, VARIABLE: task.dump()}, subprocess.PIPE)
    watchdog = threading.Timer(patience_seconds, kill_all, [process])
    watchdog.start()
    try:
        with _memory(process) as peak:
            ended, told = _listen(process)
            cpu = _cpu(process.pid) if ended else 0.0
    except psutil.NoSuchProcess as error:
        raise RunError(f"the program ended: {error}. Its last words:\n{said(Path(task.directory))}") from error
    finally:
        alive = watchdog.is_alive()
        watchdog.cancel()
        kill_all(process)
        if process.stdout:
            process.stdout.close()
    if not ended or not task.totals.exists():
        why = "ended" if alive else f"was ended after {patience_seconds:g} s"
        raise RunError(f"the program {why} before it had its results. Its last words:\n{said(Path(task.directory))}")
    if differs := wrong("views", json.loads(task.totals.read_text()), right):
        raise RunError(differs)
    return Figures(task.events, (ended - began) / 1e9, cpu, peak[0] / 1e6, told)


def _before(command: Sequence[str | Path], environment: Mapping[str, str], directory: Path, seconds: float) -> None:
    """What must be there before the run: untimed. Raises RunError."""
    process = launch([*command, "before"], directory, environment, subprocess.DEVNULL)
    try:
        if process.wait(seconds):
            raise RunError(f"it could not be made ready. Its last words:\n{said(directory)}")
    except subprocess.TimeoutExpired as error:
        raise RunError(f"it was not ready after {seconds:g} s") from error
    finally:
        kill_all(process)


def _listen(process: subprocess.Popen[bytes]) -> tuple[int, dict[str, float]]:
    """When the results were written (nanoseconds; 0 where they were not), and what else was told."""
    assert process.stdout
    ended, told = 0, {}
    for line in process.stdout:
        if not line.startswith(b"{"):
            continue  # a JVM or a library that greets
        found = json.loads(line)
        ended = found.get("at", ended)
        told.update(found.get("told", {}))
        if "finished" in found:
            return ended, told
    return 0, {}


def _tree(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def _cpu(pid: int) -> float:
    """Of the processes that run, and of those that they have waited for."""
    seconds = 0.0
    for each in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            seconds += sum(each.cpu_times()[:4])
    return seconds


@contextmanager
def _memory(process: subprocess.Popen[bytes]) -> Iterator[list[float]]:
    """In the list the greatest sum of resident memory, bytes; pages that processes share count once for each."""
    peak, stop = [0.0], threading.Event()

    def sample() -> None:
        while not stop.wait(_SAMPLE_SECONDS):
            now = 0
            with suppress(psutil.NoSuchProcess):
                for each in _tree(process.pid):
                    with suppress(psutil.NoSuchProcess):
                        now += each.memory_info().rss
            peak[0] = max(peak[0], now)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
