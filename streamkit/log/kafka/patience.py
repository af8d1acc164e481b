"""Calls to librdkafka that may never come back.

A transaction's calls take a timeout, and not all of them heed it: `send_offsets_to_transaction` waits for a change of
some connection's state when it has asked for the group's coordinator at the wrong moment of a broker's restart, and
none may ever come (librdkafka issues 5456 and 5511; seen with 2.16). Nothing can take a thread out of such a call, so
it is made in a thread that can be left behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


def in_time(call: Callable[[], None], seconds: float) -> None:
    """Call it, and raise what it raises; raises TimeoutError where it has not come back after `seconds`.

    It then goes on, whatever comes of it: nothing that it uses may be used again.

    >>> in_time(lambda: None, 1.0)
    >>> in_time(threading.Event().wait, 0.01)
    Traceback (most recent call last):
    TimeoutError: no answer after 0.01 s
    """
    failed: list[BaseException] = []
    over = threading.Event()

    def run() -> None:
        try:
            call()
        except BaseException as failure:
            failed.append(failure)
        over.set()

    threading.Thread(target=run, name="streamkit-transaction", daemon=True).start()
    if not over.wait(seconds):
        raise TimeoutError(f"no answer after {seconds:g} s")
    for failure in failed:
        raise failure
