"""Quix Streams: its own windows and state.

Defaults (at least once, RocksDB and a changelog), a commit a second, large queues in librdkafka, lz4 for the changelog.
"""

from __future__ import annotations

from benchmarks.peers.peer import PythonPeer

PEERS = [
    PythonPeer(
        "quix", "Quix Streams", "state on a changelog and in RocksDB, each second, at least once", "quix",
        packages=("quixstreams",),
        cannot={
            "unique": "not measured: an event at a time, as in views",
            "heavy": "no distinct counts and no quantiles of its own",
        },
        slow=True,
    )
]  # fmt: skip
