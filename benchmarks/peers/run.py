"""One run of one peer: start it, listen to it, watch its CPU and memory, compare its totals."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers.events import Totals, wrong
from benchmarks.peers.peer import Peer
from benchmarks.peers.task import VARIABLE, Task
from benchmarks.process import kill_all, launch, said

_SAMPLE_SECONDS = 0.2
WARM_SHARE = 0.1
"""So much of what is to be counted is for warming up (JIT compilers, groups that form); the same for all."""


class RunError(RuntimeError):
    """A run that gives no figure: the program ended too early, took too long, or has wrong totals."""


@dataclass(frozen=True, slots=True)
class Point:
    """So much was counted at a time (seconds), for so much CPU (seconds of all processes)."""

    at: float
    counted: int
    cpu: float


@dataclass(frozen=True, slots=True)
class Figures:
    """`cpu_seconds` are for a million events; None where the program's rate is of another span."""

    events_per_second: float
    cpu_seconds: float | None
    peak_mb: float


def run(peer: Peer, task: Task, right: Totals, patience_seconds: float) -> Figures:
    """Raises RunError."""
    command, environment = peer.command(task)
    directory = Path(task.directory)
    process = launch(command, directory, {**environment, VARIABLE: task.dump()}, subprocess.PIPE)
    watchdog = threading.Timer(patience_seconds, kill_all, [process])
    watchdog.start()
    try:
        with _memory(process) as peak:
            points, own_rate = _listen(process, task)
    except psutil.NoSuchProcess as error:
        raise RunError(f"the program ended: {error}") from error
    finally:
        alive = watchdog.is_alive()
        watchdog.cancel()
        kill_all(process)
        if process.stdout:
            process.stdout.close()
    if not points or not task.totals.exists():
        why = "ended" if alive else f"was ended after {patience_seconds:g} s"
        raise RunError(f"the program {why} before all was counted. Its last words:\n{said(directory)}")
    if not peer.only_reads and (differs := wrong(task.job, json.loads(task.totals.read_text()), right)):
        raise RunError(differs)
    return figures_of(task, points, own_rate, peak[0])


def _listen(process: subprocess.Popen[bytes], task: Task) -> tuple[list[Point], float | None]:
    """The first and the last point, and the rate where the program measures it itself."""
    assert process.stdout
    points: list[Point] = []
    own_rate = None
    for line in process.stdout:
        if not line.startswith(b"{"):
            continue  # a JVM or a library that greets
        told: dict[str, Any] = json.loads(line)
        if "finished" in told:
            return points, own_rate
        own_rate = told.get("rate", own_rate)
        if "at" in told:
            note(points, told, task.total, process.pid)
    return [], None


def note(points: list[Point], told: dict[str, Any], total: int, pid: int) -> None:
    """Keep the first point that is past the warm-up, or the last one before it where that comes too late; the end."""
    counted = told["counted"]
    cold = bool(points) and points[0].counted < WARM_SHARE * total
    if points and not cold and counted < total:
        return  # between the two; CPU is not asked for
    point = Point(told["at"] / 1e9, counted, _cpu(pid))
    if cold and counted < total:
        points[0] = point
    elif not points or counted >= total > points[-1].counted:
        points.append(point)


def figures_of(task: Task, points: list[Point], own_rate: float | None, peak: float) -> Figures:
    """From the first to the last point; `peak` is in bytes. Raises RunError where there is only one."""
    if own_rate is not None:
        return Figures(own_rate, None, peak / 1e6)
    first, last = points[0], points[-1]
    if last.counted == first.counted:
        raise RunError(f"all was counted when the program first said anything: {task.events:,} events are too few")
    events = task.events * (last.counted - first.counted) / task.total
    return Figures(events / (last.at - first.at), (last.cpu - first.cpu) / events * 1e6, peak / 1e6)


def _tree(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def _cpu(pid: int) -> float:
    """Of the processes that run, and of those that they have waited for."""
    seconds = 0.0
    for each in _tree(pid):
        try:
            seconds += sum(each.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return seconds


@contextmanager
def _memory(process: subprocess.Popen[bytes]) -> Iterator[list[float]]:
    """In the list the greatest sum of resident memory, bytes."""
    peak, stop = [0.0], threading.Event()

    def sample() -> None:
        while not stop.wait(_SAMPLE_SECONDS):
            now = 0
            try:
                for each in _tree(process.pid):
                    now += each.memory_info().rss
            except psutil.NoSuchProcess:
                continue
            peak[0] = max(peak[0], now)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
