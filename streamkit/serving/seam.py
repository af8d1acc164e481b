"""Seams: the Cut at which batch and speed meet, and the Segments that lead there from a BatchView. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamkit.checkpoint import Segments
from streamkit.control import BatchView
from streamkit.cut import Cut
from streamkit.errors import CutMismatch
from streamkit.log.base import TopicInfo
from streamkit.view import View


@dataclass(frozen=True)
class Seam:
    """Where batch and speed meet for one View, and the Segments that are merged, by partition.

    `as_of` is the time of the newest Checkpoint (or BatchView) in it, in milliseconds since the epoch.
    """

    cut: Cut
    batch: BatchView | None
    segments: Mapping[int, tuple[tuple[int, int], ...]]
    as_of: int = 0


def furthest(view: View, topic: TopicInfo, segments: Mapping[int, Segments], batch: BatchView | None) -> Cut:
    """The furthest Cut that Segments and BatchView reach together."""
    offsets = {p: s.end for p, s in segments.items()}
    for partition, offset in (batch.offsets if batch else {}).items():
        offsets[partition] = max(offset, offsets.get(partition, 0))
    return Cut(view.topic.name, topic.id, offsets)


def meet(view: View, segments: Mapping[int, Segments], batch: BatchView | None, cut: Cut) -> Seam:
    """The Segments that lead from the BatchView to `cut`, per partition, without gap or overlap. Raises CutMismatch."""
    used = {}
    for partition, end in cut.offsets.items():
        there = segments.get(partition)
        counted = batch.offsets.get(partition) if batch else None  # None: the partition was added after it
        if counted is None and there and not there.whole:
            raise CutMismatch(f"{view.topic.name}/{partition}: {there} need a BatchView before them, and there is none")
        start = counted if counted is not None else (there.all()[0][0] if there else 0)
        spans = there.after(start) if there else ()
        spans = tuple(s for s in spans if s[1] <= end and s[0] < s[1])
        reached = spans[-1][1] if spans else start
        if reached != end:
            by = f"BatchView {batch.id}" if batch else "the first Segment"
            raise CutMismatch(
                f"{view.topic.name}/{partition}: from {by} at {start} the Segments lead to {reached}, not to {end} "
                f"({there or 'no Segments'})"
            )
        used[partition] = spans
    return Seam(cut, batch, used)
