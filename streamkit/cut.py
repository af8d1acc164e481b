"""Cuts: a vector of offsets at which a topic is divided. Ends are exclusive, always."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamkit.errors import TopicChanged


@dataclass(frozen=True)
class Cut:
    """`{partition -> next offset}` of one topic, known by its id.

    >>> early, late = Cut("clicks", "id1", {0: 5, 1: 7}), Cut("clicks", "id1", {0: 9, 1: 7})
    >>> late.covers(early), early.covers(late)
    (True, False)
    >>> late.count(since=early)
    4
    >>> str(late)
    'clicks[0:9 1:7]'
    """

    topic: str
    topic_id: str
    offsets: Mapping[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "offsets", dict(sorted(self.offsets.items())))

    def __hash__(self) -> int:
        return hash((self.topic_id, tuple(self.offsets.items())))

    def covers(self, other: Cut) -> bool:
        """True where every record before `other` is before this Cut too."""
        self._same_topic(other)
        return all(self.offsets.get(p, 0) >= offset for p, offset in other.offsets.items())

    def count(self, *, since: Cut | None = None) -> int:
        """Offsets between `since` (or zero) and this Cut."""
        if since is not None:
            self._same_topic(since)
        before = since.offsets if since else {}
        return sum(offset - before.get(p, 0) for p, offset in self.offsets.items())

    def _same_topic(self, other: Cut) -> None:
        if (self.topic, self.topic_id) != (other.topic, other.topic_id):
            raise TopicChanged(
                f"cannot compare Cuts of {self.topic} (id {self.topic_id}) and {other.topic} (id {other.topic_id}): "
                f"the topic was deleted and made again"
            )

    def __str__(self) -> str:
        return f"{self.topic}[{' '.join(f'{p}:{o}' for p, o in self.offsets.items())}]"
