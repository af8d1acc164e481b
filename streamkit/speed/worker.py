"""The worker: reads each of its partitions once, feeds Views (columns) and Agents (events), and makes Checkpoints.

The life of a Checkpoint, each step durable before the next begins:

    1. settle   every agent has acknowledged all it was fed; its outputs, and the dead letters, are held in memory
    2. commit   one Kafka transaction: outputs, dead letters, all changes of state as changelog records, the offsets
    3. write    one Write to the store: the same changes, and how far on the changelogs they are
    4. report   the seals are reported on the control topic, and changelogs cut where they were compacted

A crash before 2 is over loses what was read since the Checkpoint before, and all that came of it: the transaction is
aborted, the records come again. A crash between 2 and 3 leaves the store one Checkpoint behind its changelogs: it
follows them before work goes on, here or elsewhere. A crash between 3 and 4 leaves a seal unreported: whoever has the
task next finds the request without an answer and answers it. A changelog that was not cut is longer than it need be,
until it is compacted the next time.

A zombie, a worker that was stopped for so long that its partitions were given to another and now goes on, is refused
at step 2: its offsets are not taken from a member that is none (KIP-447). It raises Fenced, and begins again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Iterable, Mapping

from streamkit.changelog.follower import Restoring
from streamkit.changelog.state import claim_format
from streamkit.control import BatchView, Message, Reset, Sealed, SealRequest
from streamkit.errors import AgentStalled, OffsetOutOfRange, TopicMissing
from streamkit.log.base import Log, Member
from streamkit.log.control import ControlTopic
from streamkit.record import TopicPartition
from streamkit.speed.ahead import Read, ReadAhead
from streamkit.speed.assignment import Assignment
from streamkit.speed.intake import Counters, Intake
from streamkit.speed.journal import Entry, Journal
from streamkit.speed.tasks import RETENTION, Tasks
from streamkit.speed.topics import Topics
from streamkit.store.base import Store
from streamkit.topology import Topology

logger = logging.getLogger(__name__)
_STALLED_SECONDS = 10.0
HELD_BYTES = 64 << 20
HELD_STATES = 400_000
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
        self._seals: dict[str, tuple[SealRequest, set[int]]] = {}
        self._resets: dict[str, str] = {}
        self._batches: dict[str, BatchView] = {}
        self._commit: tuple[Entry, Mapping[TopicPartition, int]] | None = None
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
        self._topics = Topics(self.topology, self._log)
        self._changelogs = self._topics.changelogs
        self._journal = Journal(self._changelogs, self._store, self.name)
        # First of all: it ends the transaction that this worker's last life may have left open.
        once = self.topology.guarantee == "exactly_once"
        self._committer = self._log.committer(f"{self.group}.{self.name}" if once else None)
        closing.callback(self._committer.close)
        self._control = ControlTopic(self._log, self.topology.name)
        closing.callback(self._control.close)
        self._tasks = Tasks(self.topology, self._log, self._store, self._topics.ids)
        self._hear(self._control.catch_up(), starting=True)
        self._topics.make(self._control)
        self._intake = Intake(self.topology, self._tasks, self._committer, self.counters)
        self._reader = ReadAhead(self._log.reader({}), self._intake.decode)
        closing.callback(self._reader.close)
        closing.callback(self._intake.host.stop)
        self._intake.host.start()
        self._assignment = Assignment(
            self._log, self._changelogs, self._store, self, group=self.group, topics=list(self._sources),
            name=self.name, standbys=self.topology.standbys,
        )  # fmt: skip
        closing.callback(self._assignment.leave)

    # -- tasks: what the Assignment calls -----------------------------------------------------------------------------

    def open_tasks(self, tasks: Collection[TopicPartition]) -> None:
        self.check()
        topics = {task.topic for task in tasks}
        for topic in topics:
            self._topics.make_replays(topic)
        batches = {v: b for v in self._tasks.views if (b := self._batch_of(v)) is not None and b.topic in topics}
        self._reader.add(self._tasks.open(tasks, batches, self._resets))
        self._batches |= batches

    def _batch_of(self, view: str) -> BatchView | None:
        """The newest BatchView that this worker's definition and topic can go on from."""
        definition = self.topology.views[view]
        batches = self._control.published.of(view, definition.fingerprint)
        return next((b for b in batches if b.topic_id == self._topics.ids[definition.topic.name]), None)

    def give_up(self, tasks: Collection[TopicPartition]) -> None:
        if not self._closing:
            self.checkpoint()
        for task in tasks:
            self._reader.remove(self._tasks.close(task))

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
        reads = self._read(max_records, 0.0)
        if not reads and timeout:
            reads = self._read(max_records, timeout)
            begin = time.monotonic()
        for read in reads:
            self._intake.take(read)
        self._busy += time.monotonic() - begin if reads else 0.0
        for source, offset in self._reader.positions().items():
            self._tasks.reached(source, offset)
        records = sum(len(read.chunk) for read in reads)
        self.counters.events += records
        return records

    def _read(self, max_records: int, timeout: float) -> list[Read]:
        try:
            return self._reader.poll(max_records, timeout)
        except (OffsetOutOfRange, TopicMissing) as error:
            self.check()  # a topic made anew has other offsets: that is the reason to be told
            raise type(error)(f"{error}. {RETENTION}" if isinstance(error, OffsetOutOfRange) else str(error)) from error

    def check(self) -> None:
        """Are all topics still those that this worker began with? Raises TopicMissing, TopicChanged."""
        self._topics.check()

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
        """Step 2: one transaction. Raises Fenced. From here until `write` is done, records are read ahead."""
        self._reader.begin()
        self._tasks.restart(self._resets)
        changes = self._tasks.prepare(self._due, self._batches)
        if not changes and not self._committer.held():
            self._batches = {}
            return
        # After the reading and before the transaction: what was read of a topic made anew is never counted.
        self.check()
        self.changed = sum(map(len, changes.values()))
        entry = self._journal.entry(changes, self._tasks.grown(), self.measured)
        self.changed_bytes = entry.size
        ends = self._committer.commit(
            entry.records,
            {source: offset for source, offset in self._tasks.wanted_then().items() if source.topic in self._sources},
            self._assignment.member,
        )
        self._commit = (entry, ends)
        self.counters.checkpoints += 1

    def write(self) -> None:
        """Step 3: one Write."""
        if self._commit is None:
            return
        self._journal.write(*self._commit)
        self._commit = None
        self._tasks.done()
        self._batches = {}
        reading = self._reader.positions()
        for source, offset in self._tasks.wanted().items():
            if reading[source] != offset:  # a BatchView or a reset makes a View read again
                self._reader.seek(source, offset)

    def report(self) -> None:
        """Step 4: tell of the seals, and cut changelogs that were compacted."""
        for request, answered in self._seals.values():
            due = set(self._tasks.views[request.view].segments) - answered
            if due:
                self._control.append(self._tasks.views[request.view].sealed(request.id, due))
                answered |= due
        self._journal.cut()

    def listen(self) -> None:
        """Hear what is new on the control topic; it is acted on at the next Checkpoint."""
        self._hear(self._control.poll())

    def close(self) -> None:
        """Leave the group, without a Checkpoint."""
        self._closing = True
        self._close.close()

    # -- parts of a Checkpoint ----------------------------------------------------------------------------------------

    def _due(self, view: str) -> set[int]:
        """The partitions of a View that somebody has asked to seal."""
        asked = [answered for request, answered in self._seals.values() if request.view == view]
        return {p for p in self._tasks.views[view].segments if any(p not in answered for answered in asked)}

    # -- state of things ----------------------------------------------------------------------------------------------

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset of each partition that is read."""
        return self._tasks.wanted()

    def ends(self) -> dict[TopicPartition, int]:
        """The log's ends as they are now, of all that is read."""
        topics = {source.topic for source in self._tasks.wanted()}
        return {TopicPartition(t, p): end for t in topics for p, end in self._log.ends(t).items()}

    def restored(self) -> tuple[int, float]:
        """Changes of state and seconds of the last time that tasks were restored."""
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

    def moved(self) -> bool:
        """Has this worker read on since its last Checkpoint, be it past control records or aborted ones only?"""
        return self._tasks.moved()

    def asked(self) -> bool:
        """True where something waits for a Checkpoint and should not wait long."""
        crowded = self._committer.held() > HELD_BYTES or self._tasks.pending() > HELD_STATES
        waits = bool(self._batches) or any(map(self._due, self._tasks.views)) or self._tasks.asks()
        return waits or crowded or self._tasks.is_late(self._resets)

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

    def is_through(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Has this worker read what is before these ends, in its tasks?"""
        mine = {source: end for source, end in ends.items() if self._tasks.task_of(source) in self.tasks()}
        return self.restoring() is None and caught_up(self.positions(), mine)

    def reached(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Has everything before these ends been read: by this worker, or, in a Checkpoint, by the others?

        A worker without tasks waits for some, unless there are more workers than tasks: what a dead one has is given to
        it when that one's session has run out.
        """
        if not self.is_through(ends):
            return False
        tasks = {source: end for source, end in ends.items() if source.topic in self._sources}
        others = {source: end for source, end in tasks.items() if source not in self.tasks() and end}
        if not self.tasks() and len(self._log.members(self.group)) <= len(tasks):
            return False
        return not others or caught_up(dict.fromkeys(others, 0) | self._log.group_offsets(self.group), others)

    # -- control ------------------------------------------------------------------------------------------------------

    def _hear(self, messages: Iterable[Message], *, starting: bool = False) -> None:
        for message in messages:
            if isinstance(message, SealRequest) and message.view in self._tasks.views:
                self._seals[message.id] = (message, set())
            elif isinstance(message, Sealed) and message.request in self._seals:
                self._seals[message.request][1].update(message.ends)
            elif isinstance(message, BatchView) and message.view in self._tasks.views and not starting:
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
