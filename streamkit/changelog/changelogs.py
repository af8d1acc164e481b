"""Where the changelogs of a topology's tasks are."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from streamkit.checkpoint import CHANGELOG_CONFIG, changelog_topic
from streamkit.errors import TopicChanged, TopicMissing
from streamkit.log.base import Log, TopicInfo
from streamkit.record import TopicPartition


class Changelogs:
    """Where the changelogs of one topology's tasks are: one topic for each source topic, partition for partition."""

    def __init__(self, log: Log, topology: str) -> None:
        self._log, self._topology = log, topology
        self._prefix = changelog_topic(topology, "")
        self._ids: dict[str, str] = {}

    def make(self, topic: str, partitions: int, *, known: str = "") -> None:
        """Make the changelog of a source topic, or give it the partitions that it lacks.

        One that is `known` by its id is never made again. Raises TopicChanged where it is gone.
        """
        name = changelog_topic(self._topology, topic)
        self._ids |= {topic: known} if known else {}
        if topic in self._ids:
            info = self.check(topic)
        else:
            info = self._log.create(name, partitions=partitions, config=CHANGELOG_CONFIG)
        if info.partitions < partitions:
            info = self._log.grow(name, partitions)
        self._ids[topic] = info.id

    def check(self, topic: str) -> TopicInfo:
        """Is the changelog of a source topic still the one that it was? Raises TopicChanged."""
        known, info = self._ids[topic], None
        with suppress(TopicMissing):
            info = self._log.describe(changelog_topic(self._topology, topic))
        if info is None or info.id != known:
            now = "there is none now" if info is None else f"the one that is there now has id {info.id}"
            raise TopicChanged(
                f"the changelog of topic {topic!r}, {changelog_topic(self._topology, topic)} with id {known}, was "
                f"deleted, and not by `streamkit reset` ({now}). It was the truth of the state of topology "
                f"{self._topology!r}: nobody can tell whether a copy lacks some of it. Begin anew, from the log's "
                f"start: stop the workers, then `streamkit reset TOPOLOGY`"
            )
        return info

    def id(self, topic: str) -> str:
        """The id of a source topic's changelog; raises TopicMissing where there is none yet."""
        if topic not in self._ids:
            self._ids[topic] = self._log.describe(changelog_topic(self._topology, topic)).id
        return self._ids[topic]

    def renew(self) -> None:
        """As `forget`, at once: raises before anything has changed."""
        ids = {}
        for topic in self._ids:
            with suppress(TopicMissing):
                ids[topic] = self._log.describe(changelog_topic(self._topology, topic)).id
        self._ids = ids

    def forget(self) -> None:
        """Ask the broker anew: a reset makes changelogs with other ids."""
        self._ids = {}

    def of(self, task: TopicPartition) -> TopicPartition:
        return TopicPartition(changelog_topic(self._topology, task.topic), task.partition)

    def task_of(self, changelog: TopicPartition) -> TopicPartition:
        return TopicPartition(changelog.topic.removeprefix(self._prefix), changelog.partition)

    def starts(self, topic: str) -> dict[int, int]:
        return self._log.starts(changelog_topic(self._topology, topic))

    def ends(self, topic: str, *, committed: bool) -> dict[int, int]:
        return self._log.ends(changelog_topic(self._topology, topic), committed=committed)

    def cut(self, task: TopicPartition, start: int) -> None:
        """Delete a task's changelog before an offset from which on it has it all. Raises TopicChanged, LogError.

        A worker that was stopped between the look at the topic and the request may meet another changelog, made by a
        reset meanwhile, and cut that: whoever restores from it finds that out, see `Follower`.
        """
        self.check(task.topic)
        changelog = self.of(task)
        self._log.delete_records(changelog.topic, {changelog.partition: start})


def existing(log: Log, topology: str, topics: Iterable[str]) -> dict[str, int]:
    """Source topics that have a changelog, and how many partitions it has."""
    found = {}
    for topic in topics:
        try:
            found[topic] = log.describe(changelog_topic(topology, topic)).partitions
        except TopicMissing:
            continue
    return found
