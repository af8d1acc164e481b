"""Faust, on its own transport.

Large fetches and buffers, a commit a second, no web server, events decoded by msgspec instead of Faust's own models.
cramjam, without which aiokafka cannot read lz4. Log level `info`: `-l warn` sets the root logger to DEBUG. Counts of
`views` are kept in a plain dictionary, which is kinder than its tables; `agent` has a table, as StreamKit's has.
"""

from __future__ import annotations

from benchmarks.peers.peer import PythonPeer

PEERS = [
    PythonPeer(
        "faust", "Faust", "views: nothing; agent: table on a changelog, at least once", "faust",
        packages=("faust-streaming>=0.15.3,<0.16", "cramjam", "msgspec"),
        after=("worker", "-l", "info", "--without-web"),
        cannot={
            "unique": "not measured: an event at a time, a table's rate is that of the job agent",
            "heavy": "no distinct counts and no quantiles of its own",
        },
        slow=True,
    )
]  # fmt: skip
