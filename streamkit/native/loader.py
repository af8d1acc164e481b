"""Loads the compiled loops, once it is worth it.

Loading them takes 0.7 s and 120 MB, most of it numba; compiling them 4 s, once on a machine (numba keeps what it made
beside the source, or in the user's cache directory). So nothing of it happens before somebody reads in bulk, and while
they are compiled work goes on, an object a record.
"""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_LOOPS = ("scan", "messages", "batches", "rows", "order", "sorted")
_MODULES = (*(f"streamkit.native.{name}" for name in _LOOPS), "pyarrow")
SWITCH = "STREAMKIT_COLUMNS"
"""Environment: `off` for an object a record always, `on` to load the loops at the first record; else under load."""


@dataclass(frozen=True)
class Loops:
    """The compiled modules, and pyarrow, by which what they make becomes columns."""

    scan: Any
    messages: Any
    batches: Any
    rows: Any
    order: Any
    sorted: Any
    arrow: Any


class Loader:
    """One a process: `loader`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._compiling = threading.Thread(target=_compile_elsewhere, name="streamkit-loops", daemon=True)
        self._loops: Loops | None = None
        self.failure: str | None = None
        """Why there are none, and there will be none."""

    @property
    def wanted(self) -> str:
        return os.environ.get(SWITCH, "auto")

    def loops(self) -> Loops | None:
        """The loops, if they are there."""
        return None if self.wanted == "off" else self._loops

    def ready(self) -> Loops | None:
        """Have them, if it is a matter of a second; else begin to compile them in the background, and None for now.

        In the thread that asks, which is to stop for that second: beside one that holds the interpreter's lock most of
        the time, importing numba would take several, and slow that one down for as long.
        """
        if self._loops is None and self.failure is None and self.wanted != "off":
            self._compile()
            if not self._compiling.is_alive():
                self._load()
        return self.loops()

    def load(self) -> Loops | None:
        """Wait for them; None where they cannot be: see `failure`."""
        if self._loops is None and self.failure is None and self.wanted != "off":
            self._compile()
            self._compiling.join()
            self._load()
        return self.loops()

    def _compile(self) -> None:
        with self._lock:
            if self._compiling.ident is None:
                self._compiling.start()

    def give_up(self, reason: str) -> None:
        """They cannot be used here: told once."""
        if self.failure is None:
            self.failure = reason
            self._loops = None
            logger.warning(
                "the columnar path is off, records are read an object each, which is some times slower: %s. "
                "`pip install 'streamkit[columns]'` brings what it needs; %s=off says that this is meant",
                reason, SWITCH,
            )  # fmt: skip

    def _load(self) -> None:
        try:
            self._loops = Loops(*map(importlib.import_module, _MODULES))
        except Exception as error:  # whatever numba, LLVM or the cache directory come up with: the plain path is there
            self.give_up(f"{type(error).__name__}: {error}".splitlines()[0])


def _compile_elsewhere() -> None:
    """Fill numba's cache where it is empty, in a process of its own: here it would hold the interpreter's lock for 4 s.

    What goes wrong there goes wrong here next, and is told then.
    """
    if all(any(Path(__file__).parent.glob(f"__pycache__/{name}.*.nbi")) for name in _LOOPS):
        return
    command = [sys.executable, "-c", f"import {', '.join(_MODULES)}"]
    nothing = subprocess.DEVNULL
    with suppress(OSError):
        subprocess.run(command, stdin=nothing, stdout=nothing, stderr=nothing, check=False)


loader = Loader()
