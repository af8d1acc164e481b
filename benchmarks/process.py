"""A benchmark's worker process: started in a session of its own, ended with all its children."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

LOG_LINES = 20


def launch(
    command: Sequence[str | Path],
    directory: Path,
    environment: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a worker that `end` ends with all its children, and whose output goes to `log` in its directory.

    `stdout` takes its standard output elsewhere; standard error goes to the log all the same.
    """
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(
            [str(each) for each in command],
            cwd=directory,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=log if stdout is None else stdout,
            stderr=log,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes], how: signal.Signals, timeout_seconds: float = 120.0) -> None:
    """Send a signal to the worker and its children and wait until it has ended; kill what a signal does not end."""
    if process.poll() is None:
        os.killpg(process.pid, how)
    try:
        process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a worker: itself, and children that outlive it (a JVM that a Python program started)."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def said(directory: Path) -> str:
    """The last lines a worker put out."""
    try:
        return "\n".join((directory / "log").read_text(errors="replace").splitlines()[-LOG_LINES:])
    except FileNotFoundError:
        return "(nothing)"


def pss(process: psutil.Process) -> int:
    """The memory of a process and its children, in bytes; those that have ended meanwhile have none."""
    total = 0
    for each in processes_of(process):
        try:
            total += each.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def processes_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []
