"""Checkpoints as they are written: a task's changes as Blocks on its changelog, then as one Write to the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import overload

import msgspec

from streamkit.changelog import block
from streamkit.changelog.changelogs import Changelogs
from streamkit.changelog.changes import Changes
from streamkit.changelog.compaction import Compaction
from streamkit.changelog.state import compaction_of, position_of, position_puts, store_write, within
from streamkit.checkpoint import (
    BLOCK_KEY,
    COMPACTION_KEY,
    FIRST_KEY,
    FORMAT_VERSION,
    MARK_KEY,
    Mark,
    Position,
    pack,
    task_prefix,
    task_range,
)
from streamkit.errors import LogError
from streamkit.log.base import Change
from streamkit.record import TopicPartition
from streamkit.store.base import Begun, Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Records(Sequence[Change]):
    """A Checkpoint of one task as it is on the changelog; each Block is made when it is asked for."""

    blocks: Sequence[bytes | block.Part]
    mark: bytes

    def __len__(self) -> int:
        return len(self.blocks) + 1

    @overload
    def __getitem__(self, at: int) -> Change: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Change]: ...
    def __getitem__(self, at: int | slice) -> Change | Sequence[Change]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        i = range(len(self))[at]
        return (MARK_KEY, self.mark) if i == len(self.blocks) else (BLOCK_KEY, bytes(self.blocks[i]))


@dataclass(frozen=True, slots=True)
class Entry:
    """One Checkpoint: its Write, and the Positions of the copies before it; records by changelog.

    `starts` are from where on changelogs have it all from now on, where that is another offset than before; `size` are
    the bytes of the changes.
    """

    time: int
    begun: Begun
    positions: Mapping[TopicPartition, Position]
    records: Mapping[TopicPartition, Records]
    starts: Mapping[TopicPartition, int]
    size: int


class Journal:
    """The changelogs and the store of a worker's tasks, which hold Checkpoint after Checkpoint in this order.

    The copies in the store are whole: the Follower has made them, and since then only this has changed them.
    """

    def __init__(self, changelogs: Changelogs, store: Store, worker: str) -> None:
        self._changelogs, self._store, self._worker = changelogs, store, worker
        self._cuts: dict[TopicPartition, int] = {}

    def entry(
        self, changes: Mapping[TopicPartition, Changes], grown: Mapping[TopicPartition, int], measured: bytes
    ) -> Entry:
        """Changes of tasks as they will be written; `grown` are the bytes among them that belong to new keys."""
        now = int(time.time() * 1000)
        written: dict[TopicPartition, Changes] = {}
        records: dict[TopicPartition, Records] = {}
        positions = {task: self._position(task) for task in changes}
        starts: dict[TopicPartition, int] = {}
        total = 0
        for i, task in enumerate(sorted(changes)):
            blocks = block.pack_all(changes[task])
            size = sum(map(len, blocks))
            before = compaction_of(self._store, task) or Compaction()
            end = positions[task].offset
            after, copies = before.advance(end, size, grown.get(task, 0), partial(self._entries, task))
            if after.start != before.start:
                starts[task] = after.start
            # One of the tasks has what was measured; its 2 KB for each would be most of the Mark.
            mark = pack(Mark(FORMAT_VERSION, now, self._worker, b"" if i else measured))
            compaction, marked = within(task, [(COMPACTION_KEY, pack(after)), (MARK_KEY, mark)])
            packed = [*block.pack(copies), *blocks, *block.pack([compaction])]
            records[self._changelogs.of(task)] = Records(packed, mark)
            written[task] = Changes([*changes[task].rows, compaction, marked], changes[task].packed)
            total += size
        return Entry(now, self._store.begin(store_write(written)), positions, records, starts, total)

    def write(self, entry: Entry, ends: Mapping[TopicPartition, int]) -> None:
        """To the store, once it is on the changelogs; `ends` are theirs."""
        positions = {}
        for task, before in entry.positions.items():
            end = ends[self._changelogs.of(task)]
            positions[task] = msgspec.structs.replace(before, offset=end, time=entry.time)
        entry.begun.finish(position_puts(positions))
        self._cuts.update(entry.starts)

    def cut(self) -> None:
        """Delete what of the changelogs was compacted. Nothing depends on it: the next time it is more."""
        cuts, self._cuts = self._cuts, {}
        for task, start in cuts.items():
            try:
                self._changelogs.cut(task, start)
            except LogError as error:
                logger.warning(
                    "changelog %s was compacted and stays as long as it is: %s. Where records of it may never be "
                    "deleted (a right that the worker's user needs), it grows for ever",
                    self._changelogs.of(task),
                    error,
                )

    def _position(self, task: TopicPartition) -> Position:
        position = position_of(self._store, task)
        assert position is not None
        return position

    def _entries(self, task: TopicPartition, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        """A task's state from a key on."""
        return self._store.scan(max(key, task_prefix(task) + FIRST_KEY), task_range(task)[1])
