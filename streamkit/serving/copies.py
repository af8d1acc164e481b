"""Copies of tasks as readers see them: of each task the one that has followed its changelog furthest.

Any store will do: that of a worker on this machine, its standby, what a dead worker left, the reader's own replica. A
copy that is whole is some Checkpoint of its task, so each is right at its own offsets and the furthest is the newest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from streamkit.changelog.changelogs import Changelogs
from streamkit.changelog.state import has_format
from streamkit.checkpoint import Position, position_range, source_of
from streamkit.errors import StateMissing, TopicMissing
from streamkit.record import TopicPartition
from streamkit.store.base import StoreReader
from streamkit.store.rocksdb import RocksReader

_unpack_position = msgspec.msgpack.Decoder(Position).decode
_IDS_SECONDS = 1.0


class Copies:
    """Looks at several stores at once; what they show changes only by `refresh`."""

    def __init__(self, changelogs: Changelogs, stores: Callable[[], Iterable[StoreReader]]) -> None:
        """`stores` gives those that there are now; it is asked at each refresh."""
        self._changelogs, self._stores = changelogs, stores
        self._best: dict[TopicPartition, tuple[Position, StoreReader]] = {}
        self._asked = float("-inf")

    def refresh(self) -> None:
        if time.monotonic() - self._asked > _IDS_SECONDS:
            self._changelogs.renew()  # first: where the broker is away, the look before stays as it is
            self._asked = time.monotonic()
        self._best = {}
        for store in filter(has_format, self._stores()):
            for at, value in store.scan(*position_range()):
                task, position = source_of(at), _unpack_position(value)
                best = self._best.get(task)
                if self._counts(task, position) and (best is None or best[0].offset < position.offset):
                    self._best[task] = position, store

    def _counts(self, task: TopicPartition, position: Position) -> bool:
        """Is it a Checkpoint, and of the changelog that there is now?"""
        with suppress(TopicMissing):
            return position.whole and position.changelog_id == self._changelogs.id(task.topic)
        return False

    def of(self, task: TopicPartition) -> StoreReader | None:
        """The furthest copy of a task; None where there is none."""
        found = self._best.get(task)
        return None if found is None else found[1]

    def positions(self, topic: str) -> dict[int, Position]:
        """How far the copies of a topic's tasks are, by partition."""
        return {task.partition: found[0] for task, found in self._best.items() if task.topic == topic}


class LocalStores:
    """The stores in a data folder, opened as they come to be."""

    def __init__(self, paths: Callable[[], list[Path]]) -> None:
        self._paths = paths
        self._open: dict[Path, RocksReader] = {}

    def __call__(self) -> list[StoreReader]:
        """All that there are, each at its newest."""
        paths = self._paths()
        for path in [path for path in self._open if path not in paths]:
            self._open.pop(path).close()
        for path in paths:
            with suppress(StateMissing):  # gone meanwhile
                if path in self._open:
                    self._open[path].refresh()
                else:
                    self._open[path] = RocksReader(path)
        return [store for path, store in self._open.items() if path in paths]

    def close(self) -> None:
        for store in self._open.values():
            store.close()
