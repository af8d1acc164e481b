"""The worker: reads each partition once, feeds Views (columns) and Agents (events), and makes Checkpoints.

The life of a Checkpoint, each step durable before the next begins:

    1. every agent has acknowledged all it was fed; its outputs, and the dead letters, are on the log
    2. one Write to the store: states, Tables, Segments and offsets, and the seals that were asked for
    3. the seals are reported on the control topic
    4. Segments that a published BatchView has made superfluous are released

A crash before 2 loses what was read since the Checkpoint before, and its offsets with it: the records come again, the
Views count them once, and outputs of step 1 may be on the log a second time. A crash between 2 and 3 leaves a seal
unreported: the worker that starts next finds the request without an answer and answers it. A crash between 3 and 4
leaves Segments that no reader needs: released by the next.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

from streamkit.agent import Agent
from streamkit.checkpoint import FORMAT_KEY, FORMAT_VERSION, agent_key
from streamkit.control import BatchView, Message, Sealed, SealRequest
from streamkit.deadletter import REPLAY_AGENT, DeadLetter, Kind
from streamkit.errors import AgentFailed, AgentStalled, BadRecord, StateError, TopicMissing
from streamkit.fold import Decoded, Rejected, decode
from streamkit.log.base import Log
from streamkit.log.control import ControlTopic
from streamkit.record import Chunk, TopicPartition
from streamkit.speed.agents import AgentHost, Emitted, Failure
from streamkit.speed.events import EventBatch
from streamkit.speed.tables import TableTask
from streamkit.speed.views import ViewTask
from streamkit.store.base import Store, Write
from streamkit.topic import REPLAYABLE, Topic
from streamkit.topology import Topology

logger = logging.getLogger(__name__)
_NUMBER = 8
_REJECTED = ""
"""Stands for the dead letters among the agents' offsets: what is not on the log's dead-letter topic yet is read, too,
where every View starts behind a BatchView that has skipped it."""
_STALLED_SECONDS = 10.0


@dataclass(slots=True)
class Counters:
    """What a worker has done since it started; `rejected` and `failed` records went where the topic's policy says."""

    events: int = 0
    rejected: int = 0
    failed: int = 0
    emitted: int = 0
    checkpoints: int = 0


