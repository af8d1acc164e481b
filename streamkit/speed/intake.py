"""What becomes of a record that a worker reads: values for Views, events for Agents, or a dead letter."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from streamkit.agent import Agent
from streamkit.deadletter import REPLAY_AGENT, DeadLetter, Kind
from streamkit.decode import Decoder, Rejected
from streamkit.errors import AgentFailed, BadRecord
from streamkit.fold import fields_of
from streamkit.log.base import Committer
from streamkit.record import Chunk, TopicPartition
from streamkit.speed.agents import AgentHost, Failure
from streamkit.speed.ahead import Read
from streamkit.speed.batches import Waiting, columns_of, events_of, plain_fields
from streamkit.speed.events import EventBatch
from streamkit.speed.outputs import Outputs
from streamkit.speed.tasks import REJECTED, Tasks, view_unit
from streamkit.speed.views import ViewTask
from streamkit.topic import Topic
from streamkit.topology import Topology

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Counters:
    """What a worker has done since it started; `rejected` and `failed` records went where the topic's policy says."""

    events: int = 0
    rejected: int = 0
    failed: int = 0
    emitted: int = 0
    checkpoints: int = 0


class Intake:
    """Decodes Chunks, once for all, and hands what is new to each View and Agent."""

    def __init__(self, topology: Topology, tasks: Tasks, committer: Committer, counters: Counters) -> None:
        self._topology, self._tasks, self._committer, self.counters = topology, tasks, committer, counters
        self._sources = topology.sources()
        self._decoders = {name: Decoder(topic, _columns(topology, topic)) for name, topic in self._sources.items()}
        self._outputs = Outputs(committer, tasks, counters)
        self.host = AgentHost(
            list(topology.agents.values()), emit=self._outputs.emit, failed=self._agent_failed, tables=tasks.tables,
            calls=self._outputs, timers=list(topology.timers.values()),
        )  # fmt: skip
        self._waiting = Waiting(self._feed)

    def decode(self, chunk: Chunk) -> Read:
        """The first half of `take`: it depends on nothing but the Chunk, and changes nothing."""
        topic = self._sources.get(chunk.source.topic) or self._replayed(chunk.source)
        return Read(chunk, *self._decoders[topic.name](chunk))

    def take(self, read: Read) -> None:
        """Raises BadRecord, AgentFailed where the topic's error policy is `fail`."""
        chunk, decoded = read.chunk, read.decoded
        topic = self._sources.get(chunk.source.topic)
        if topic is None:
            self._take_replayed(read)
            return
        self._reject("decode", "", topic, self._fresh(chunk.source, read.rejected))
        for task in self._tasks.views.values():
            if task.view.topic.name == topic.name:
                self._reject_of(task, task.absorb(decoded))
        for agent in self._agents_of(chunk.source):
            fresh = decoded.since(self._tasks.offsets[agent.name, chunk.source])
            if len(fresh) and agent.batches:
                self._waiting.add(agent, fresh)
            elif len(fresh):
                self._feed(events_of(fresh), agent)

    def fold(self) -> None:
        """Make states of all that Views have absorbed, and feed all that waits for a frame."""
        self._waiting.release()
        for task in self._tasks.views.values():
            self._reject_of(task, task.fold_waiting())

    def _feed(self, batch: EventBatch, agent: Agent) -> None:
        self.host.feed(batch, agent=agent)

    def _reject_of(self, task: ViewTask, rejected: Iterable[Rejected]) -> None:
        """A View that reads again (reset, a BatchView across its Segment) rejects again; one dead letter will do."""
        name = task.view.name
        fresh = [r for r in rejected if r.offset >= self._tasks.saved[view_unit(name), r.source]]
        self._reject("view", name, task.view.topic, fresh)

    def _fresh(self, source: TopicPartition, rejected: list[Rejected]) -> Iterable[Rejected]:
        """Without those that were rejected before: a View that reads again makes the whole partition come again."""
        known = self._tasks.offsets[REJECTED, source] if rejected else 0
        return [r for r in rejected if r.offset >= known]

    def _replayed(self, source: TopicPartition) -> Topic:
        return next(t for t in self._sources.values() if t.replays == source.topic)

    def _take_replayed(self, read: Read) -> None:
        """Events that `streamkit dead-letter replay` sent to one agent each; no View sees them."""
        chunk, decoded = read.chunk, read.decoded
        self._reject("decode", "", self._replayed(chunk.source), read.rejected)
        for i, at in enumerate(decoded.picked):
            name = (dict(chunk.headers[at]).get(REPLAY_AGENT) or b"").decode()
            agent = self._topology.agents.get(name)
            if agent is not None and decoded.offsets[i] >= self._tasks.offsets[name, chunk.source]:
                one = decoded.slice(i, i + 1)
                self._feed(columns_of([one]) if agent.batches else events_of(one), agent)

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
                self._committer.send(topic.dead_letters, record.value, key=record.key, headers=letter.headers())

    # -- agents, called in their host's thread ------------------------------------------------------------------------

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
            self._committer.send(topic.dead_letters, value, key=event.key, headers=letter.headers())
        self._outputs.refuse(failure)

    def _agents_of(self, source: TopicPartition) -> list[Agent]:
        return [a for a in self._topology.agents.values() if (a.name, source) in self._tasks.offsets]


def _columns(topology: Topology, topic: Topic) -> set[str]:
    """The fields of a topic that some View reads, or some Agent as columns."""
    views = [view for view in topology.views.values() if view.topic.name == topic.name]
    fields = {field for view in views for field in fields_of(view)}
    return fields.union(*(plain_fields(topic) for agent in topology.agents_of(topic.name) if agent.batches))
