"""The log port: what the layers need of Kafka, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from streamkit.record import Chunk, Headers, TopicPartition


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as the broker has it. `id` tells a topic from a later one of the same name (KIP-516)."""

    name: str
    id: str
    partitions: int


class Reader(Protocol):
    """Reads assigned partitions from given offsets; sees only committed records."""

    def poll(self, max_records: int, timeout: float) -> list[Chunk]:
        """Records that are there, at most `max_records`; waits up to `timeout` seconds for the first one only.

        Returns early, with nothing, when only positions moved: past control records at a partition's end.

        Raises OffsetOutOfRange where a position no longer exists, TopicMissing, BrokerUnreachable.
        """

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset of each partition: all below it was returned by `poll` or is no data (control records)."""

    def seek(self, source: TopicPartition, offset: int) -> None:
        """Go on from `offset`; records already buffered are dropped."""

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Tell the broker the group's positions, for lag tools only: the truth is in the Store."""

    def close(self) -> None: ...


class Writer(Protocol):
    """Sends records; buffers until `flush`."""

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        timestamp: int | None = None,
        headers: Headers = (),
        partition: int | None = None,
    ) -> None:
        """Queue one record; blocks while the buffer is full.

        Without `partition`, by the key's murmur2 hash as Java's client does. A `timestamp` of None or 0 is now.
        What the broker refuses is told by `flush`, never here.
        """

    def flush(self) -> None:
        """Return when every record sent is on the log; raises DeliveryFailed for the first that is not."""

    def close(self) -> None: ...


class Log(Protocol):
    """A Kafka cluster, or its stand-in in memory."""

    def describe(self, topic: str) -> TopicInfo:
        """Raises TopicMissing, BrokerUnreachable."""

    def topics(self) -> list[str]:
        """Names of all topics that are not Kafka's own, sorted."""

    def create(self, topic: str, *, partitions: int, config: Mapping[str, str] | None = None) -> TopicInfo:
        """Make the topic, or return it as it is where it exists already (whatever its partitions)."""

    def delete(self, topic: str) -> None:
        """Delete the topic; raises TopicMissing."""

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Delete each partition's records below an offset, as retention does. Raises OffsetOutOfRange past the end."""

    def starts(self, topic: str) -> dict[int, int]:
        """The first offset of each partition that is still there."""

    def ends(self, topic: str) -> dict[int, int]:
        """The offset after the last committed record of each partition (the last stable offset)."""

    def reader(self, positions: Mapping[TopicPartition, int], *, group: str | None = None) -> Reader:
        """A Reader from these offsets. Raises TopicMissing, TopicChanged (no such partition), BrokerUnreachable."""

    def writer(self) -> Writer:
        """Raises BrokerUnreachable."""

    def close(self) -> None: ...
