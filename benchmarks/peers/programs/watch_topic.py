"""Reads a peer's results from their topic, of transactions only what is committed; says when each probe was there."""

from __future__ import annotations

import json
import sys
import time

from confluent_kafka import Consumer, TopicPartition

from benchmarks.peers.rate import probe_of


def main(brokers: str, topic: str) -> None:
    consumer = Consumer(
        {"bootstrap.servers": brokers, "group.id": topic, "enable.auto.commit": False, "fetch.wait.max.ms": 5}
    )
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    seen: set[int] = set()
    while True:
        message = consumer.poll(1.0)
        if message is None or message.error():
            continue
        probe = probe_of(message.key() or b"")
        if probe is not None and probe not in seen:
            seen.add(probe)
            print(json.dumps({"probe": probe, "at": time.monotonic_ns()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
