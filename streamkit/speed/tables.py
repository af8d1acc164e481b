"""Tables in the speed layer: values kept in memory as they are used, made durable by the worker's Checkpoint."""

from __future__ import annotations

from typing import Any

from streamkit.checkpoint import table_key
from streamkit.errors import StreamkitError
from streamkit.speed.events import current_event
from streamkit.store.base import Store
from streamkit.table import Table

_KEPT = 100_000
"""Values that stay in memory between Checkpoints."""


class TableTask:
    """The backend of a running Topology's Tables.

    Only agents touch it, and a Checkpoint comes when every agent has acknowledged all its events: no value can change
    between `prepare` and `done`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._values: dict[bytes, Any] = {}
        self._changed: dict[bytes, Table] = {}

    def get(self, table: Table, key: Any) -> Any:
        at = self._at(table, key)
        if at not in self._values:
            found = self._store.get([at])[0]
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

    def prepare(self) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
        """The puts and deletes that make every change durable."""
        values = self._values
        puts = [(at, table.dump(values[at])) for at, table in self._changed.items() if values[at] is not None]
        return puts, [at for at in self._changed if values[at] is None]

    def done(self) -> None:
        """The Write is durable."""
        self._changed = {}
        if len(self._values) > _KEPT:
            self._values = {}

    def _at(self, table: Table, key: Any) -> bytes:
        event = current_event()
        if event is None:
            raise StreamkitError(f"table {table.name!r} is used by an agent before its first event")
        return table_key(table.name, event.source.partition, key)
