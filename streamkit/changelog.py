"""Changelogs: every Checkpoint as records, from which any copy of the state is made and kept up to date.

A changelog is the truth; a store is a copy of it. A worker writes its Checkpoint to the changelogs first and to its
store second, so a store may be one Checkpoint behind and never ahead. A worker that starts again, one that takes a
partition over, one whose disk is lost, a standby and a serving node all do the same thing: follow the changelog from
where their copy is. They differ in how far behind they are.

One worker at a time writes a changelog partition, in whole Checkpoints that each end with a Mark:

    being restored   everything up to where the log ended at the start is applied as it comes, in large batches, the
                     last value per key; until then the copy shows parts of many Checkpoints and is not `whole`
    followed         records wait for their Mark, so the copy is at every moment some Checkpoint
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from streamkit.checkpoint import (
    CHANGELOG_CONFIG,
    COPY_SECONDS,
    FORMAT_KEY,
    FORMAT_VERSION,
    MARK_KEY,
    Mark,
    Position,
    changelog_topic,
    pack,
    position_key,
    task_prefix,
    task_range,
)
from streamkit.errors import StateError, TopicChanged, TopicMissing
from streamkit.log.base import Change, Log, Reader, TopicInfo
from streamkit.record import Chunk, TopicPartition
from streamkit.store.base import Store, StoreReader, Write

_unpack_position = msgspec.msgpack.Decoder(Position).decode
_unpack_mark = msgspec.msgpack.Decoder(Mark).decode
_unpack_format = msgspec.msgpack.Decoder(list[Any]).decode
_NUMBER = 8

RESTORE_RECORDS = 200_000
"""Records applied by one write while a copy is restored."""


class Changelogs:
    """Where the changelogs of one topology's tasks are: one topic for each source topic, partition for partition."""

    def __init__(self, log: Log, topology: str) -> None:
        self._log, self._topology = log, topology
        self._prefix = changelog_topic(topology, "")
        self._ids: dict[str, str] = {}

    def make(self, topic: str, partitions: int, *, known: str = "") -> None:
        """Make the changelog of a source topic, or give it the partitions that it lacks.

        One that is `known` by its id is never made again. Raises TopicChanged where it is gone.
        """
        name = changelog_topic(self._topology, topic)
        self._ids |= {topic: known} if known else {}
        if topic in self._ids:
            info = self.check(topic)
        else:
            info = self._log.create(name, partitions=partitions, config=CHANGELOG_CONFIG)
        if info.partitions < partitions:
            info = self._log.grow(name, partitions)
        self._ids[topic] = info.id

    def check(self, topic: str) -> TopicInfo:
        """Is the changelog of a source topic still the one that it was? Raises TopicChanged."""
        known, info = self._ids[topic], None
        with suppress(TopicMissing):
            info = self._log.describe(changelog_topic(self._topology, topic))
        if info is None or info.id != known:
            now = "there is none now" if info is None else f"the one that is there now has id {info.id}"
            raise TopicChanged(
                f"the changelog of topic {topic!r}, {changelog_topic(self._topology, topic)} with id {known}, was "
                f"deleted, and not by `streamkit reset` ({now}). It was the truth of the state of topology "
                f"{self._topology!r}: nobody can tell whether a copy lacks some of it. Begin anew, from the log's "
                f"start: stop the workers, then `streamkit reset TOPOLOGY`"
            )
        return info

    def id(self, topic: str) -> str:
        """The id of a source topic's changelog; raises TopicMissing where there is none yet."""
        if topic not in self._ids:
            self._ids[topic] = self._log.describe(changelog_topic(self._topology, topic)).id
        return self._ids[topic]

    def renew(self) -> None:
        """As `forget`, at once: raises before anything has changed."""
        ids = {}
        for topic in self._ids:
            with suppress(TopicMissing):
                ids[topic] = self._log.describe(changelog_topic(self._topology, topic)).id
        self._ids = ids

    def forget(self) -> None:
        """Ask the broker anew: a reset makes changelogs with other ids."""
        self._ids = {}

    def of(self, task: TopicPartition) -> TopicPartition:
        return TopicPartition(changelog_topic(self._topology, task.topic), task.partition)

    def task_of(self, changelog: TopicPartition) -> TopicPartition:
        return TopicPartition(changelog.topic.removeprefix(self._prefix), changelog.partition)

    def ends(self, topic: str, *, committed: bool) -> dict[int, int]:
        return self._log.ends(changelog_topic(self._topology, topic), committed=committed)


