"""Consumer groups and transactions of the log in memory, as Kafka has them (KIP-848, KIP-447)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from streamkit.errors import DeliveryFailed, Fenced, LogError
from streamkit.log.base import Change, GroupListener, Member
from streamkit.record import Headers, TopicPartition

if TYPE_CHECKING:
    from streamkit.log.memory import MemoryLog


class Group:
    """A group's coordinator. A partition goes to its new member only when the old one has given it back."""

    def __init__(self) -> None:
        self.members: list[MemoryMember] = []
        self.holders: dict[TopicPartition, MemoryMember] = {}
        self._numbers = itertools.count(1)

    def enter(self, member: MemoryMember) -> str:
        self.members.append(member)
        return f"{member.name}-{next(self._numbers)}"

    def drop(self, member: MemoryMember) -> None:
        if member in self.members:
            self.members.remove(member)
        for source in [s for s, holder in self.holders.items() if holder is member]:
            del self.holders[source]

    def targets(self, partitions: Collection[TopicPartition]) -> dict[MemoryMember, set[TopicPartition]]:
        """Who is to have what: as even as can be, moving as little as can be."""
        targets: dict[MemoryMember, set[TopicPartition]] = {member: set() for member in self.members}
        share, rest = divmod(len(partitions), len(self.members))
        room = {member: share + (1 if i < rest else 0) for i, member in enumerate(self.members)}
        free = []
        for source in sorted(partitions):
            holder = self.holders.get(source)
            if holder in targets and len(targets[holder]) < room[holder]:
                targets[holder].add(source)
            else:
                free.append(source)
        for source in free:
            targets[min(self.members, key=lambda m: len(targets[m]) - room[m])].add(source)
        return targets

    def members_and_holds(self) -> dict[str, frozenset[TopicPartition]]:
        return {
            member.id: frozenset(s for s, holder in self.holders.items() if holder is member) for member in self.members
        }


class MemoryMember:
    """A Member of a group of a MemoryLog."""

    def __init__(
        self, log: MemoryLog, group: Group, topics: frozenset[str], listener: GroupListener, name: str
    ) -> None:
        self.group, self.name = group, name
        self._log, self._topics, self._listener = log, topics, listener
        self._owned: set[TopicPartition] = set()
        self._left = False
        self.id = group.enter(self)

    def poll(self, timeout: float = 0.0) -> None:
        if self._left:
            raise LogError(f"member {self.id} has left its group")
        deadline = time.monotonic() + timeout
        while not self._settle() and (left := deadline - time.monotonic()) > 0:
            with self._log._changed:
                self._log._changed.wait(min(left, 0.01))

    def owned(self) -> frozenset[TopicPartition]:
        return frozenset(self._owned)

    def leave(self) -> None:
        if self._left:
            return
        self._left = True
        try:
            if self.is_in() and self._owned:
                self._listener.revoked(frozenset(self._owned))
            elif self._owned:
                self._listener.lost(frozenset(self._owned))
        finally:
            self._owned = set()
            with self._log._changed:
                self.group.drop(self)

    def is_in(self) -> bool:
        return self in self.group.members

    def _settle(self) -> bool:
        """Do what the coordinator asks for; False where there was nothing to do."""
        if not self.is_in():
            lost, self._owned = frozenset(self._owned), set()
            with self._log._changed:
                self.id = self.group.enter(self)
            if lost:
                self._listener.lost(lost)
            return True
        mine = self._target()
        revoked = frozenset(self._owned - mine)
        if revoked:
            self._listener.revoked(revoked)
            self._owned -= revoked
            with self._log._changed:
                for source in revoked:
                    self.group.holders.pop(source, None)
            return True
        with self._log._changed:
            fresh = frozenset(s for s in mine - self._owned if s not in self.group.holders)
            self.group.holders.update(dict.fromkeys(fresh, self))
        self._owned |= fresh
        if fresh:
            self._listener.assigned(fresh)
        return bool(fresh)

    def _target(self) -> set[TopicPartition]:
        with self._log._changed:
            partitions = [
                TopicPartition(topic, number)
                for topic in self._topics
                if topic in self._log._topics
                for number in range(len(self._log._topics[topic].partitions))
            ]
            return self.group.targets(partitions)[self]


class _Held(NamedTuple):
    topic: str
    value: bytes | None
    key: bytes | None
    timestamp: int | None
    headers: Headers
    partition: int | None


class MemoryCommitter:
    """A Committer on a MemoryLog: a transaction is there whole, with its control records, or not at all."""

    def __init__(self, log: MemoryLog, transactional_id: str | None) -> None:
        self._log, self._id = log, transactional_id
        self._held: list[_Held] = []
        self._failure: DeliveryFailed | None = None
        if transactional_id is not None:
            log._transactional[transactional_id] = self

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
        record = _Held(topic, value, key, timestamp, headers, partition)
        if self._id is not None:
            self._held.append(record)
            return
        try:
            self._log._append(*record)
        except LogError as error:
            self._failure = self._failure or _refused(topic, error)

    def held(self) -> int:
        return sum(len(record.value or b"") + len(record.key or b"") for record in self._held)

    def commit(
        self,
        changes: Mapping[TopicPartition, Sequence[Change]],
        offsets: Mapping[TopicPartition, int],
        member: Member,
    ) -> dict[TopicPartition, int]:
        assert isinstance(member, MemoryMember)
        with self._log._changed:
            if self._id is not None:
                self._check_fence(member, offsets)
            self._check_records(changes)
            touched = {self._log._append(*record) for record in self._held}
            self._held = []
            ends = {}
            for source, records in changes.items():
                for key, value in records:
                    self._log._append(source.topic, value, key, partition=source.partition)
                    ends[source] = self._log._partition(source).end
            if self._id is not None:
                for source in touched | {s for s, records in changes.items() if records}:
                    self._log.gap(*source)
            self._log.committed.setdefault(_name_of(self._log, member.group), {}).update(offsets)
            return ends

    def discard(self) -> None:
        self._held = []

    def close(self) -> None:
        self.discard()

    def _check_fence(self, member: MemoryMember, offsets: Collection[TopicPartition]) -> None:
        if self._log._transactional[self._id or ""] is not self:
            raise Fenced(f"transactional id {self._id} is another process's by now")
        if not member.is_in():
            raise Fenced(f"member {member.id} is of its group no more")
        foreign = sorted(set(offsets) - member.owned())
        if foreign:
            raise Fenced(f"member {member.id}: {', '.join(map(str, foreign))} not this member's own")

    def _check_records(self, changes: Mapping[TopicPartition, Sequence[Change]]) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        for record in self._held:
            self._check(record.topic, record.value, record.key)
        for source, records in changes.items():
            self._log._partition(source)
            for key, value in records:
                self._check(source.topic, value, key)

    def _check(self, topic: str, value: bytes | None, key: bytes | None) -> None:
        try:
            self._log._check_size(topic, value, key)
        except LogError as error:
            raise _refused(topic, error) from None


def _refused(topic: str, error: LogError) -> DeliveryFailed:
    return DeliveryFailed(f"a record for topic {topic} was refused: {error}")


def _name_of(log: MemoryLog, group: Group) -> str:
    return next(name for name, found in log._groups.items() if found is group)
