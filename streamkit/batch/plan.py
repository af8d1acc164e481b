"""Plans: which offsets a batch recomputation reads, divided into Splits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from streamkit.control import BatchView, Kind
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
    """A recomputation of one View over `[starts, offsets)`; written before it begins, so that a killed one goes on.

    `before` is the BatchView in force when it was planned. An incremental run starts from it and reads what is after
    its Cut; a full one reads all, and divides its Splits at that Cut, so that both can be compared there.
    """

    view: str
    fingerprint: str
    topic: str
    topic_id: str
    starts: dict[int, int]
    offsets: dict[int, int]
    split_records: int = SPLIT_RECORDS
    before: BatchView | None = None
    incremental: bool = False

    @property
    def kind(self) -> Kind:
        return "incremental" if self.incremental else "full"

    @property
    def base(self) -> BatchView | None:
        """The BatchView that an incremental run starts from."""
        return self.before if self.incremental else None

    @property
    def cut(self) -> Cut:
        return Cut(self.topic, self.topic_id, self.offsets)

    @property
    def records(self) -> int:
        """Offsets that are read."""
        return sum(end - (self._divided(p) if self.incremental else self.starts[p]) for p, end in self.offsets.items())

    def splits(self) -> list[Split]:
        """Splits of at most `split_records`, the partitions' in turn, so that all of them are read at once.

        >>> plan = Plan("v", "f", "t", "id", {0: 0, 1: 5}, {0: 25, 1: 5}, split_records=10)
        >>> [s.name for s in plan.splits()]
        ['0-0-10', '0-10-20', '0-20-25']
        """
        older = [] if self.incremental else self._between(self.starts, {p: self._divided(p) for p in self.offsets})
        newer = self._between({p: self._divided(p) for p in self.offsets}, self.offsets)
        return sorted([*older, *newer], key=lambda s: (s.start, s.partition))

    def splits_before(self) -> list[Split]:
        """Those of a full run that together are the BatchView `before`."""
        return [split for split in self.splits() if split.end <= self._divided(split.partition)]

    def _divided(self, partition: int) -> int:
        """Where what `before` has counted ends; the start of a partition that was added since."""
        start, counted = self.starts[partition], self.before.offsets if self.before else {}
        return min(max(start, counted.get(partition, start)), self.offsets[partition])

    def _between(self, starts: Mapping[int, int], ends: Mapping[int, int]) -> list[Split]:
        return [
            Split(p, start, min(start + self.split_records, end))
            for p, end in ends.items()
            for start in range(starts[p], end, self.split_records)
        ]


def make_plan(
    view: View,
    cut: Cut,
    log_starts: Mapping[int, int],
    counted_from: Mapping[int, int],
    split_records: int = SPLIT_RECORDS,
    *,
    before: BatchView | None = None,
    incremental: bool = False,
) -> Plan:
    """The plan that recomputes `view` at `cut`; from the BatchView `before` on where it is `incremental`.

    `counted_from` tells down to where older results (a BatchView, or the worker's Segments) have counted. Raises
    OffsetOutOfRange where retention has since deleted some of that: the new result would lack what the old one had. An
    incremental run needs only what comes after the Cut of `before`.
    """
    base = before if incremental else None
    for partition, first in {**counted_from, **(base.offsets if base else {})}.items():
        there = log_starts.get(partition, 0)
        if there > first:
            raise OffsetOutOfRange(_deleted(view, partition, first, there, base))
    starts = {p: min(log_starts.get(p, 0), end) for p, end in cut.offsets.items()}
    starts |= base.starts if base else {}
    offsets = dict(cut.offsets)
    return Plan(
        view.name, view.fingerprint, cut.topic, cut.topic_id, starts, offsets, split_records, before, incremental
    )


def _deleted(view: View, partition: int, first: int, there: int, base: BatchView | None) -> str:
    records = f"{view.topic.name}/{partition}: the records [{first}, {there})"
    if base is not None:
        return (
            f"{records} came after BatchView {base.id} of view {view.name!r} and have been deleted from the log since, "
            f"before they were counted in batch. Give topics retention.ms=-1, or run the batch more often; to accept "
            f"the loss: `streamkit reset TOPOLOGY {view.name}`"
        )
    return (
        f"{records} were counted in view {view.name!r} and have been deleted from the log since: a recomputation would "
        f"lose them. Give topics that are replayed retention.ms=-1; to accept the loss: `streamkit reset TOPOLOGY "
        f"{view.name}`, then the View starts at the log's start"
    )


def plan_file(folder: Path) -> Path:
    return folder / "plan.json"


def read_plan(folder: Path) -> Plan | None:
    """The Plan that is under way, or was stopped, in a View's folder; None where there is none."""
    path = plan_file(folder)
    return msgspec.json.decode(path.read_bytes(), type=Plan) if path.exists() else None
