"""Tables in the speed layer: values kept in memory as they are used, made durable by the worker's Checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamkit.checkpoint import table_key, task_prefix
from streamkit.errors import StreamkitError
from streamkit.log.base import Change
from streamkit.record import TopicPartition
from streamkit.speed.events import current_event
from streamkit.store.base import Store
from streamkit.table import Table

_KEPT = 100_000
"""Values that stay in memory between Checkpoints."""

At = tuple[TopicPartition, bytes]
"""A task and a key on its changelog."""


class TableTask:
    """The backend of a running Topology's Tables.

    `task_of` says whose Table the event of a partition uses: events that are replayed to an agent use that of the
    partition they came from. Only agents touch it, and a Checkpoint comes when every agent has acknowledged all its
    events: no value can change between `prepare` and `done`.
    """

    def __init__(self, store: Store, task_of: Callable[[TopicPartition], TopicPartition]) -> None:
        self._store, self._task_of = store, task_of
        self._values: dict[At, Any] = {}
        self._changed: dict[At, Table] = {}

    def get(self, table: Table, key: Any) -> Any:
        at = self._at(table, key)
        if at not in self._values:
            found = self._store.get([task_prefix(at[0]) + at[1]])[0]
            self._values[at] = None if found is None else table.load(found)
        return self._values[at]

    def put(self, table: Table, key: Any, value: Any) -> None:
        if value is None:
            raise ValueError(f"table {table.name!r}: a value cannot be None; delete the key: del table[{key!r}]")
        at = self._at(table, key)
        self._values[at] = value
        self._changed[at] = table

    def delete(self, table: Table, key: Any) -> None:
        at = self._at(table, key)
        self._values[at] = None
        self._changed[at] = table

    def prepare(self) -> dict[TopicPartition, list[Change]]:
        """What makes every change durable, by task."""
        changes: dict[TopicPartition, list[Change]] = {}
        for (task, key), table in self._changed.items():
            value = self._values[task, key]
            changes.setdefault(task, []).append((key, None if value is None else table.dump(value)))
        return changes

    def done(self) -> None:
        """The changes are durable, and in the Store."""
        self._changed = {}
        if len(self._values) > _KEPT:
            self._values = {}

    def close(self, task: TopicPartition) -> None:
        """Forget a task: another worker will change its values."""
        self._values = {at: value for at, value in self._values.items() if at[0] != task}

    def _at(self, table: Table, key: Any) -> At:
        event = current_event()
        if event is None:
            raise StreamkitError(f"table {table.name!r} is used by an agent before its first event")
        return self._task_of(event.source), table_key(table.name, key)
