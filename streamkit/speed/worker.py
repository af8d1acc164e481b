"""The worker: reads each of its partitions once, feeds Views (columns) and Agents (events), and makes Checkpoints.

The life of a Checkpoint, each step durable before the next begins:

    1. settle   every agent has acknowledged all it was fed; its outputs, and the dead letters, are held in memory
    2. commit   one Kafka transaction: outputs, dead letters, all changes of state as changelog records, the offsets
    3. write    one Write to the store: the same changes, and how far on the changelogs they are
    4. report   the seals are reported on the control topic

A crash before 2 is over loses what was read since the Checkpoint before, and all that came of it: the transaction is
aborted, the records come again. A crash between 2 and 3 leaves the store one Checkpoint behind its changelogs: it
follows them before work goes on, here or elsewhere. A crash between 3 and 4 leaves a seal unreported: whoever has the
task next finds the request without an answer and answers it.

A zombie, a worker that was stopped for so long that its partitions were given to another and now goes on, is refused
at step 2: its offsets are not taken from a member that is none (KIP-447). It raises Fenced, and begins again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Iterable, Mapping
from itertools import chain

from streamkit.changelog import Changelogs, Restoring, claim_format, store_write
from streamkit.checkpoint import (
    FORMAT_VERSION,
    MARK_KEY,
    Mark,
    Position,
    agent_key,
    pack,
    task_prefix,
)
from streamkit.control import BatchView, Message, Reset, Sealed, SealRequest
from streamkit.errors import AgentStalled, TopicChanged, TopicMissing
from streamkit.log.base import Change, Log, Member
from streamkit.log.control import ControlTopic
from streamkit.record import TopicPartition
from streamkit.speed.assignment import Assignment
from streamkit.speed.intake import REJECTED, Counters, Intake, Unit, task_of, view_unit
from streamkit.speed.tables import TableTask
from streamkit.speed.views import Prepared, ViewTask
from streamkit.store.base import Store
from streamkit.topic import REPLAYABLE
from streamkit.topology import Topology

logger = logging.getLogger(__name__)
_NUMBER = 8
_STALLED_SECONDS = 10.0
HELD_BYTES = 64 << 20
HELD_STATES = 500_000
"""Outputs and states that make a Checkpoint come early: both wait for it in memory."""


class Worker:
    """One process's share of the speed layer: the tasks that the group gives to it.

    Each verb is one step that a crash can come before or after; `run` loops over them, the test kit calls them singly.
    `name` tells this worker from the others and stays the same when it starts again. Not thread-safe.
    """

    def __init__(self, topology: Topology, log: Log, store: Store, *, name: str = "worker") -> None:
        self.topology, self.name, self.group = topology, name, group_of(topology.name)
        self.counters = Counters()
        self.changed = self.changed_bytes = 0
        """Changes of state that the last Checkpoint made durable, and their size."""
        self.measured = b""
        """What goes into each Checkpoint's Mark: see `interval.Measured`."""
        self._log, self._store = log, store
        self._sources = topology.sources()
        self._views: dict[str, ViewTask] = {}
        self._offsets: dict[Unit, int] = {}
        self._saved: dict[Unit, int] = {}
        self._seals: dict[str, tuple[SealRequest, set[int]]] = {}
        self._resets: dict[str, str] = {}
        self._batches: dict[str, BatchView] = {}
        self._commit: tuple[dict[TopicPartition, list[Change]], dict[TopicPartition, Position]] | None = None
        self._prepared: dict[str, Prepared] = {}
        self._closing = False
        self._busy = 0.0
        self._seen_ends: dict[TopicPartition, int] = {}
        self._close = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:
            self._open(opening)
            self._close = opening.pop_all()

    # -- start --------------------------------------------------------------------------------------------------------

    def _open(self, closing: contextlib.ExitStack) -> None:
        claim_format(self._store, f"the state of topology {self.topology.name!r}")
        self._ids = {name: self._log.describe(name).id for name in self._sources}
        self._changelogs = Changelogs(self._log, self.topology.name)
        self._make_topics()
        # First of all: it ends the transaction that this worker's last life may have left open.
        once = self.topology.guarantee == "exactly_once"
        self._committer = self._log.committer(f"{self.group}.{self.name}" if once else None)
        closing.callback(self._committer.close)
        self._control = ControlTopic(self._log, self.topology.name)
        closing.callback(self._control.close)
        self._views = {n: ViewTask(v, self._store, self._ids[v.topic.name]) for n, v in self.topology.views.items()}
        self._hear(self._control.catch_up(), starting=True)
        self._reader = self._log.reader({})
        closing.callback(self._reader.close)
        self._task_of = task_of(self.topology)
        self._tables = TableTask(self._store, self._task_of)
        self._intake = Intake(
            self.topology, self._views, self._offsets, self._saved, self._committer, self._tables, self.counters
        )  # fmt: skip
        closing.callback(self._intake.host.stop)
        self._intake.host.start()
        self._assignment = Assignment(
            self._log, self._changelogs, self._store, self, group=self.group, topics=list(self._sources),
            name=self.name, standbys=self.topology.standbys,
        )  # fmt: skip
        closing.callback(self._assignment.leave)

    def _make_topics(self) -> None:
        """The topics that are the worker's own to write. Raises TopicMissing where one that it reads is not there."""
        for name, topic in self._sources.items():
            self._changelogs.make(name, self._log.describe(name).partitions)
            self._make_replays(name)
            if topic.errors == "dead_letter":
                self._log.create(topic.dead_letters, partitions=1, config=REPLAYABLE)
        for agent in self.topology.agents.values():
            if agent.out is not None:
                self._log.create(agent.out.name, partitions=agent.out.partitions, config=REPLAYABLE)

    def _make_replays(self, name: str) -> None:
        """As many partitions as the topic has: a replayed event goes to the worker that has its task."""
        topic = self._sources[name]
        if topic.errors == "dead_letter" and self.topology.agents_of(name):
            partitions = self._log.describe(name).partitions
            self._log.create(topic.replays, partitions=partitions, config=REPLAYABLE)
            self._log.grow(topic.replays, partitions)

    # -- tasks: what the Assignment calls -----------------------------------------------------------------------------

    def open_tasks(self, tasks: Collection[TopicPartition]) -> None:
        for topic in {task.topic for task in tasks}:
            numbers = [task.partition for task in tasks if task.topic == topic]
            self._make_replays(topic)
            self._open_views(topic, numbers)
            self._open_offsets(topic, numbers)
        opened = {source for source in self._wanted() if self._task_of(source) in tasks}
        self._reader.add({source: offset for source, offset in self._wanted().items() if source in opened})

    def _open_views(self, topic: str, partitions: list[int]) -> None:
        starts = self._log.starts(topic)
        for name, task in self._views.items():
            if task.view.topic.name == topic:
                batch = self._batch_of(name)
                for partition in partitions:
                    task.open(partition, starts[partition], batch, self._resets.get(name, ""))
                if batch is not None:
                    self._batches[name] = batch

    def _batch_of(self, view: str) -> BatchView | None:
        """The newest BatchView that this worker's definition and topic can go on from."""
        task = self._views[view]
        batches = self._control.published.of(view, task.view.fingerprint)
        return next((b for b in batches if b.topic_id == self._ids[task.view.topic.name]), None)

    def _open_offsets(self, topic: str, partitions: list[int]) -> None:
        readers = [(REJECTED, topic), *((view_unit(v.name), topic) for v in self.topology.views_of(topic))]
        for agent in self.topology.agents_of(topic):
            readers += [(agent.name, t) for t in (topic, agent.topic.replays) if self._is_topic(t)]
        for name, read in readers:
            starts = self._log.starts(read)
            for partition in partitions:
                unit = (name, TopicPartition(read, partition))
                at = task_prefix(TopicPartition(topic, partition)) + agent_key(name, read)
                found = self._store.get([at])[0]
                self._offsets[unit] = starts[partition] if found is None else int.from_bytes(found, "big")
                self._saved[unit] = -1 if found is None else self._offsets[unit]

    def give_up(self, tasks: Collection[TopicPartition]) -> None:
        if not self._closing:
            self.checkpoint()
        for task in tasks:
            for view in self._views.values():
                if view.view.topic.name == task.topic:
                    view.close(task.partition)
            self._tables.close(task)
            gone = {unit for unit in self._offsets if self._task_of(unit[1]) == task}
            self._reader.remove({source for _, source in gone} | {task})
            for unit in gone:
                del self._offsets[unit], self._saved[unit]

    def _is_topic(self, name: str) -> bool:
        try:
            self._log.describe(name)
        except TopicMissing:
            return False
        return True

    def _wanted(self) -> dict[TopicPartition, int]:
        """The lowest offset of each partition that some View or Agent still wants."""
        wanted = dict[TopicPartition, int]()
        views = (
            (TopicPartition(t.view.topic.name, p), t.position(p)) for t in self._views.values() for p in t.segments
        )
        agents = ((source, offset) for (name, source), offset in self._offsets.items() if not name.startswith("@"))
        for source, offset in chain(views, agents):
            wanted[source] = min(wanted.get(source, offset), offset)
        return wanted

    # -- verbs --------------------------------------------------------------------------------------------------------

    def hear(self, timeout: float = 0.0) -> None:
        """Hear the group: take over what it gives, give up what it asks back. Raises Fenced."""
        self._assignment.poll(timeout)

    def step(self, max_records: int = 20_000, timeout: float = 0.0) -> int:
        """Hear the group, read once, and hand what came to Views and Agents; nothing of it is durable yet.

        Returns the records read. Raises Fenced: the worker is to be closed, and a new one made.
        """
        self.hear(0.0 if self._assignment.tasks() else timeout)
        if not self._assignment.tasks():
            return 0
        begin = time.monotonic()
        chunks = self._reader.poll(max_records, 0.0)
        if not chunks and timeout:
            chunks = self._reader.poll(max_records, timeout)
            begin = time.monotonic()
        for chunk in chunks:
            self._intake.take(chunk)
        self._busy += time.monotonic() - begin if chunks else 0.0
        for source, offset in self._reader.positions().items():
            for task in self._views.values():
                if task.view.topic.name == source.topic:
                    task.reached(source.partition, offset)
            for name in (REJECTED, *self.topology.agents, *map(view_unit, self._views)):
                if (name, source) in self._offsets:
                    self._offsets[name, source] = max(self._offsets[name, source], offset)
        read = sum(map(len, chunks))
        self.counters.events += read
        return read

    def checkpoint(self) -> None:
        """Make all that was read durable: steps 1 to 4 above."""
        self.settle()
        self.commit()
        self.write()
        self.report()

    def settle(self) -> None:
        """Step 1: agents are done with what they were fed, and nothing waits to be folded."""
        self._intake.fold()
        while True:
            try:
                return self._intake.host.drain(_STALLED_SECONDS)
            except AgentStalled as stalled:  # wait for as long as they take, and say so where that is long
                logger.warning("%s", stalled)

    def commit(self) -> None:
        """Step 2: one transaction. Raises Fenced."""
        self._restart_views()
        changes = self._changes()
        if not changes and not self._committer.held():
            self._batches = {}
            return
        self._check_topics()
        self.changed = sum(map(len, changes.values()))
        self.changed_bytes = sum(len(k) + len(v or b"") for changed in changes.values() for k, v in changed)
        now = int(time.time() * 1000)
        for i, task in enumerate(sorted(changes)):
            measured = b"" if i else self.measured  # one of the tasks has it; 2 KB for each would be most of the Mark
            changes[task].append((MARK_KEY, pack(Mark(FORMAT_VERSION, now, self.name, measured))))
        of = self._changelogs.of
        ends = self._committer.commit(
            {of(task): changed for task, changed in changes.items()},
            {source: offset for source, offset in self._wanted().items() if source.topic in self._sources},
            self._assignment.member,
        )
        positions = {t: Position(self._changelogs.id(t.topic), ends[of(t)], True, now) for t in changes}
        self._commit = (changes, positions)
        self.counters.checkpoints += 1

    def write(self) -> None:
        """Step 3: one Write."""
        if self._commit is None:
            return
        self._store.write(store_write(*self._commit))
        self._commit = None
        for name, prepared in self._prepared.items():
            self._views[name].done(prepared)
        self._tables.done()
        self._saved.update(self._offsets)
        self._batches = {}
        reading = self._reader.positions()
        for source, offset in self._wanted().items():
            if reading[source] != offset:  # a BatchView or a reset makes a View read again
                self._reader.seek(source, offset)

    def report(self) -> None:
        """Step 4: tell of the seals."""
        for request, answered in self._seals.values():
            due = set(self._views[request.view].segments) - answered
            if due:
                self._control.append(self._views[request.view].sealed(request.id, due))
                answered |= due

    def listen(self) -> None:
        """Hear what is new on the control topic; it is acted on at the next Checkpoint."""
        self._hear(self._control.poll())

    def close(self) -> None:
        """Leave the group, without a Checkpoint."""
        self._closing = True
        self._close.close()

    # -- parts of a Checkpoint ----------------------------------------------------------------------------------------

    def _changes(self) -> dict[TopicPartition, list[Change]]:
        changes = self._tables.prepare()
        for name, task in self._views.items():
            self._prepared[name] = task.prepare(self._due(name), self._batches.get(name))
            for partition, changed in self._prepared[name].changes.items():
                changes.setdefault(TopicPartition(task.view.topic.name, partition), []).extend(changed)
        for unit, offset in self._offsets.items():
            if self._saved[unit] != offset:
                change = (agent_key(unit[0], unit[1].topic), offset.to_bytes(_NUMBER, "big"))
                changes.setdefault(self._task_of(unit[1]), []).append(change)
        return changes

    def _due(self, view: str) -> set[int]:
        """The partitions of a View that somebody has asked to seal."""
        asked = [answered for request, answered in self._seals.values() if request.view == view]
        return {p for p in self._views[view].segments if any(p not in answered for answered in asked)}

    def _restart_views(self) -> None:
        for name, task in self._views.items():
            late = [p for p in task.segments if task.resets[p] != self._resets.get(name, "")]
            if late:
                starts = self._log.starts(task.view.topic.name)
                for partition in late:
                    task.restart(partition, starts[partition], self._resets.get(name, ""))

    def _check_topics(self) -> None:
        """Comes after the reading and before the transaction: what was read of a topic made anew is never counted."""
        for name, known in self._ids.items():
            found = self._log.describe(name).id
            if found != known:
                raise TopicChanged(
                    f"topic {name!r} was deleted and made again while topology {self.topology.name!r} read it (id "
                    f"{found}, it began with {known}): its offsets mean other records now. Nothing of the new topic "
                    f"was counted. Discard the old state: `streamkit reset TOPOLOGY`, then start the worker"
                )

    # -- state of things ----------------------------------------------------------------------------------------------

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset of each partition that is read."""
        return self._wanted()

    def ends(self) -> dict[TopicPartition, int]:
        """The log's ends as they are now, of all that is read."""
        topics = {source.topic for source in self._wanted()}
        return {TopicPartition(t, p): end for t in topics for p, end in self._log.ends(t).items()}

    def restored(self) -> tuple[int, float]:
        """Changelog records and seconds of the last time that tasks were restored."""
        return self._assignment.restored

    def take_busy(self) -> float:
        """Seconds spent on reading and folding since this was last asked, without waiting for records."""
        busy, self._busy = self._busy, 0.0
        return busy

    def take_arrived(self) -> int | None:
        """Records that the log grew by, in this worker's tasks, since this was last asked; None at first."""
        now = {source: end for source, end in self.ends().items() if source in self.tasks()}
        before, self._seen_ends = self._seen_ends, now
        return sum(end - before[s] for s, end in now.items()) if before.keys() == now.keys() else None

    def asked(self) -> bool:
        """True where something waits for a Checkpoint and should not wait long."""
        views = self._views.values()
        late = any(task.resets[p] != self._resets.get(n, "") for n, task in self._views.items() for p in task.segments)
        crowded = self._committer.held() > HELD_BYTES or sum(task.pending() for task in views) > HELD_STATES
        return (
            late or crowded or bool(self._batches) or any(map(self._due, self._views)) or any(t.asks() for t in views)
        )

    def tasks(self) -> frozenset[TopicPartition]:
        """The tasks that are worked on."""
        return self._assignment.tasks()

    @property
    def member(self) -> Member:
        """This worker's membership in the group."""
        return self._assignment.member

    def restoring(self) -> Restoring | None:
        """How far the tasks are that are taken over; None where there are none."""
        return self._assignment.restoring()

    def reached(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Has everything before these ends been read: by this worker, or, in a Checkpoint, by the others?

        A worker without tasks waits for some, unless there are more workers than tasks: what a dead one has is given to
        it when that one's session has run out.
        """
        mine = {source: end for source, end in ends.items() if self._task_of(source) in self.tasks()}
        tasks = {source: end for source, end in ends.items() if source.topic in self._sources}
        others = {source: end for source, end in tasks.items() if source not in mine and end}
        if self.restoring() is not None or not caught_up(self.positions(), mine):
            return False
        if not self.tasks() and len(self._log.members(self.group)) <= len(tasks):
            return False
        return not others or caught_up(dict.fromkeys(others, 0) | self._log.group_offsets(self.group), others)

    # -- control ------------------------------------------------------------------------------------------------------

    def _hear(self, messages: Iterable[Message], *, starting: bool = False) -> None:
        for message in messages:
            if isinstance(message, SealRequest) and message.view in self._views:
                self._seals[message.id] = (message, set())
            elif isinstance(message, Sealed) and message.request in self._seals:
                self._seals[message.request][1].update(message.ends)
            elif isinstance(message, BatchView) and message.view in self._views and not starting:
                self._batches[message.view] = message
            elif isinstance(message, Reset):
                self._resets[message.view] = message.id
                self._batches.pop(message.view, None)


def group_of(topology: str) -> str:
    """The consumer group of a topology's workers."""
    return f"streamkit.{topology}"


def caught_up(positions: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> bool:
    """True where every partition has been read up to its end."""
    return all(positions.get(source, end) >= end for source, end in ends.items())
