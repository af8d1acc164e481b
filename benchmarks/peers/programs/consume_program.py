"""A ceiling: `Consumer.consume(10_000)` with the collector off, and nothing done with what comes."""

from __future__ import annotations

import gc

from confluent_kafka import Consumer, TopicPartition

from benchmarks.peers.task import Said, finish, told


def main() -> None:
    task = told()
    consumer = Consumer(
        {
            "bootstrap.servers": task.brokers,
            "group.id": task.group,
            "enable.auto.commit": False,
            "queued.min.messages": 1_000_000,
            "queued.max.messages.kbytes": 1_000_000,
            "fetch.max.bytes": 50 << 20,
            "max.partition.fetch.bytes": 10 << 20,
        }
    )
    consumer.assign([TopicPartition(task.topic, number, 0) for number in range(task.partitions)])
    gc.disable()
    said = Said(task.total)
    while not said.add(len(consumer.consume(10_000, 0.05))):
        continue
    finish(task, [])


if __name__ == "__main__":
    main()
