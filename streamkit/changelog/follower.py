"""The Follower: makes copies of tasks from their changelogs, and keeps them up to date."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from streamkit.changelog.block import unpack
from streamkit.changelog.changelogs import Changelogs
from streamkit.changelog.changes import Changes
from streamkit.changelog.state import compaction_of, position_of, position_puts, store_write, unpack_mark, within
from streamkit.checkpoint import FORMAT_VERSION, MARK_KEY, Position, pack, position_key, task_prefix, task_range
from streamkit.errors import OffsetOutOfRange, StateError
from streamkit.log.base import Change, Log, Reader
from streamkit.record import Chunk, TopicPartition
from streamkit.store.base import Store, Write

logger = logging.getLogger(__name__)

STUCK_SECONDS = 45.0
"""A transaction that is open for so long, three times its timeout, is one that its coordinator has forgotten."""
RESTORE_RECORDS = 500
"""Records applied by one write while a copy is restored: Blocks of some thousand changes, or of a few."""


@dataclass(slots=True)
class _Copy:
    """One task that is followed: where to, and what waits for its Mark."""

    position: Position
    target: int
    began: int
    committed: bool
    changes: int = 0
    moved: float | None = field(default_factory=time.monotonic)
    """When the position was another one last; None once it was told that it stays."""
    waiting: dict[bytes, bytes | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restoring:
    """How far copies are: changelog offsets done of `total`, and the changes on them.

    `left` are the seconds that the rest takes at the rate so far; None where that is unknown.
    """

    tasks: int
    done: int
    total: int
    changes: int
    seconds: float
    left: float | None


class Follower:
    """Keeps a store's copies of tasks up to date. Killed at any moment, it goes on from what the store holds.

    Raises StateError where a changelog lacks records that it should have: no copy can be made of it.
    """

    def __init__(self, log: Log, changelogs: Changelogs, store: Store) -> None:
        self._log, self._changelogs, self._store = log, changelogs, store
        self._reader: Reader = log.reader({})
        self._copies: dict[TopicPartition, _Copy] = {}
        self._began = time.monotonic()

    def follow(self, tasks: Collection[TopicPartition], *, committed: bool = True) -> None:
        """Follow these, too. Each is restored first, to where its changelog ends now.

        `committed=False` is for a worker that takes a task over: it counts an open transaction of the worker before it
        as part of the log, so the copy is not restored until that one is decided. Without it: the old worker has sent
        its offsets in its transaction, is stopped for ten seconds before it commits, loses the partition; the new one
        restores what is committed and counts on; the old one wakes, and commits the same records a second time.
        """
        fresh = [task for task in tasks if task not in self._copies or self._is_outdated(task)]
        if not any(copy.position.whole is False for copy in self._copies.values()):
            self._began = time.monotonic()
        begin: dict[TopicPartition, int] = {}
        for topic in {task.topic for task in fresh}:
            # The start first: where a worker cuts the changelog between the two, reading says so.
            starts = self._changelogs.starts(topic)
            ends = self._changelogs.ends(topic, committed=committed)
            for task in (t for t in fresh if t.topic == topic):
                position = self._position(task, starts[task.partition])
                self._copies[task] = _Copy(position, ends[task.partition], position.offset, committed)
                begin[self._changelogs.of(task)] = position.offset
        self._reader.add(begin)
        for task in fresh:
            self._reach(task, self._copies[task], {}, self._copies[task].position.offset)

    def _is_outdated(self, task: TopicPartition) -> bool:
        """Was the changelog made anew, by a reset, since this copy follows it?"""
        return self._copies[task].position.changelog_id != self._changelogs.id(task.topic)

    def _position(self, task: TopicPartition, start: int) -> Position:
        """Where the copy goes on: not where its changelog was made anew, or begins after what the copy has followed."""
        changelog_id = self._changelogs.id(task.topic)
        position = position_of(self._store, task)
        if position is not None and position.changelog_id == changelog_id and position.offset >= start:
            return msgspec.structs.replace(position, whole=False)
        anew = Position(changelog_id, start, False, since=start)
        self._store.write(Write(puts=[(position_key(task), pack(anew))], ranges=[task_range(task)]))
        return anew

    def drop(self, tasks: Collection[TopicPartition]) -> None:
        """Follow these no more; their copies stay as they are."""
        self._reader.remove([self._changelogs.of(task) for task in tasks])
        for task in tasks:
            self._copies.pop(task, None)

    def following(self) -> frozenset[TopicPartition]:
        return frozenset(self._copies)

    def restored(self, task: TopicPartition) -> bool:
        return self._copies[task].position.whole

    def restoring(self) -> Restoring:
        copies = [c for c in self._copies.values() if not c.position.whole]
        done = sum(c.position.offset - c.began for c in copies)
        total = sum(c.target - c.began for c in copies)
        seconds = time.monotonic() - self._began
        changes = sum(c.changes for c in copies)
        return Restoring(len(copies), done, total, changes, seconds, seconds * (total - done) / done if done else None)

    def step(self, timeout: float = 0.0, max_records: int = RESTORE_RECORDS) -> int:
        """Read once and apply what came; returns the changes and Marks read."""
        if not self._copies:
            return 0
        try:
            chunks = self._reader.poll(max_records, timeout)
        except OffsetOutOfRange:
            if not self._begin_cut_off():
                raise
            chunks = self._reader.poll(max_records, timeout)
        positions = self._reader.positions()
        came: dict[TopicPartition, list[_Record]] = {}
        for chunk in chunks:
            task = self._changelogs.task_of(chunk.source)
            came.setdefault(task, []).extend(_records(task, chunk))
        for task, copy in self._copies.items():
            self._take(task, copy, came.get(task, []), positions[self._changelogs.of(task)])
            self._tell_if_stuck(task, copy)
        return sum(len(record.changes) for records in came.values() for record in records)

    def _tell_if_stuck(self, task: TopicPartition, copy: _Copy) -> None:
        """Kafka may lose a transaction's end (KIP-664): seen where a broker was killed while it wrote the markers."""
        if copy.position.whole or copy.moved is None or time.monotonic() - copy.moved < STUCK_SECONDS:
            return
        copy.moved = None
        changelog, offset = self._changelogs.of(task), copy.position.offset
        logger.warning(
            "the changelog of %s is to be restored to offset %d, and for %.0f s nothing that is committed has come "
            "after offset %d: a transaction is open there. The broker ends one when its worker is gone for 15 s; where "
            "it has forgotten it, somebody must: `kafka-transactions.sh --bootstrap-server BROKER abort --topic %s "
            "--partition %d --start-offset %d`",
            task, copy.target, STUCK_SECONDS, offset, changelog.topic, changelog.partition, offset,
        )  # fmt: skip

    def _begin_cut_off(self) -> bool:
        """Follow anew what a worker has cut off before this has read it; False where there is nothing of the kind."""
        positions = self._reader.positions()
        starts = {topic: self._changelogs.starts(topic) for topic in {task.topic for task in self._copies}}
        cut = [t for t in self._copies if positions[self._changelogs.of(t)] < starts[t.topic][t.partition]]
        before = {task: self._copies[task].committed for task in cut}
        self.drop(cut)
        for committed in (True, False):
            self.follow([task for task in cut if before[task] is committed], committed=committed)
        return bool(cut)

    def close(self) -> None:
        self._reader.close()

    def _take(self, task: TopicPartition, copy: _Copy, records: list[_Record], reached: int) -> None:
        if not copy.position.whole:
            inside = [record for record in records if record.offset < copy.target]
            records = records[len(inside) :]
            # Control records may follow the last record: `reached` is past them.
            offset = copy.target if records else min(copy.target, reached)
            self._reach(task, copy, _merged(inside), offset)
        begin = 0
        for at in (i for i, record in enumerate(records) if record.is_mark):
            copy.waiting.update(_merged(records[begin : at + 1]))
            waiting, copy.waiting, begin = copy.waiting, {}, at + 1
            self._apply(task, copy, waiting, records[at].offset + 1, whole=True)
        copy.waiting.update(_merged(records[begin:]))

    def _reach(self, task: TopicPartition, copy: _Copy, changes: dict[bytes, bytes | None], offset: int) -> None:
        """Restoring: apply what came, and see whether that was all."""
        copy.changes += len(changes)
        if changes or offset > copy.position.offset:
            self._apply(task, copy, changes, offset, whole=False)
        if offset >= copy.target:
            self._check(task, copy.position)
            self._apply(task, copy, {}, offset, whole=True)

    def _check(self, task: TopicPartition, position: Position) -> None:
        """Was all there that the copy is made of?"""
        compaction = compaction_of(self._store, task)
        wanted = 0 if compaction is None else compaction.start
        if position.since > wanted:
            raise StateError(
                f"the changelog of {task}, {self._changelogs.of(task)}, began at offset {position.since} when it was "
                f"read; its newest Checkpoint wants it from {wanted} on. Something else than StreamKit has deleted "
                f"records of it (has it been given a retention?), and no copy of the state can be made of the rest. "
                f"Stop the workers and begin anew, from the log's start: `streamkit reset TOPOLOGY`"
            )

    def _apply(
        self, task: TopicPartition, copy: _Copy, changes: dict[bytes, bytes | None], offset: int, *, whole: bool
    ) -> None:
        mark = changes.get(task_prefix(task) + MARK_KEY)
        marked = copy.position.time if mark is None else unpack_mark(mark, task).time
        position = msgspec.structs.replace(copy.position, offset=offset, whole=whole, time=marked)
        write = store_write({task: Changes(list(changes.items()))})
        self._store.begin(write).finish(position_puts({task: position}))
        if offset != copy.position.offset:
            copy.moved = time.monotonic()
        copy.position = position


class _Record(NamedTuple):
    """A record of a changelog: a Block's changes, or a Mark."""

    offset: int
    changes: Sequence[Change]
    is_mark: bool


def _records(task: TopicPartition, chunk: Chunk) -> Iterator[_Record]:
    """Raises StateError for what is neither a Block nor a Mark."""
    for offset, key, value in zip(chunk.offsets, chunk.keys, chunk.values, strict=True):
        if key == MARK_KEY:
            yield _Record(offset, within(task, [(key, value)]), True)
            continue
        try:
            yield _Record(offset, unpack(value or b""), False)
        except ValueError as error:
            raise StateError(
                f"the changelog of {task}: the record at {chunk.source} offset {offset} is {error}. It was written by "
                f"another version of StreamKit (this one reads format {FORMAT_VERSION}), or by something else: use the "
                f"version that wrote it; or stop the workers and begin anew: `streamkit reset TOPOLOGY`"
            ) from error


def _merged(records: Iterable[_Record]) -> dict[bytes, bytes | None]:
    """The last value of each key."""
    return {key: value for record in records for key, value in record.changes}