def unpack_mark(value: bytes, task: TopicPartition) -> Mark:
    """The Mark at the end of a Checkpoint of a task. Raises StateError where its format is not this version's.

    A Checkpoint is applied together with its Mark, so nothing that cannot be read gets into a copy with it.
    """
    found = _unpack_format(value)[0]
    if found != FORMAT_VERSION:
        raise StateError(
            f"the changelog of {task} was written in format {found!r}, this version of StreamKit reads "
            f"{FORMAT_VERSION}: use the version that wrote it; or stop the workers and begin anew: "
            f"`streamkit reset TOPOLOGY`"
        )
    return _unpack_mark(value)


def has_format(store: Store | StoreReader) -> bool:
    """Can this version read the copies in a store? One without a format is new."""
    found = store.get([FORMAT_KEY])[0]
    return found is None or int.from_bytes(found, "big") == FORMAT_VERSION


def claim_format(store: Store, about: str) -> None:
    """Give a new store this version's format. Raises StateError where it has another; `about` says what lies there."""
    if not has_format(store):
        found = int.from_bytes(store.get([FORMAT_KEY])[0] or b"", "big")
        raise StateError(
            f"{about} has format {found}, this version of StreamKit reads {FORMAT_VERSION}: use the version that wrote "
            f"it; or stop the workers and begin anew: `streamkit reset TOPOLOGY`"
        )
    store.write(Write(puts=[(FORMAT_KEY, FORMAT_VERSION.to_bytes(_NUMBER, "big"))]))


def store_write(
    changes: Mapping[TopicPartition, Sequence[Change]], positions: Mapping[TopicPartition, Position]
) -> Write:
    """The Write that makes a store's copies of tasks what a Checkpoint made of them."""
    puts: list[tuple[bytes, bytes]] = [(position_key(task), pack(position)) for task, position in positions.items()]
    deletes: list[bytes] = []
    for task, changed in changes.items():
        prefix = task_prefix(task)
        puts += ((prefix + key, value) for key, value in changed if value is not None)
        deletes += (prefix + key for key, value in changed if value is None)
    return Write(puts=puts, deletes=deletes)


def position_of(store: Store | StoreReader, task: TopicPartition) -> Position | None:
    found = store.get([position_key(task)])[0]
    return None if found is None else _unpack_position(found)


def usable(position: Position | None, changelog_id: str, now: float) -> bool:
    """Can a copy go on from here? Not where its changelog was made anew, or where it may have missed tombstones."""
    if position is None or position.changelog_id != changelog_id:
        return False
    return abs(now - position.time / 1000) < COPY_SECONDS or position.time == 0


