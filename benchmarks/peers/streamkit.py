"""StreamKit, a Checkpoint a second and its defaults: exactly once by one worker and by two, and at least once."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers.peer import PythonPeer
from streamkit.native.loader import loader


@dataclass
class StreamKit(PythonPeer):
    """Its loops are compiled before the rounds, as the others' Java is."""

    def prepare(self) -> None:
        super().prepare()
        loader.load()


KEEPS = "state on a changelog and in RocksDB, each second"
PEERS = [
    StreamKit(
        "streamkit", "StreamKit, exactly once", f"{KEEPS}, exactly once", "streamkit",
        settings={"guarantee": "exactly_once"},
    ),
    StreamKit(
        "streamkit-2", "StreamKit, exactly once, 2 workers", f"{KEEPS}, exactly once", "streamkit",
        settings={"guarantee": "exactly_once", "workers": "2"},
    ),
    StreamKit(
        "streamkit-at-least-once", "StreamKit, at least once", f"{KEEPS}, at least once", "streamkit",
        settings={"guarantee": "at_least_once"},
    ),
]  # fmt: skip
