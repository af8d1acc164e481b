"""Plans: which offsets a batch recomputation reads, divided into Splits."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from streamkit.cut import Cut
from streamkit.errors import OffsetOutOfRange
from streamkit.view import View

SPLIT_RECORDS = 250_000


class Split(msgspec.Struct, frozen=True):
    """The offsets `[start, end)` of one partition: what one task reads.

    >>> Split(0, 0, 250_000).name
    '0-0-250000'
    """

    partition: int
    start: int
    end: int

    @property
    def name(self) -> str:
        return f"{self.partition}-{self.start}-{self.end}"


class Plan(msgspec.Struct, frozen=True):
    """A recomputation of one View over `[starts, offsets)`; written before it begins, so that a killed one goes on."""

    view: str
    fingerprint: str
    topic: str
    topic_id: str
    starts: dict[int, int]
    offsets: dict[int, int]
    split_records: int = SPLIT_RECORDS

    @property
    def cut(self) -> Cut:
        return Cut(self.topic, self.topic_id, self.offsets)

    @property
    def records(self) -> int:
        return sum(end - self.starts[p] for p, end in self.offsets.items())

    def splits(self) -> list[Split]:
        """Splits of at most `split_records`, the partitions' in turn, so that all of them are read at once.

        >>> plan = Plan("v", "f", "t", "id", {0: 0, 1: 5}, {0: 25, 1: 5}, split_records=10)
        >>> [s.name for s in plan.splits()]
        ['0-0-10', '0-10-20', '0-20-25']
        """
        splits = [
            Split(p, start, min(start + self.split_records, end))
            for p, end in self.offsets.items()
            for start in range(self.starts[p], end, self.split_records)
        ]
        return sorted(splits, key=lambda s: (s.start, s.partition))


def make_plan(
    view: View,
    cut: Cut,
    log_starts: Mapping[int, int],
    counted_from: Mapping[int, int],
    split_records: int = SPLIT_RECORDS,
) -> Plan:
    """The plan that recomputes `view` at `cut`.

    `counted_from` tells down to where older results (a BatchView, or the worker's Segments) have counted. Raises
    OffsetOutOfRange where retention has since deleted some of that: the new result would lack what the old one had.
    """
    for partition, first in counted_from.items():
        there = log_starts.get(partition, 0)
        if there > first:
            raise OffsetOutOfRange(
                f"{view.topic.name}/{partition}: the records [{first}, {there}) were counted in view {view.name!r} "
                f"and have been deleted from the log since: a recomputation would lose them. Give topics that are "
                f"replayed retention.ms=-1; to accept the loss: `streamkit reset TOPOLOGY {view.name}`, then "
                f"the View starts at the log's start"
            )
    starts = {p: min(log_starts.get(p, 0), end) for p, end in cut.offsets.items()}
    return Plan(view.name, view.fingerprint, cut.topic, cut.topic_id, starts, dict(cut.offsets), split_records)
