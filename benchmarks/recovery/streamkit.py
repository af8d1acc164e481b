"""StreamKit: a View that counts and sums per key, by `streamkit worker`, exactly once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

import streamkit
from benchmarks.process import launch
from benchmarks.recovery.load import Expected
from benchmarks.recovery.peer import COMMIT_SECONDS, Job, RecoveryError
from benchmarks.recovery.totals import Changelog, Integers, Tail
from streamkit.changelog.block import unpack
from streamkit.checkpoint import BLOCK_KEY, changelog_topic, states_range
from streamkit.speed.worker import group_of

SOURCE = Path(__file__).with_name("streamkit_count.py")
_KEY_BEFORE_WINDOW = slice(-48, -16)
"""Of a state's key: the 32 characters of the View's key, and after them the window."""


class StreamKit:
    """See `Peer`."""

    name = "streamkit"

    def __init__(self, job: Job) -> None:
        self._job = job
        self._topology = job.group.replace("-group", "")
        self.group, self.state_dir = group_of(self._topology), job.directory / "state"
        self._changelog = _States(job.brokers, changelog_topic(self._topology, job.topic), job.keys, decode)

    def prepare(self) -> None:
        """It is what this runs in."""
        self._job.directory.mkdir(parents=True, exist_ok=True)

    @property
    def version(self) -> str:
        return f"StreamKit {_version()}"

    def start(self, state_dir: Path) -> subprocess.Popen[bytes]:
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "streamkit",
            "worker",
            SOURCE,
            "--checkpoint",
            f"{COMMIT_SECONDS:g}s",
        ]
        root = str(Path(streamkit.__file__).parents[1])
        told = {"COUNT_TOPIC": self._job.topic, "COUNT_NAME": self._topology, "PYTHONPATH": root}
        return launch(command, self._job.directory, {
            **told, "STREAMKIT_BROKERS": self._job.brokers, "STREAMKIT_DATA": str(state_dir),
        })  # fmt: skip

    def check(self, expected: Expected) -> None:
        if wrong := self._changelog.wrong(expected):
            raise RecoveryError(f"{self.name}: {wrong}")


class _State(NamedTuple):
    """A change on the changelog as `totals` takes a record."""

    place: bytes
    state: bytes

    def key(self) -> bytes:
        return self.place[_KEY_BEFORE_WINDOW]

    def value(self) -> bytes:
        return self.state


class _StatesTail(Tail):
    """Only the View's states, out of their Blocks; Segments, offsets and Marks lie between them."""

    def read(self) -> Iterator[list[Any]]:
        states = states_range("totals")[0]
        for batch in super().read():
            blocks = [unpack(m.value() or b"") for m in batch if m.key() == BLOCK_KEY]
            kept = [_State(key, value) for block in blocks for key, value in block if value and states in key]
            if kept:
                yield kept


class _States(Changelog):
    def __init__(self, brokers: str, topic: str, keys: int, of: Any) -> None:
        super().__init__(brokers, topic, keys, of)
        self._tail = _StatesTail(brokers, topic)


def _version() -> str:
    """Of the installed distribution; where the tree is used as it is, its own."""
    try:
        return version("streamkit")
    except PackageNotFoundError:
        return "as in this tree"


def decode(values: Sequence[bytes]) -> Integers:
    """States of a count and a sum, as a View writes them.

    >>> decode([msgspec.msgpack.encode([1, 256])])
    array([[  1, 256]])
    """
    return np.array([msgspec.msgpack.decode(value) for value in values], np.int64).reshape(-1, 2)
