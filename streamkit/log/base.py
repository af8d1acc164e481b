"""The log port: what the layers need of Kafka, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from streamkit.record import Chunk, Headers, TopicPartition


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as the broker has it. `id` tells a topic from a later one of the same name (KIP-516)."""

    name: str
    id: str
    partitions: int


@dataclass(frozen=True, slots=True)
class Look:
    """A topic, and the offset after the last committed record of each of its partitions."""

    topic: TopicInfo
    ends: Mapping[int, int]


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

    def add(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read these partitions, too. Raises as `Log.reader` does."""

    def remove(self, sources: Collection[TopicPartition]) -> None:
        """Read these partitions no more; those that are not read are ignored."""

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
        """Return when every record sent is on the log; raises for the first that is not.

        DeliveryFailed where it was refused, BrokerUnreachable where nobody took it in a minute.
        """

    def close(self) -> None: ...


Change = tuple[bytes, bytes | None]
"""A changelog record: key and value; None deletes."""


class GroupListener(Protocol):
    """What a member of a consumer group is told, in the thread that polls."""

    def assigned(self, sources: Collection[TopicPartition]) -> None:
        """These are now this member's own."""

    def revoked(self, sources: Collection[TopicPartition]) -> None:
        """These are asked back; they stay this member's own, and nobody else's, until this returns."""

    def lost(self, sources: Collection[TopicPartition]) -> None:
        """These may be somebody else's already: nothing of them may be committed any more."""


class Member(Protocol):
    """Membership in a consumer group (KIP-848): who reads which partition. It fetches nothing itself."""

    @property
    def id(self) -> str:
        """The broker's id for it, as in `Log.members`; it may be another one after `lost`."""

    def poll(self, timeout: float = 0.0) -> None:
        """Tell the listener what has changed; waits up to `timeout` seconds for something to change.

        Raises what the listener raised, TopicMissing, BrokerUnreachable (refused; while brokers restart it waits).
        """

    def owned(self) -> frozenset[TopicPartition]:
        """What this member has been told is its own."""

    def leave(self) -> None:
        """Give everything back (the listener hears `revoked`) and leave the group at once. May be called again."""


class Committer(Protocol):
    """Puts all that belongs to one Checkpoint on the log: together, or, without a transactional id, in order."""

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
        """Add one record to the next `commit`; as `Writer.send`. Any thread may call it.

        With a transactional id the record is held until then; without one it may be on the log at once.
        """

    def held(self) -> int:
        """Bytes that are held for the next `commit`."""

    def commit(
        self,
        changes: Mapping[TopicPartition, Sequence[Change]],
        offsets: Mapping[TopicPartition, int],
        member: Member,
    ) -> dict[TopicPartition, int]:
        """Make durable, all or nothing: what was sent, `changes` by changelog partition, and the group's `offsets`.

        Returns for each partition that has changes the offset after its last record. With a transactional id it is one
        transaction: all records are acknowledged before the offsets are sent, and those are refused unless `member`
        is still of the group (KIP-447). Raises Fenced where it is not, where a partition of `offsets` is not its own,
        or where another process has the transactional id; DeliveryFailed, BrokerUnreachable. What was sent is then
        still held: `discard` it, or commit again.
        """

    def discard(self) -> None:
        """Forget what was sent since the last `commit`."""

    def close(self) -> None:
        """Let go; what is held is dropped."""


class Log(Protocol):
    """A Kafka cluster, or its stand-in in memory."""

    def describe(self, topic: str) -> TopicInfo:
        """Raises TopicMissing, BrokerUnreachable."""

    def topics(self) -> list[str]:
        """Names of all topics that are not Kafka's own, sorted."""

    def create(self, topic: str, *, partitions: int, config: Mapping[str, str] | None = None) -> TopicInfo:
        """Make the topic, or return it as it is where it exists already (whatever its partitions)."""

    def grow(self, topic: str, partitions: int) -> TopicInfo:
        """Give the topic more partitions; one that has as many already is left as it is. Raises TopicMissing."""

    def delete(self, topic: str) -> None:
        """Delete the topic; raises TopicMissing."""

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Delete each partition's records below an offset, as retention does. Raises OffsetOutOfRange past the end."""

    def starts(self, topic: str) -> dict[int, int]:
        """The first offset of each partition that is still there."""

    def ends(self, topic: str, *, committed: bool = True) -> dict[int, int]:
        """The offset after the last committed record of each partition (the last stable offset).

        With `committed=False` the high watermark: the end of open transactions, too.
        """

    def look(self, topics: Collection[str]) -> dict[str, Look]:
        """As `describe` and `ends` of several topics, asked all at once; those that are missing are left out.

        Raises BrokerUnreachable.
        """

    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader:
        """A Reader from these offsets. Raises TopicMissing, TopicChanged (no such partition), BrokerUnreachable."""

    def writer(self) -> Writer:
        """Raises BrokerUnreachable."""

    def join(self, group: str, topics: Collection[str], listener: GroupListener, *, name: str = "streamkit") -> Member:
        """Become a member of `group`, which shares out the partitions of `topics`; `name` is what tools show.

        Returns at once; the first `poll`s tell what is assigned. Raises TopicMissing, BrokerUnreachable.
        """

    def members(self, group: str) -> dict[str, frozenset[TopicPartition]]:
        """The group's live members by the broker's id for them, and what each owns; empty where there is no group."""

    def group_offsets(self, group: str) -> dict[TopicPartition, int]:
        """The offsets that members of the group have committed; empty where there is no group."""

    def committer(self, transactional_id: str | None = None) -> Committer:
        """A Committer; with an id, a transaction that another process with this id has left open is aborted first.

        Raises BrokerUnreachable.
        """

    def close(self) -> None: ...