@dataclass(slots=True)
class _Copy:
    """One task that is followed: where to, and what waits for its Mark."""

    position: Position
    target: int
    began: int
    waiting: dict[bytes, bytes | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restoring:
    """How far copies are: changelog offsets done of `total`, and seconds left at the rate so far (None: unknown)."""

    tasks: int
    done: int
    total: int
    seconds: float
    left: float | None


class Follower:
    """Keeps a store's copies of tasks up to date. Killed at any moment, it goes on from what the store holds."""

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
        starts: dict[TopicPartition, int] = {}
        for topic in {task.topic for task in fresh}:
            ends = self._changelogs.ends(topic, committed=committed)
            for task in (t for t in fresh if t.topic == topic):
                position = self._position(task)
                self._copies[task] = _Copy(position, ends[task.partition], position.offset)
                starts[self._changelogs.of(task)] = position.offset
        self._reader.add(starts)
        for task in fresh:
            self._reach(task, self._copies[task], {}, self._copies[task].position.offset)

    def _is_outdated(self, task: TopicPartition) -> bool:
        """Was the changelog made anew, by a reset, since this copy follows it?"""
        return self._copies[task].position.changelog_id != self._changelogs.id(task.topic)

    def _position(self, task: TopicPartition) -> Position:
        changelog_id = self._changelogs.id(task.topic)
        position = position_of(self._store, task)
        if position is not None and usable(position, changelog_id, time.time()):
            return msgspec.structs.replace(position, whole=False)
        anew = Position(changelog_id, 0, False)
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
        return Restoring(len(copies), done, total, seconds, seconds * (total - done) / done if done else None)

    def step(self, timeout: float = 0.0, max_records: int = RESTORE_RECORDS) -> int:
        """Read once and apply what came; returns the records read."""
        if not self._copies:
            return 0
        chunks = self._reader.poll(max_records, timeout)
        positions = self._reader.positions()
        came: dict[TopicPartition, list[Chunk]] = {}
        for chunk in chunks:
            came.setdefault(self._changelogs.task_of(chunk.source), []).append(chunk)
        for task, copy in self._copies.items():
            self._take(task, copy, came.get(task, []), positions[self._changelogs.of(task)])
        return sum(map(len, chunks))

    def close(self) -> None:
        self._reader.close()

    def _take(self, task: TopicPartition, copy: _Copy, chunks: list[Chunk], reached: int) -> None:
        for chunk in chunks:
            if copy.position.whole:
                self._follow(task, copy, chunk.keys, chunk.values, chunk.offsets)
                continue
            inside = sum(offset < copy.target for offset in chunk.offsets)
            # Control records may follow the last record: `reached` is past them.
            offset = reached if chunk is chunks[-1] else chunk.offsets[-1] + 1
            self._reach(task, copy, _changes(chunk.keys[:inside], chunk.values[:inside]), min(copy.target, offset))
            if inside < len(chunk):
                rest = slice(inside, None)
                self._follow(task, copy, chunk.keys[rest], chunk.values[rest], chunk.offsets[rest])
        if not copy.position.whole and reached > copy.position.offset:
            self._reach(task, copy, {}, min(copy.target, reached))

    def _reach(self, task: TopicPartition, copy: _Copy, changes: dict[bytes, bytes | None], offset: int) -> None:
        """Restoring: apply what came, and see whether that was all."""
        whole = offset >= copy.target
        if whole or changes or offset > copy.position.offset:
            self._apply(task, copy, changes, offset, whole=whole)

    def _follow(
        self,
        task: TopicPartition,
        copy: _Copy,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        offsets: Sequence[int],
    ) -> None:
        begin = 0
        for at in (i for i, key in enumerate(keys) if key == MARK_KEY):
            copy.waiting.update(_changes(keys[begin : at + 1], values[begin : at + 1]))
            waiting, copy.waiting, begin = copy.waiting, {}, at + 1
            self._apply(task, copy, waiting, offsets[at] + 1, whole=True)
        copy.waiting.update(_changes(keys[begin:], values[begin:]))

    def _apply(
        self, task: TopicPartition, copy: _Copy, changes: dict[bytes, bytes | None], offset: int, *, whole: bool
    ) -> None:
        mark = changes.get(MARK_KEY)
        marked = copy.position.time if mark is None else unpack_mark(mark, task).time
        position = Position(copy.position.changelog_id, offset, whole, marked)
        self._store.write(store_write({task: list(changes.items())}, {task: position}))
        copy.position = position


def _changes(keys: Iterable[bytes | None], values: Iterable[bytes | None]) -> dict[bytes, bytes | None]:
    return dict(zip((key or b"" for key in keys), values, strict=True))


def existing(log: Log, topology: str, topics: Iterable[str]) -> dict[str, int]:
    """Source topics that have a changelog, and how many partitions it has."""
    found = {}
    for topic in topics:
        try:
            found[topic] = log.describe(changelog_topic(topology, topic)).partitions
        except TopicMissing:
            continue
    return found
