"""Several commands as one: each a process of its own, started again when it is killed, stopped in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Self

from rich.console import Console

from streamkit.cli.options import err, out
from streamkit.cli.signals import asked_to_stop

_SUPERVISOR = "STREAMKIT_SUPERVISOR"
_LIFELINE = "STREAMKIT_LIFELINE"
_PATIENT = "STREAMKIT_PATIENT"
_QUICK_SECONDS = 5.0
_PATIENCE = 3
"""A part that ends by a signal so often in a row, each time within seconds, is not started again."""
_LOOK_SECONDS = 0.05
_AWAY_SECONDS = 1.0
NO_BROKER = 75
"""The exit status (EX_TEMPFAIL of sysexits.h) of a patient part that found no broker when it started."""


@dataclass(frozen=True)
class Part:
    """One process: `streamkit` with `arguments`. Its lines begin with `label`; those of the lowest `stage` are stopped
    first. One that `keeps` stays until all others are gone, even where the supervisor is killed: see `lifeline`. One
    that is `patient` is started again where it leaves because no broker answers."""

    name: str
    label: str
    arguments: Sequence[str]
    stage: int = 0
    keeps: bool = False
    patient: bool = False


class _Child:
    """A part's process, and the lines it says."""

    def __init__(self, part: Part, lifeline: tuple[int, int]) -> None:
        self.part, self._lifeline = part, lifeline
        self.quick = 0
        self.last = ""
        self.start()

    def start(self) -> None:
        self._began, self._ended = time.monotonic(), float("inf")
        held = self._lifeline[0 if self.part.keeps else 1]
        environment = {**os.environ, _SUPERVISOR: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        environment |= {_PATIENT: "1"} if self.part.patient else {}
        # A session of its own: Ctrl-C reaches this process only, which then asks each part once.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streamkit", *self.part.arguments],
            env=environment | ({_LIFELINE: str(held)} if self.part.keeps else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=(held,),
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        told = ((self.process.stdout, out), (self.process.stderr, err))
        self._saying = [threading.Thread(target=self._say, args=pair, daemon=True) for pair in told]
        for thread in self._saying:
            thread.start()

    def finish(self) -> None:
        """Its end, and all that it has said: why it ended is its last line."""
        if self.process.poll() is None and not self.part.keeps:
            self.process.kill()
        self.process.wait()
        for thread in self._saying:
            thread.join(1.0)

    def ended(self) -> int | None:
        """The exit status, None while it runs."""
        status = self.process.poll()
        if status is not None:
            self.quick = self.quick + 1 if time.monotonic() - self._began < _QUICK_SECONDS else 0
        return status

    def waits(self) -> bool:
        """Has it found no broker, just now?"""
        if self.process.poll() != NO_BROKER or not self.part.patient:
            return False
        self._ended = min(self._ended, time.monotonic())
        return time.monotonic() - self._ended < _AWAY_SECONDS

    def _say(self, lines: IO[str], console: Console) -> None:
        for line in lines:
            self.last = line.rstrip() or self.last
            console.print(f"[{self.part.label}] {line.rstrip()}", markup=False)


class Supervisor:
    """Starts Parts and looks after them. A context: at its end none of them is left."""

    def __init__(self) -> None:
        self._children: list[_Child] = []
        self._lifeline = os.pipe()
        self._worst = 0
        self.failed: _Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lifeline[1])
        for child in sorted(self._children, key=lambda child: child.part.stage):
            child.finish()
        os.close(self._lifeline[0])

    def start(self, part: Part) -> None:
        self._children.append(_Child(part, self._lifeline))

    def look(self) -> bool:
        """Start again what was killed by a signal; False where a part has left with an error: all are to be stopped."""
        for child in list(self._children):
            if child.process.poll() is None or child.waits():
                continue
            status = child.ended() or 0
            if status == NO_BROKER and child.part.patient:
                child.start()
                continue
            if status < 0 and child.quick < _PATIENCE:
                name = signal.Signals(-status).name
                err.print(f"{child.part.name} was killed by {name}: started again")
                child.start()
                continue
            self._children.remove(child)
            if status:
                self._note(child, status)
                return False
        return True

    def watch(self, stop: threading.Event) -> int:
        """Until all have left, or `stop` is set, or one has left with an error; then stop the others. Returns the exit
        status."""
        while self._children and not stop.wait(_LOOK_SECONDS):
            if not self.look():
                break
        return self.stop()

    def stop(self) -> int:
        """Stop stage by stage, each when those before it are gone; returns the exit status."""
        for stage in sorted({child.part.stage for child in self._children}):
            children = [child for child in self._children if child.part.stage == stage]
            for child in children:
                if child.process.poll() is None:
                    child.process.send_signal(signal.SIGTERM)
            for child in children:
                status = child.process.wait()
                if status and not (child.part.patient and status == NO_BROKER):
                    self._note(child, status)
        return self._worst

    def _note(self, child: _Child, status: int) -> None:
        if not self._worst:
            self._worst, self.failed = (status if status > 0 else 1), child
            child.finish()

    def reason(self) -> str:
        """Why all were stopped; empty where nobody failed."""
        child = self.failed
        return f"{child.part.name} left with status {child.process.returncode}: {child.last}" if child else ""


def supervise(workers: int) -> int:
    """Run this command line as so many processes, without `--workers`; returns the exit status.

    Ctrl-C and SIGTERM are passed on. One that was killed by a signal is started again at once; one that leaves with an
    error has said why, and all are stopped.
    """
    arguments = _without_workers(sys.argv[1:])
    with asked_to_stop() as stop, Supervisor() as supervisor:
        for number in range(1, workers + 1):
            supervisor.start(Part(f"worker {number}", str(number), arguments))
        return supervisor.watch(stop)


def _without_workers(arguments: Sequence[str]) -> list[str]:
    """
    >>> _without_workers(["worker", "app.py", "--workers", "2", "-q"]), _without_workers(["worker", "--workers=2"])
    (['worker', 'app.py', '-q'], ['worker'])
    """
    kept, skip = [], False
    for argument in arguments:
        if skip or argument.startswith("--workers="):
            skip = False
        elif argument == "--workers":
            skip = True
        else:
            kept.append(argument)
    return kept


def leave_with_supervisor() -> None:
    """A supervisor that was killed by -9 tells nobody: its parts ask themselves to stop, as it would have."""
    supervisor = os.environ.get(_SUPERVISOR)
    if supervisor is None or lifeline() is not None:
        return

    def look() -> None:
        while os.getppid() == int(supervisor):
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True, name="supervisor").start()


def is_patient() -> bool:
    """Is this process a part that is started again where no broker answers?"""
    return _PATIENT in os.environ


def lifeline() -> int | None:
    """The end of a pipe that can be read from once the supervisor and all its other parts are gone, and not before.

    None without a supervisor. What the others need until their last act (the broker) waits for it.
    """
    number = os.environ.get(_LIFELINE)
    return None if number is None else int(number)
