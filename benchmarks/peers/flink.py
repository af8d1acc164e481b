"""Flink SQL: FlinkJob.java, a mini cluster in one JVM.

Parallelism 2, mini-batches (1 s, 50,000 rows) with two-phase aggregation, state on the heap, no checkpoints. SQL is the
same from Python; Java starts it here because no Python is in the data's way then either.
"""

from __future__ import annotations

from benchmarks.peers.peer import JavaPeer

VERSION, CONNECTOR = "2.2.1", "5.0.0-2.2"
COORDINATES = "+".join(
    f"org.apache.flink:{artifact}:{version}!"
    for artifact, version in (
        ("flink-table-api-java-bridge", VERSION),
        ("flink-table-planner-loader", VERSION),
        ("flink-table-runtime", VERSION),
        ("flink-clients", VERSION),
        ("flink-json", VERSION),
        ("flink-connector-base", VERSION),
        ("flink-connector-kafka", CONNECTOR),
    )
) + "+org.slf4j:slf4j-nop:1.7.36!"  # fmt: skip
SETTINGS = {
    "parallelism.default": "2",
    "table.exec.mini-batch.enabled": "true",
    "table.exec.mini-batch.allow-latency": "1 s",
    "table.exec.mini-batch.size": "50000",
    "table.optimizer.agg-phase-strategy": "TWO_PHASE",
    "table.optimizer.distinct-agg.split.enabled": "true",
    "table.local-time-zone": "UTC",
    "pipeline.object-reuse": "true",
}
OPENS = [
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in ("java.lang", "java.util", "java.time", "java.nio", "java.net", "java.util.concurrent")
]
PEERS = [
    JavaPeer(
        "flink", "Flink SQL", "nothing: on the heap, no checkpoints", "FlinkJob", COORDINATES,
        flags=("-Xmx4g", *OPENS), newest=21, settings=SETTINGS,
        cannot={"agent": "no function with state per event in SQL"},
    )
]  # fmt: skip
