"""Kafka Streams: KafkaStreamsJob.java, three times: at least once, exactly once with a commit each second and 100 ms.

Two stream threads, 64 MB of record cache, large fetches, lz4, a streaming JSON parser that reads four fields.
"""

from __future__ import annotations

from benchmarks.peers.peer import JavaPeer
from streamkit.broker.jars import KAFKA_VERSION

COORDINATES = f"org.apache.kafka:kafka-streams:{KAFKA_VERSION}+org.slf4j:slf4j-nop:1.7.36!"
SETTINGS = {
    "num.stream.threads": "2",
    "statestore.cache.max.bytes": str(64 << 20),
    "replication.factor": "1",
    "auto.offset.reset": "earliest",
    "main.consumer.max.poll.records": "10000",
    "main.consumer.max.partition.fetch.bytes": str(10 << 20),
    "main.consumer.fetch.max.bytes": str(50 << 20),
    "producer.compression.type": "lz4",
    "producer.linger.ms": "20",
    "producer.batch.size": str(256 << 10),
}
KEEPS = "state on a changelog and in RocksDB"


def _peer(name: str, title: str, often: str, guarantee: str, commit_ms: int) -> JavaPeer:
    settings = {**SETTINGS, "processing.guarantee": guarantee, "commit.interval.ms": str(commit_ms)}
    return JavaPeer(
        name, f"Kafka Streams, {title}", f"{KEEPS}, each {often}, {title.partition(',')[0]}", "KafkaStreamsJob",
        COORDINATES, flags=("-Xmx2g",), settings=settings,
        cannot={"heavy": "no distinct counts and no quantiles of its own"},
    )  # fmt: skip


PEERS = [
    _peer("kafka-streams", "at least once", "second", "at_least_once", 1_000),
    _peer("kafka-streams-1s", "exactly once, 1 s", "second", "exactly_once_v2", 1_000),
    _peer("kafka-streams-100ms", "exactly once, 100 ms", "100 ms", "exactly_once_v2", 100),
]
