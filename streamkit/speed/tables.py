"""Tables in the speed layer: values kept in memory as they are used, made durable by the worker's Checkpoint.

A value is encoded once a Checkpoint, however often it was changed; a key that is text or a whole number is encoded when
its value is read from the store or made durable, and not when it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from streamkit.checkpoint import table_key, task_prefix
from streamkit.errors import StreamkitError
from streamkit.log.base import Change
from streamkit.record import TopicPartition
from streamkit.store.base import Store
from streamkit.table import Table

_KEPT = 100_000
"""Values that stay in memory between Checkpoints; where there are more, those stay that the last one has changed."""


class Place(Protocol):
    """Where a run of an agent is."""

    source: TopicPartition | None
    """The partition of the events in hand; None where there are none."""


class _Part:
    """What of a Table belongs to one task.

    `values` are by name: a key that is text or a whole number is its own, any other is its bytes on the changelog (in a
    dict, 1 and True would be the same key).
    """

    def __init__(self, table: Table, task: TopicPartition, store: Store) -> None:
        self.table, self._prefix, self._store = table, task_prefix(task), store
        self.values: dict[Any, Any] = {}
        self.changed: set[Any] = set()

    def name(self, key: Any) -> Any:
        return key if type(key) is str or type(key) is int else table_key(self.table.name, key)

    def read(self, name: Any) -> Any:
        """The value of a name that is not in memory."""
        found = self._store.get([self._prefix + self._encoded(name)])[0]
        value = self.values[name] = None if found is None else self.table.load(found)
        return value

    def changes(self) -> list[Change]:
        values, dump, encoded = self.values, self.table.dump, self._encoded
        return [(encoded(n), None if (value := values[n]) is None else dump(value)) for n in self.changed]

    def done(self, crowded: bool) -> None:
        if crowded:
            self.values = {name: self.values[name] for name in self.changed}
        self.changed.clear()

    def forget(self) -> None:
        self.values.clear()
        self.changed.clear()

    def _encoded(self, name: Any) -> bytes:
        return name if type(name) is bytes else table_key(self.table.name, name)


class TableTask:
    """The values of a running Topology's Tables.

    `task_of` says whose Table the event of a partition uses: events that are replayed to an agent use that of the
    partition they came from. Only agents touch it, and a Checkpoint comes when every agent has acknowledged all its
    events: no value can change between `prepare` and `done`.
    """

    def __init__(self, store: Store, task_of: Callable[[TopicPartition], TopicPartition]) -> None:
        self._store, self._task_of = store, task_of
        self._parts: dict[TopicPartition, dict[str, _Part]] = {}

    def part(self, table: Table, source: TopicPartition) -> _Part:
        """What events of `source` see of a Table."""
        task = self._task_of(source)
        parts = self._parts.setdefault(task, {})
        if table.name not in parts:
            parts[table.name] = _Part(table, task, self._store)
        return parts[table.name]

    def prepare(self) -> dict[TopicPartition, list[Change]]:
        """What makes every change durable, by task."""
        changes = {task: [c for part in parts.values() for c in part.changes()] for task, parts in self._parts.items()}
        return {task: changed for task, changed in changes.items() if changed}

    def done(self) -> None:
        """The changes are durable, and in the Store."""
        parts = [part for parts in self._parts.values() for part in parts.values()]
        crowded = sum(len(part.values) for part in parts) > _KEPT
        for part in parts:
            part.done(crowded)

    def close(self, task: TopicPartition) -> None:
        """Forget a task: another worker will change its values."""
        for part in self._parts.get(task, {}).values():
            part.forget()


class AgentTables:
    """The Tables as one run of an agent sees them: the backend of `table[key]`."""

    def __init__(self, tables: TableTask, place: Place) -> None:
        self._tables, self._place = tables, place
        # What was used last, as a rule the same as now; here and below written out twice, since it runs for each event.
        self._table: Table | None = None
        self._source: TopicPartition | None = None
        self._last: _Part

    def get(self, table: Table, key: Any) -> Any:
        same = table is self._table and self._place.source is self._source
        part = self._last if same else self._part(table)
        name = key if type(key) is str else part.name(key)
        try:
            return part.values[name]
        except KeyError:
            return part.read(name)

    def put(self, table: Table, key: Any, value: Any) -> None:
        if value is None:
            raise ValueError(f"table {table.name!r}: a value cannot be None; delete the key: del table[{key!r}]")
        same = table is self._table and self._place.source is self._source
        part = self._last if same else self._part(table)
        name = key if type(key) is str else part.name(key)
        part.values[name] = value
        part.changed.add(name)

    def delete(self, table: Table, key: Any) -> None:
        part = self._part(table)
        name = part.name(key)
        part.values[name] = None
        part.changed.add(name)

    def _part(self, table: Table) -> _Part:
        source = self._place.source
        if source is None:
            raise StreamkitError(f"table {table.name!r} is used by an agent that has no event in hand")
        self._table, self._source, self._last = table, source, self._tables.part(table, source)
        return self._last


class JournaledTables(AgentTables):
    """Tables whose changes can be undone: those of an agent that is tried on a frame, and tried again on its halves."""

    def __init__(self, tables: TableTask, place: Place) -> None:
        super().__init__(tables, place)
        self._journal: dict[_Part, dict[Any, tuple[bool, Any]]] = {}

    def keep(self) -> None:
        """What was changed since the last `keep` or `undo` stays."""
        self._journal.clear()

    def undo(self) -> None:
        """Every value is again what it was at the last `keep`."""
        for part, noted in self._journal.items():
            for name, (changed, value) in noted.items():
                part.values[name] = part.table.load(value.dumped) if isinstance(value, _Dumped) else value
                if not changed:
                    part.changed.discard(name)
        self._journal.clear()

    def get(self, table: Table, key: Any) -> Any:
        self._note(table, key)
        return super().get(table, key)

    def put(self, table: Table, key: Any, value: Any) -> None:
        self._note(table, key)
        super().put(table, key, value)

    def delete(self, table: Table, key: Any) -> None:
        self._note(table, key)
        super().delete(table, key)

    def _note(self, table: Table, key: Any) -> None:
        """Before its first use: what is read may be changed in place, so it is kept as bytes."""
        part = self._part(table)
        noted = self._journal.setdefault(part, {})
        name = key if type(key) is str else part.name(key)
        if name not in noted:
            value = part.values[name] if name in part.values else part.read(name)
            plain = isinstance(value, int | float | str | bytes | None)
            noted[name] = name in part.changed, value if plain else _Dumped(table.dump(value))


@dataclass(frozen=True, slots=True)
class _Dumped:
    """A value as bytes."""

    dumped: bytes