class Worker:
    """One process's share of the speed layer: for now, all partitions of a Topology.

    Each verb is one step that a crash can come before or after; `run` loops over them, the test kit calls them singly.
    Not thread-safe.
    """

    def __init__(self, topology: Topology, log: Log, store: Store, *, group: str | None = None) -> None:
        self.topology = topology
        self.counters = Counters()
        self._log = log
        self._store = store
        self._sources = topology.sources()
        self._views: dict[str, ViewTask] = {}
        self._offsets: dict[tuple[str, TopicPartition], int] = {}
        self._seals: list[SealRequest] = []
        self._batches: dict[str, BatchView] = {}
        self._close = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:
            self._open(opening, group or f"streamkit.{topology.name}")
            self._close = opening.pop_all()

    # -- start --------------------------------------------------------------------------------------------------------

    def _open(self, closing: contextlib.ExitStack, group: str) -> None:
        self._check_format()
        self._make_topics()
        self._writer = self._log.writer()
        closing.callback(self._writer.close)
        self._control = ControlTopic(self._log, self.topology.name)
        closing.callback(self._control.close)
        self._hear(self._control.catch_up(), starting=True)
        self._open_views()
        self._open_offsets()
        self._reader = self._log.reader(self._wanted(), group=group)
        closing.callback(self._reader.close)
        self._tables = TableTask(self._store)
        for table in self.topology.tables.values():
            table.connect(self._tables)
            closing.callback(table.connect, None)
        self._host = AgentHost(list(self.topology.agents.values()), emit=self._emit, failed=self._agent_failed)
        closing.callback(self._host.stop)
        self._host.start()

    def _check_format(self) -> None:
        found = self._store.get([FORMAT_KEY])[0]
        version = FORMAT_VERSION if found is None else int.from_bytes(found, "big")
        if version != FORMAT_VERSION:
            raise StateError(
                f"the state of topology {self.topology.name!r} has format {version}, this version of StreamKit writes "
                f"{FORMAT_VERSION}: use the version that wrote it, or `streamkit reset TOPOLOGY` to begin anew"
            )
        if found is None:
            self._store.write(Write(puts=[(FORMAT_KEY, FORMAT_VERSION.to_bytes(_NUMBER, "big"))]))

    def _make_topics(self) -> None:
        """The topics that are the worker's own to write. Raises TopicMissing where one that it reads is not there."""
        for name, topic in self._sources.items():
            self._log.describe(name)
            if topic.errors == "dead_letter":
                self._log.create(topic.dead_letters, partitions=1, config=REPLAYABLE)
                if self.topology.agents_of(name):
                    self._log.create(topic.replays, partitions=1, config=REPLAYABLE)
        for agent in self.topology.agents.values():
            if agent.out is not None:
                self._log.create(agent.out.name, partitions=agent.out.partitions, config=REPLAYABLE)

    def _open_views(self) -> None:
        for name, view in self.topology.views.items():
            topic_id = self._log.describe(view.topic.name).id
            batches = self._control.published.of(name, view.fingerprint)
            batch = next((b for b in batches if b.topic_id == topic_id), None)
            task = ViewTask(view, self._store, topic_id)
            task.open(self._log.starts(view.topic.name), batch)
            self._views[name] = task
            if batch is not None:
                self._batches[name] = batch
        self._release()

    def _open_offsets(self) -> None:
        readers = [(_REJECTED, topic) for topic in self._sources]
        for agent in self.topology.agents.values():
            readers += [(agent.name, t) for t in (agent.topic.name, agent.topic.replays) if self._is_topic(t)]
        for name, topic in readers:
            starts = self._log.starts(topic)
            found = self._store.get([agent_key(name, topic, p) for p in starts])
            for (partition, first), offset in zip(starts.items(), found, strict=True):
                at = (name, TopicPartition(topic, partition))
                self._offsets[at] = first if offset is None else int.from_bytes(offset, "big")

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
        agents = ((source, offset) for (_, source), offset in self._offsets.items())
        for source, offset in chain(views, agents):
            wanted[source] = min(wanted.get(source, offset), offset)
        return wanted

    # -- verbs --------------------------------------------------------------------------------------------------------

    def step(self, max_records: int = 20_000, timeout: float = 0.0) -> int:
        """Read once and hand what came to Views and Agents; nothing of it is durable yet. Returns the records read."""
        chunks = self._reader.poll(max_records, timeout)
        for chunk in chunks:
            self._take(chunk)
        for source, offset in self._reader.positions().items():
            for task in self._tasks(source.topic):
                task.reached(source.partition, offset)
            for name in (_REJECTED, *self.topology.agents):
                if (name, source) in self._offsets:
                    self._offsets[name, source] = max(self._offsets[name, source], offset)
        read = sum(map(len, chunks))
        self.counters.events += read
        return read

    def checkpoint(self) -> None:
        """Make all that was read durable: steps 1 to 4 above."""
        self.settle()
        self.commit()
        self.report()
        self.adopt()

    def settle(self) -> None:
        """Step 1: agents are done with what they were fed; outputs and dead letters are on the log."""
        for task in self._views.values():
            self._reject("view", task.view.name, task.view.topic, task.fold_waiting())
        self._drain()
        self._writer.flush()

    def _drain(self) -> None:
        """Wait for the agents for as long as they take, and say so where that is long."""
        while True:
            try:
                return self._host.drain(_STALLED_SECONDS)
            except AgentStalled as stalled:
                logger.warning("%s", stalled)

    def commit(self) -> None:
        """Step 2: one Write."""
        asked = {request.view for request in self._seals}
        prepared = {name: task.prepare(seal=name in asked) for name, task in self._views.items()}
        puts, deletes = self._tables.prepare()
        puts += ((agent_key(a, *s), o.to_bytes(_NUMBER, "big")) for (a, s), o in self._offsets.items())
        for view in prepared.values():
            puts += view.puts
            deletes += view.deletes
        self._store.write(Write(puts=puts, deletes=deletes))
        for name, view in prepared.items():
            self._views[name].done(view)
        self._tables.done()
        self._reader.commit(self._wanted())
        self.counters.checkpoints += 1

    def report(self) -> None:
        """Step 3: tell of the seals."""
        while self._seals:
            request = self._seals[0]
            self._control.append(self._views[request.view].sealed(request.id))
            self._seals.pop(0)

    def adopt(self) -> None:
        """Step 4: release what the newest BatchViews have made superfluous, and read again what one straddled."""
        self._release()
        reading = self._reader.positions()
        for source, offset in self._wanted().items():
            if reading[source] != offset:
                self._reader.seek(source, offset)

    def _release(self) -> None:
        for name, batch in list(self._batches.items()):
            write = self._views[name].adopt(batch)
            if write is not None:
                self._store.write(write)
                self._views[name].adopted(batch)
            del self._batches[name]

    def listen(self) -> None:
        """Hear what is new on the control topic; it is acted on at the next Checkpoint."""
        self._hear(self._control.poll())

    def close(self) -> None:
        """Leave without a Checkpoint."""
        self._close.close()

    # -- state of things ----------------------------------------------------------------------------------------------

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset of each source partition."""
        return self._wanted()

    def ends(self) -> dict[TopicPartition, int]:
        """The log's ends as they are now, of all that is read."""
        topics = {source.topic for source in self._wanted()}
        return {TopicPartition(t, p): end for t in topics for p, end in self._log.ends(t).items()}

    def asked(self) -> bool:
        """True where a seal or a new BatchView waits for a Checkpoint."""
        return bool(self._seals or self._batches)

    # -- records ------------------------------------------------------------------------------------------------------

    def _take(self, chunk: Chunk) -> None:
        topic = self._sources.get(chunk.source.topic)
        if topic is None:
            self._take_replayed(chunk)
            return
        decoded, rejected = decode(topic, chunk)
        self._reject("decode", "", topic, self._fresh(chunk.source, rejected))
        for task in self._tasks(topic.name):
            self._reject("view", task.view.name, topic, task.absorb(decoded))
        for agent in self._agents_of(chunk.source):
            fresh = decoded.since(self._offsets[agent.name, chunk.source])
            if len(fresh):
                self._host.feed(_events(fresh), agent=agent)

    def _fresh(self, source: TopicPartition, rejected: list[Rejected]) -> Iterable[Rejected]:
        """Without those that were rejected before: a View that reads again makes the whole partition come again."""
        known = self._offsets[_REJECTED, source] if rejected else 0
        return [r for r in rejected if r.offset >= known]

    def _take_replayed(self, chunk: Chunk) -> None:
        """Events that `streamkit dead-letter replay` sent to one agent each; no View sees them."""
        topic = next(t for t in self._sources.values() if t.replays == chunk.source.topic)
        decoded, rejected = decode(topic, chunk)
        self._reject("decode", "", topic, rejected)
        for i, at in enumerate(decoded.picked):
            name = (dict(chunk.headers[at]).get(REPLAY_AGENT) or b"").decode()
            agent = self.topology.agents.get(name)
            if agent is not None and decoded.offsets[i] >= self._offsets[name, chunk.source]:
                self._host.feed(_events(decoded.slice(i, i + 1)), agent=agent)

    def _reject(self, kind: Kind, by: str, topic: Topic, rejected: Iterable[Rejected]) -> None:
        for record in rejected:
            self.counters.rejected += 1
            if topic.errors == "fail":
                raise BadRecord(
                    *record.source,
                    record.offset,
                    f"{record.reason}. The error policy of topic {topic.name!r} is `fail`; "
                    f'with errors="dead_letter" the record is kept aside and the worker goes on',
                )
            if topic.errors == "dead_letter":
                letter = DeadLetter(
                    kind, by, record.reason, record.source, record.offset, record.timestamp, record.key, record.value
                )
                self._writer.send(topic.dead_letters, record.value, key=record.key, headers=letter.headers())

    # -- agents, called in their host's thread -----------------------------------------------------------------------

    def _emit(self, emitted: Emitted) -> None:
        out, value = emitted.agent.out, emitted.value
        if out is None or not isinstance(value, out.value):
            wanted = "nothing (it has no out=)" if out is None else f"{out.value.__name__} for topic {out.name!r}"
            cause = emitted.cause
            raise AgentFailed(
                f"agent {emitted.agent.name!r} yielded {value!r} at {cause.source}/{cause.offset}; expected {wanted}"
            )
        time = out.time_of(value)
        timestamp = emitted.cause.timestamp if time is None else time
        self._writer.send(out.name, out.encode(value), key=out.key_of(value), timestamp=timestamp)
        self.counters.emitted += 1

    def _agent_failed(self, failure: Failure) -> None:
        topic, event = failure.agent.topic, failure.event
        self.counters.failed += 1
        where = f"agent {failure.agent.name!r} failed at {event.source}/{event.offset}"
        if topic.errors == "fail":
            raise AgentFailed(
                f"{where}: {failure.error!r}. The error policy of topic {topic.name!r} is `fail`; "
                f'with errors="dead_letter" the event is kept aside and the agent goes on\n{failure.traceback}'
            ) from failure.error
        logger.warning("%s: %r", where, failure.error)
        if topic.errors == "dead_letter":
            value = topic.encode(event.value)
            place = (event.source, event.offset, event.timestamp, event.key)
            letter = DeadLetter("agent", failure.agent.name, failure.traceback, *place, value)
            self._writer.send(topic.dead_letters, value, key=event.key, headers=letter.headers())

    # -- control ------------------------------------------------------------------------------------------------------

    def _hear(self, messages: Iterable[Message], *, starting: bool = False) -> None:
        for message in messages:
            if isinstance(message, SealRequest) and message.view in self.topology.views:
                self._seals.append(message)
            elif isinstance(message, Sealed):
                self._seals = [s for s in self._seals if s.id != message.request]
            elif isinstance(message, BatchView) and message.view in self._views and not starting:
                self._batches[message.view] = message

    def _tasks(self, topic: str) -> list[ViewTask]:
        return [t for t in self._views.values() if t.view.topic.name == topic]

    def _agents_of(self, source: TopicPartition) -> list[Agent]:
        return [a for a in self.topology.agents.values() if (a.name, source) in self._offsets]


def _events(decoded: Decoded) -> EventBatch:
    chunk, picked = decoded.chunk, decoded.picked
    timestamps, keys = chunk.timestamps, chunk.keys
    return EventBatch(
        source=decoded.source,
        values=decoded.values,
        offsets=decoded.offsets,
        timestamps=[timestamps[i] for i in picked],
        keys=[keys[i] for i in picked],
        headers=lambda: [chunk.headers[i] for i in picked],
    )


def caught_up(positions: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> bool:
    """True where every partition has been read up to its end."""
    return all(positions.get(source, end) >= end for source, end in ends.items())
