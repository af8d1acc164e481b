"""Several workers as one command: each a process of its own, started again when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

from streamkit.cli.options import err
from streamkit.cli.signals import asked_to_stop

_SUPERVISOR = "STREAMKIT_SUPERVISOR"
_QUICK_SECONDS = 5.0
_PATIENCE = 3
"""A worker that ends by a signal so often in a row, each time within seconds, is not started again."""


class _Child:
    """One worker process, and the lines it says."""

    def __init__(self, number: int, command: Sequence[str]) -> None:
        self.number, self._command = number, command
        self.quick = 0
        self.start()

    def start(self) -> None:
        self._began = time.monotonic()
        # A session of its own: Ctrl-C reaches this process only, which then asks each worker once.
        self.process = subprocess.Popen(
            self._command,
            env={**os.environ, _SUPERVISOR: str(os.getpid())},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stderr is not None
        self._saying = threading.Thread(target=_say, args=(self.number, self.process.stderr), daemon=True)
        self._saying.start()

    def finish(self) -> None:
        """Its end, and all that it has said: why it ended is its last line."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._saying.join(1.0)

    def ended(self) -> int | None:
        """The exit status, None while it runs."""
        status = self.process.poll()
        if status is not None:
            self.quick = self.quick + 1 if time.monotonic() - self._began < _QUICK_SECONDS else 0
        return status


def supervise(workers: int) -> int:
    """Run this command line as so many processes, without `--workers`; returns the exit status.

    Ctrl-C and SIGTERM are passed on. One that was killed by a signal is started again at once; one that leaves with an
    error has said why, and all are stopped.
    """
    command = [sys.executable, "-m", "streamkit", *_without_workers(sys.argv[1:])]
    with asked_to_stop() as stop:
        children = [_Child(number, command) for number in range(1, workers + 1)]
        try:
            return _watch(children, stop)
        finally:
            for child in children:
                child.finish()


def _watch(children: list[_Child], stop: threading.Event) -> int:
    running, asked, worst = list(children), False, 0
    while running:
        stopping = stop.wait(0.05) if not asked else True
        if stopping and not asked:
            asked = True
            for child in running:
                child.process.send_signal(signal.SIGTERM)
        if asked:
            time.sleep(0.05)
        for child in list(running):
            status = child.ended()
            if status is None:
                continue
            if status < 0 and not asked and child.quick < _PATIENCE:
                err.print(f"worker {child.number} was killed by {signal.Signals(-status).name}: started again")
                child.start()
                continue
            running.remove(child)
            if status:
                worst = worst or (status if status > 0 else 1)
                stop.set()
    return worst


def _say(number: int, lines: IO[str]) -> None:
    for line in lines:
        err.print(f"[{number}] {line.rstrip()}", markup=False)


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


def stop_with_supervisor(stop: threading.Event) -> None:
    """A supervisor that was killed by -9 tells nobody: its workers leave by themselves."""
    supervisor = os.environ.get(_SUPERVISOR)
    if supervisor is not None and os.getppid() != int(supervisor):
        stop.set()
