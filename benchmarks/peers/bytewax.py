"""Bytewax: two worker threads, batches of 10,000 messages, decoded by msgspec a batch at a time.

Counts by `stateful_batch`, the operator that its documentation names for speed (its windows call Python for every
event), `stateful_map` for the other jobs. No recovery store, so that nothing is kept.
"""

from __future__ import annotations

from benchmarks.peers.peer import PythonPeer

PEERS = [
    PythonPeer(
        "bytewax", "Bytewax", "nothing: in memory, no recovery store", "bytewax",
        packages=("bytewax[kafka]", "msgspec"),
        arguments=("-m", "bytewax.run"),
        after=("-w", "2"),
        cannot={"heavy": "no distinct counts and no quantiles of its own"},
    )
]  # fmt: skip
