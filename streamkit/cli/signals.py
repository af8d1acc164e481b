"""Ctrl-C and SIGTERM: asked to stop, a command finishes what it is at and leaves; asked by Ctrl-C again, it leaves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def calling(stop: Callable[[], None]) -> Iterator[None]:
    """Either signal calls `stop`; a second Ctrl-C raises KeyboardInterrupt."""
    asked = False

    def ask(number: int, _: object) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True
        stop()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that either signal sets."""
    stop = threading.Event()
    with calling(stop.set):
        yield stop
