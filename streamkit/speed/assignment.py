"""Which tasks are this worker's: membership in the group, restoring what it takes over, and standby copies.

A task (a source partition and all state of it) is taken over in three steps, and the others are never stopped by it:

    assigned   by the group (KIP-848); the worker that had it has made its last Checkpoint and given it back, or is lost
    restored   this store's copy has followed the changelog to its end, an open transaction of the old worker included
    opened     Views and Agents go on where the state says
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from hashlib import blake2b
from typing import Protocol

from streamkit.changelog.changelogs import Changelogs
from streamkit.changelog.follower import RESTORE_RECORDS, Follower, Restoring
from streamkit.errors import Fenced
from streamkit.log.base import Log
from streamkit.record import TopicPartition
from streamkit.store.base import Store

logger = logging.getLogger(__name__)
_PLACE_SECONDS = 2.0
_SHORT = 50_000
"""Changes of state that are followed at a time where other tasks are worked on: they wait meanwhile, for a fifth of a
second at most."""


class Owner(Protocol):
    """Who works on the tasks."""

    def open_tasks(self, tasks: Collection[TopicPartition]) -> None:
        """Begin to work on these; their state is in the Store."""

    def give_up(self, tasks: Collection[TopicPartition]) -> None:
        """Make a Checkpoint, then work on these no more. They are nobody else's until this returns."""


class Assignment:
    """A GroupListener that keeps an Owner busy with what the group has given to it."""

    def __init__(
        self,
        log: Log,
        changelogs: Changelogs,
        store: Store,
        owner: Owner,
        *,
        group: str,
        topics: Collection[str],
        name: str,
        standbys: int,
    ) -> None:
        self._log, self._changelogs, self._owner = log, changelogs, owner
        self._group, self._standbys = group, standbys
        self._follower = Follower(log, changelogs, store)
        self._coming: set[TopicPartition] = set()
        self._open: set[TopicPartition] = set()
        self._placed = float("-inf")
        self._leaving = False
        self.restored = (0, 0.0)
        """Changes of state and seconds of the last time that tasks were restored."""
        self.member = log.join(group, topics, self, name=name)

    # -- what the group tells -----------------------------------------------------------------------------------------

    def assigned(self, sources: Collection[TopicPartition]) -> None:
        for topic in {source.topic for source in sources}:
            self._changelogs.make(topic, self._log.describe(topic).partitions)
        # A standby's copy is followed anew: only now does the log's end tell of all that the worker before has sent.
        self._follower.drop(sources)
        self._follower.follow(sources, committed=False)
        self._coming |= set(sources)

    def revoked(self, sources: Collection[TopicPartition]) -> None:
        mine = self._open & set(sources)
        if mine:
            self._owner.give_up(mine)
            self._open -= mine
        self._leave_coming(sources)

    def lost(self, sources: Collection[TopicPartition]) -> None:
        """Everything since the last Checkpoint is void: others may have read the same records by now."""
        self._leave_coming(sources)
        if self._open & set(sources) and not self._leaving:
            raise Fenced(
                f"this worker was out of touch with group {self._group!r} for too long: its partitions "
                f"{', '.join(map(str, sorted(sources)))} are given to others; it begins again at its last Checkpoint"
            )

    def _leave_coming(self, sources: Collection[TopicPartition]) -> None:
        coming = self._coming & set(sources)
        self._follower.drop(coming)
        self._coming -= coming

    # -- verbs --------------------------------------------------------------------------------------------------------

    def poll(self, timeout: float = 0.0) -> None:
        """Hear the group, follow changelogs, and open what is restored. Raises Fenced, and what the Owner raises."""
        self.member.poll(timeout)
        if self._coming or self._follower.following():
            self._follow()
        if self._coming:
            restoring = self._follower.restoring()
            self.restored = (restoring.changes, restoring.seconds) if restoring.tasks else self.restored
        ready = {task for task in self._coming if self._follower.restored(task)}
        if ready:
            self._follower.drop(ready)
            self._coming -= ready
            self._owner.open_tasks(ready)
            self._open |= ready
        if self._standbys:
            self._place_standbys()

    def _follow(self) -> None:
        """Once, or, where other tasks are worked on, for as long as they may wait."""
        left = _SHORT
        while left > 0:
            read = self._follower.step(max_records=RESTORE_RECORDS)
            if not read or not self._open:
                return
            left -= read

    def tasks(self) -> frozenset[TopicPartition]:
        """Those that are worked on."""
        return frozenset(self._open)

    def restoring(self) -> Restoring | None:
        """How far the tasks are that are taken over; None where there are none."""
        return self._follower.restoring() if self._coming else None

    def leave(self) -> None:
        """Give everything back, each task after a Checkpoint, and leave the group."""
        self._leaving = True
        try:
            self.member.leave()
        finally:
            self._follower.close()

    # -- standbys -----------------------------------------------------------------------------------------------------

    def _place_standbys(self) -> None:
        now = time.monotonic()
        if now - self._placed < _PLACE_SECONDS:
            return
        self._placed = now
        wanted = standby_tasks(self._log.members(self._group), self.member.id, self._standbys)
        wanted = {task for task in wanted if task not in self._coming}
        copies = self._follower.following() - self._coming
        self._follower.drop(copies - wanted)
        self._follower.follow(wanted - copies)


def standby_tasks(members: Mapping[str, Collection[TopicPartition]], me: str, standbys: int) -> set[TopicPartition]:
    """The tasks of which the member `me` keeps a copy; none while the group does not know it.

    Each task is kept by `standbys` members beside its owner, those with the highest hash of member and task (rendezvous
    hashing, Thaler and Ravishankar 1998): all members come to the same, and one that comes or goes moves few copies.

    >>> a, b = TopicPartition("t", 0), TopicPartition("t", 1)
    >>> standby_tasks({"m1": {a}, "m2": {b}}, "m1", 1) == {b}
    True
    """
    tasks = {task: owner for owner, owned in members.items() for task in owned}
    chosen = set()
    for task, owner in tasks.items():
        ranked = sorted((m for m in members if m != owner), key=_weight(task), reverse=True)
        if owner != me and me in ranked[:standbys]:
            chosen.add(task)
    return chosen


def _weight(task: TopicPartition) -> Callable[[str], bytes]:
    return lambda member: blake2b(f"{member} {task}".encode(), digest_size=8).digest()
