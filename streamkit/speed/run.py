"""The worker's loop: read, make a Checkpoint now and then, stop when told or caught up."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

from streamkit.speed.worker import Worker, caught_up

_LISTEN_SECONDS = 0.05
_POLL_SECONDS = 0.05
_BATCH = 20_000


def run(
    worker: Worker,
    *,
    stop: threading.Event,
    checkpoint_seconds: float = 1.0,
    until_caught_up: bool = False,
    on_checkpoint: Callable[[Worker], None] = lambda _: None,
) -> None:
    """Run until `stop` is set, or, with `until_caught_up`, until the ends that the log had at the start; the last act
    is a Checkpoint.

    Python's cyclic collector is off meanwhile: with it on, it walks over every record that is held and takes half of
    the time. What is garbage by cycles is collected after a Checkpoint, when hardly anything is held.
    """
    ends = worker.ends() if until_caught_up else None
    collecting = gc.isenabled()
    gc.disable()
    try:
        _loop(worker, stop, checkpoint_seconds, lambda: ends is not None and caught_up(worker.positions(), ends),
              on_checkpoint)  # fmt: skip
        worker.checkpoint()
        on_checkpoint(worker)
    finally:
        if collecting:
            gc.enable()


def _loop(
    worker: Worker,
    stop: threading.Event,
    checkpoint_seconds: float,
    done: Callable[[], bool],
    on_checkpoint: Callable[[Worker], None],
) -> None:
    last_checkpoint = last_listen = time.monotonic()
    read = 0
    while not stop.is_set() and not done():
        read += worker.step(_BATCH, _POLL_SECONDS)
        now = time.monotonic()
        if now - last_listen >= _LISTEN_SECONDS:
            worker.listen()
            last_listen = now
        if worker.asked() or (read and now - last_checkpoint >= checkpoint_seconds):
            worker.checkpoint()
            on_checkpoint(worker)
            gc.collect(1)
            last_checkpoint, read = time.monotonic(), 0
