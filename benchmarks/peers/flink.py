"""Flink SQL: FlinkJob.java, a mini cluster in one JVM.

Parallelism 2, mini-batches (1 s, 50,000 rows) with two-phase aggregation, state on the heap; without checkpoints, and
with one a second. SQL is the same from Python; Java starts it, and no Python is in the data's way then either.
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
CANNOT = {"agent": "no function with state per event in SQL"}


def _peer(name: str, title: str, keeps: str, **more: str) -> JavaPeer:
    settings = {**SETTINGS, **{setting.replace("_", "."): value for setting, value in more.items()}}
    flags = ("-Xmx4g", *OPENS)
    return JavaPeer(
        name, title, keeps, "FlinkJob", COORDINATES, flags=flags, newest=21, settings=settings, cannot=CANNOT
    )


PEERS = [
    _peer("flink", "Flink SQL", "nothing: on the heap, no checkpoints"),
    _peer("flink-1s", "Flink SQL, checkpoints", "state and offsets in files, each second, exactly once",
          execution_checkpointing_interval="1 s"),
]  # fmt: skip
