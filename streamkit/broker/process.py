"""A process that outlives whoever started it, and is known again by its start time, not by its pid alone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from streamkit.errors import BrokerError

POLL_SECONDS = 0.05


def spawn(command: list[str], output: Path) -> int:
    """Start `command` in a session of its own, stdout and stderr into `output`; returns its pid.

    In a session of its own no Ctrl-C in this terminal reaches it. `posix_spawn` rather than `Popen`, whose object would
    warn, when collected, of the very thing that is wanted: that the process still runs.
    """
    silence = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    into = (os.POSIX_SPAWN_OPEN, 1, str(output), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    both = (os.POSIX_SPAWN_DUP2, 1, 2)
    return os.posix_spawn(command[0], command, os.environ, file_actions=(silence, into, both), setsid=True)


def exit_code(pid: int) -> int | None:
    """The exit code of a child that has ended (minus the signal where it was killed), None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def start_time(pid: int) -> str | None:
    """When the process started, in words no other process of this pid will ever have; None where it does not run."""
    state, started = _linux(pid) if Path("/proc/self/stat").exists() else _ps(pid)
    return None if state.startswith(("Z", "X")) else started


def end(pid: int, started: str, *, timeout_seconds: float) -> bool:
    """SIGTERM, then SIGKILL after `timeout_seconds`; True where the first was enough.

    Raises BrokerError where the process outlives both, as one does that hangs in a disk that does not answer.
    """
    os.kill(pid, signal.SIGTERM)
    if _gone(pid, started, timeout_seconds):
        return True
    os.kill(pid, signal.SIGKILL)
    if not _gone(pid, started, 10.0):
        raise BrokerError(f"the broker (pid {pid}) is still there 10 s after SIGKILL: look at the disk its data are on")
    return False


def _gone(pid: int, started: str, timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while start_time(pid) == started:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # ours to bury, where it was this process that started it
    return True


def _linux(pid: int) -> tuple[str, str | None]:
    """State and start time from /proc (proc(5)): field 3, and field 22 in ticks since the boot named with it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", None
    return fields[0], f"{boot}/{fields[19]}"


def _ps(pid: int) -> tuple[str, str | None]:
    told = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
    ).stdout.split(maxsplit=1)
    return (told[0], told[1].strip()) if len(told) == 2 else ("X", None)
