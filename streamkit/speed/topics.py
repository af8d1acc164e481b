"""The topics of a worker, known by their ids: one that was made again has other records at the same offsets."""

from __future__ import annotations

from streamkit.changelog.changelogs import Changelogs
from streamkit.control import KeptOn
from streamkit.errors import TopicChanged, TopicMissing
from streamkit.log.base import Log
from streamkit.log.control import ControlTopic
from streamkit.topic import REPLAYABLE
from streamkit.topology import Topology


class Topics:
    """What a topology reads, its changelogs, and what a worker makes for itself. Raises TopicMissing."""

    def __init__(self, topology: Topology, log: Log) -> None:
        self._topology, self._log = topology, log
        self._sources = topology.sources()
        self.changelogs = Changelogs(log, topology.name)
        for topic in topology.grouped.values():
            log.create(topic.name, partitions=topic.partitions, config=REPLAYABLE)
        self.ids = {name: log.describe(name).id for name in self._sources}

    def make(self, control: ControlTopic) -> None:
        """Make what is the worker's own to write; `control`, read to its end, tells of the changelogs there were.

        Raises TopicChanged where one of those is gone: see `KeptOn`.
        """
        for name, topic in self._sources.items():
            known = control.published.changelog(name)
            self.changelogs.make(name, self._log.describe(name).partitions, known=known)
            if not known:
                control.append(KeptOn(name, self.changelogs.id(name)))
            self.make_replays(name)
            if topic.errors == "dead_letter":
                self._log.create(topic.dead_letters, partitions=1, config=REPLAYABLE)
        for out in {topic for agent in self._topology.agents.values() for topic in agent.topics}:
            self._log.create(out.name, partitions=out.partitions, config=REPLAYABLE)

    def make_replays(self, name: str) -> None:
        """As many partitions as the topic has: a replayed event goes to the worker that has its task."""
        topic = self._sources[name]
        if topic.errors == "dead_letter" and self._topology.agents_of(name):
            partitions = self._log.describe(name).partitions
            self._log.create(topic.replays, partitions=partitions, config=REPLAYABLE)
            self._log.grow(topic.replays, partitions)

    def check(self) -> None:
        """Are all that are read, and the changelogs, still the same? Raises TopicMissing, TopicChanged."""
        for name, known in self.ids.items():
            try:
                found = self._log.describe(name).id
            except TopicMissing as error:
                raise TopicMissing(
                    f"topic {name!r} (id {known}) was deleted while topology {self._topology.name!r} read it. Make it "
                    f"again: `streamkit create-topics TOPOLOGY`; discard the old state: `streamkit reset TOPOLOGY`; "
                    f"then start the worker"
                ) from error
            if found != known:
                raise TopicChanged(
                    f"topic {name!r} was deleted and made again while topology {self._topology.name!r} read it (id "
                    f"{found}, it began with {known}): its offsets mean other records now. Nothing of the new topic "
                    f"was counted. Discard the old state: `streamkit reset TOPOLOGY`, then start the worker"
                )
            self.changelogs.check(name)
