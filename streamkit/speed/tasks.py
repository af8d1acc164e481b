"""A worker's tasks: the Views, Tables and offsets of the partitions that are its own, moved together or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain

from streamkit.changelog.changes import Changes
from streamkit.changelog.state import within
from streamkit.checkpoint import agent_key, task_prefix
from streamkit.control import BatchView
from streamkit.errors import OffsetOutOfRange, TopicMissing
from streamkit.log.base import Log
from streamkit.record import TopicPartition
from streamkit.speed.tables import TableTask
from streamkit.speed.views import Prepared, ViewTask
from streamkit.store.base import Store
from streamkit.topology import Topology

_NUMBER = 8

"""What a Checkpoint makes durable, by task, under the keys that it has in a store."""


REJECTED = ""
"""Stands for the dead letters among the agents' offsets: what is not on the log's dead-letter topic yet is read, too,
where every View starts behind a BatchView that has skipped it."""

RETENTION = (
    "Retention has deleted records that this topology has not read: nothing is skipped in silence. Give topics that "
    "are read retention.ms=-1; to accept the loss, begin anew at the log's start: `streamkit reset TOPOLOGY`"
)

Unit = tuple[str, TopicPartition]
"""An Agent (or REJECTED, or a `view_unit`) and a partition that it reads."""


def view_unit(view: str) -> str:
    """Stands for a View's dead letters among the agents' offsets; no agent can have such a name."""
    return f"@{view}"


def task_of(topology: Topology) -> Callable[[TopicPartition], TopicPartition]:
    """Whose state an event of a partition belongs to: replayed events lie beside the partition they came from."""
    originals = {topic.replays: topic.name for topic in topology.sources().values()}
    return lambda source: TopicPartition(originals.get(source.topic, source.topic), source.partition)


class Tasks:
    """What of a topology's state is this worker's; its Store has the copies.

    `offsets` are the next offsets of Agents and dead letters by Unit, `saved` what of them is durable.
    """

    def __init__(self, topology: Topology, log: Log, store: Store, ids: Mapping[str, str]) -> None:
        self._topology, self._log, self._store = topology, log, store
        self.views = {name: ViewTask(view, store, ids[view.topic.name]) for name, view in topology.views.items()}
        self.offsets: dict[Unit, int] = {}
        self.saved: dict[Unit, int] = {}
        self.task_of = task_of(topology)
        self.tables = TableTask(store, self.task_of)
        self._prepared: dict[str, Prepared] = {}
        self.casts = 0
        """What agents and timers have cast; counted after it was sent, so that what `prepare` sees goes with it."""
        self._casts = 0  # of them, those that a Checkpoint has taken along

    # -- coming and going ---------------------------------------------------------------------------------------------

    def open(
        self, tasks: Collection[TopicPartition], batches: Mapping[str, BatchView], resets: Mapping[str, str]
    ) -> dict[TopicPartition, int]:
        """Take up the state in the Store; returns the partitions to be read, and from where.

        `batches` are what a View without state begins after. Raises DefinitionChanged, TopicChanged; OffsetOutOfRange
        where retention was quicker.
        """
        for topic in {task.topic for task in tasks}:
            numbers = [task.partition for task in tasks if task.topic == topic]
            starts = self._log.starts(topic)
            for name, view in self._views_of(topic).items():
                for number in numbers:
                    view.open(number, starts[number], batches.get(name), resets.get(name, ""))
            self._open_offsets(topic, numbers)
        opened = {source: offset for source, offset in self.wanted().items() if self.task_of(source) in tasks}
        for topic in {source.topic for source in opened}:
            starts = self._log.starts(topic)
            for source in (s for s in opened if s.topic == topic):
                if opened[source] < starts[source.partition]:
                    gone = f"[{opened[source]}, {starts[source.partition]})"
                    raise OffsetOutOfRange(f"{source}: the records {gone} are not on the log any more. {RETENTION}")
        return opened

    def close(self, task: TopicPartition) -> set[TopicPartition]:
        """Let a task go, right after a Checkpoint; returns the partitions that were read for it."""
        for view in self._views_of(task.topic).values():
            view.close(task.partition)
        self.tables.close(task)
        gone = {unit for unit in self.offsets if self.task_of(unit[1]) == task}
        for unit in gone:
            del self.offsets[unit], self.saved[unit]
        return {source for _, source in gone} | {task}

    def _views_of(self, topic: str) -> dict[str, ViewTask]:
        return {name: task for name, task in self.views.items() if task.view.topic.name == topic}

    def _open_offsets(self, topic: str, partitions: list[int]) -> None:
        readers = [(REJECTED, topic), *((view_unit(name), topic) for name in self._views_of(topic))]
        for agent in self._topology.agents_of(topic):
            readers += [(agent.name, t) for t in (topic, agent.topic.replays) if self._is_topic(t)]
        for name, read in readers:
            starts = self._log.starts(read)
            for partition in partitions:
                unit = (name, TopicPartition(read, partition))
                at = task_prefix(TopicPartition(topic, partition)) + agent_key(name, read)
                found = self._store.get([at])[0]
                self.offsets[unit] = starts[partition] if found is None else int.from_bytes(found, "big")
                self.saved[unit] = -1 if found is None else self.offsets[unit]

    def _is_topic(self, name: str) -> bool:
        try:
            self._log.describe(name)
        except TopicMissing:
            return False
        return True

    # -- reading ------------------------------------------------------------------------------------------------------

    def wanted(self) -> dict[TopicPartition, int]:
        """The lowest offset of each partition that some View or Agent still wants."""
        return self._lowest(
            (TopicPartition(t.view.topic.name, p), t.position(p)) for t in self.views.values() for p in t.segments
        )

    def wanted_then(self) -> dict[TopicPartition, int]:
        """As `wanted`, once what was prepared is durable: a BatchView may send a View on, or back."""
        return self._lowest(
            (TopicPartition(self.views[name].view.topic.name, p), segments.end)
            for name, prepared in self._prepared.items()
            for p, segments in prepared.segments.items()
        )

    def _lowest(self, views: Iterable[tuple[TopicPartition, int]]) -> dict[TopicPartition, int]:
        wanted = dict[TopicPartition, int]()
        agents = ((source, offset) for (name, source), offset in self.offsets.items() if not name.startswith("@"))
        for source, offset in chain(views, agents):
            wanted[source] = min(wanted.get(source, offset), offset)
        return wanted

    def reached(self, source: TopicPartition, offset: int) -> None:
        """All records before `offset` have been taken in, rejected or are no data."""
        for view in self._views_of(source.topic).values():
            view.reached(source.partition, offset)
        for name in (REJECTED, *self._topology.agents, *map(view_unit, self.views)):
            if (name, source) in self.offsets:
                self.offsets[name, source] = max(self.offsets[name, source], offset)

    def pending(self) -> int:
        """States that wait for a Checkpoint."""
        return sum(view.pending() for view in self.views.values())

    def moved(self) -> bool:
        """Is some position, or something cast, not durable yet?"""
        return (
            self.casts != self._casts
            or self.offsets != self.saved
            or any(view.position(p) != s.end for view in self.views.values() for p, s in view.segments.items())
        )

    def asks(self) -> bool:
        """Is there something to make durable that is no event?"""
        return any(view.asks() for view in self.views.values())

    # -- resets -------------------------------------------------------------------------------------------------------

    def is_late(self, resets: Mapping[str, str]) -> bool:
        """Does some state come from before the newest reset of its View?"""
        return any(view.resets[p] != resets.get(n, "") for n, view in self.views.items() for p in view.segments)

    def restart(self, resets: Mapping[str, str]) -> None:
        """Begin anew, at the next Checkpoint, what comes from before a reset."""
        for name, view in self.views.items():
            late = [p for p in view.segments if view.resets[p] != resets.get(name, "")]
            starts = self._log.starts(view.view.topic.name) if late else {}
            for partition in late:
                view.restart(partition, starts[partition], resets.get(name, ""))

    # -- checkpoint ---------------------------------------------------------------------------------------------------

    def prepare(
        self, due: Callable[[str], set[int]], batches: Mapping[str, BatchView]
    ) -> dict[TopicPartition, Changes]:
        """What makes all durable that was taken in; `due` are a View's partitions to be sealed."""
        self._casts = self.casts
        parts = {task: [Changes(within(task, changed))] for task, changed in self.tables.prepare().items()}
        for name, view in self.views.items():
            self._prepared[name] = view.prepare(due(name), batches.get(name))
            for partition, changed in self._prepared[name].changes.items():
                parts.setdefault(TopicPartition(view.view.topic.name, partition), []).append(changed)
        for unit, offset in self.offsets.items():
            if self.saved[unit] != offset:
                task, key = self.task_of(unit[1]), agent_key(unit[0], unit[1].topic)
                moved = within(task, [(key, offset.to_bytes(_NUMBER, "big"))])
                parts.setdefault(task, []).append(Changes(moved))
        return {task: Changes.of(some) for task, some in parts.items()}

    def grown(self) -> dict[TopicPartition, int]:
        """Bytes of keys that are new, with what they have, in what was prepared; those of Tables are not told apart."""
        grown: dict[TopicPartition, int] = {}
        for name, prepared in self._prepared.items():
            for partition, size in prepared.grown.items():
                task = TopicPartition(self.views[name].view.topic.name, partition)
                grown[task] = grown.get(task, 0) + size
        return grown

    def done(self) -> None:
        """It is durable, and in the Store."""
        for name, prepared in self._prepared.items():
            self.views[name].done(prepared)
        self.tables.done()
        self.saved.update(self.offsets)
