"""Reading a topic from start to end, once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from streamkit.log.base import Log
from streamkit.record import Record, TopicPartition, records_of


def read_all(log: Log, topic: str) -> Iterator[Record]:
    """All records of a topic up to its end as it is now, by partition and offset. Raises TopicMissing."""
    starts, ends = log.starts(topic), log.ends(topic)
    for partition, start in starts.items():
        source = TopicPartition(topic, partition)
        with closing(log.reader({source: start})) as reader:
            while reader.positions()[source] < ends[partition]:
                for chunk in reader.poll(10_000, 1.0):
                    yield from (r for r in records_of(chunk) if r.offset < ends[partition])
