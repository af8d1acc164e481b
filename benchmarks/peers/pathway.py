"""Pathway: two threads, a commit a second, large queues in librdkafka. No persistence, so that nothing is kept."""

from __future__ import annotations

from benchmarks.peers.peer import PythonPeer

PEERS = [
    PythonPeer(
        "pathway", "Pathway", "nothing: in memory, no persistence", "pathway",
        packages=("pathway",),
        environment={"PATHWAY_THREADS": "2"},
        cannot={
            "heavy": "no distinct counts and no quantiles of its own",
            "agent": "no function with state per event: its reducers are called when a group changes",
        },
    )
]  # fmt: skip
