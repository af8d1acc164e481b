"""StreamKit, twice: exactly once, and at least once; a Checkpoint a second. Its defaults, nothing else is set."""

from __future__ import annotations

from benchmarks.peers.peer import PythonPeer

KEEPS = "state on a changelog and in RocksDB, each second"
PEERS = [
    PythonPeer(
        "streamkit", "StreamKit, exactly once", f"{KEEPS}, exactly once", "streamkit",
        settings={"guarantee": "exactly_once"},
    ),
    PythonPeer(
        "streamkit-at-least-once", "StreamKit, at least once", f"{KEEPS}, at least once", "streamkit",
        settings={"guarantee": "at_least_once"},
    ),
]  # fmt: skip
