"""The parts that an Answer is merged from: what BatchView and Segments hold of a key, or of all, Slot by Slot."""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from streamkit.checkpoint import Slot, key_range, next_prefix, segment_prefix, slot_key, slot_of, task_prefix
from streamkit.fold import Fold, State
from streamkit.record import TopicPartition
from streamkit.serving.batches import BatchFiles
from streamkit.serving.copies import Copies
from streamkit.serving.seam import Seam
from streamkit.view import View

Pair = tuple[bytes, bytes]
"""A Slot and a state, as they are stored."""

Piece = tuple[Slot, list[tuple[Slot, State]], list[tuple[Slot, State]]]
"""A Slot of the whole, and what batch and speed hold of it."""


class Parts:
    """Reads BatchViews and copies of tasks, as a Seam says."""

    def __init__(self, files: BatchFiles, copies: Copies) -> None:
        self._files, self._copies = files, copies
        self._folds: dict[str, Fold] = {}

    def fold(self, view: View) -> Fold:
        if view.name not in self._folds:
            self._folds[view.name] = Fold(view)
        return self._folds[view.name]

    def of_key(
        self, view: View, seam: Seam, key: tuple[Any, ...], wanted: Sequence[tuple[int, int]] | None
    ) -> tuple[list[tuple[Slot, State]], list[tuple[Slot, State]]]:
        load = self.fold(view).load
        if wanted is None:
            batch = self._files.of_key(seam.batch, key) if seam.batch else iter(())
            speed: Iterator[Pair] = itertools.chain.from_iterable(self._speed(view, seam, key))
        else:
            slots = [slot_key(Slot(key, *span)) for span in wanted]
            batch = self._files.exactly(seam.batch, slots) if seam.batch else iter(())
            speed = self._exactly(view, seam, slots)
        return [(slot_of(s), load(v)) for s, v in batch], [(slot_of(s), load(v)) for s, v in speed]

    def _exactly(self, view: View, seam: Seam, slots: list[bytes]) -> Iterator[Pair]:
        for partition, spans in seam.segments.items():
            task = TopicPartition(view.topic.name, partition)
            prefixes = [task_prefix(task) + segment_prefix(view.name, start) for start, _ in spans]
            keys = [(slot, prefix + slot) for prefix in prefixes for slot in slots]
            copy = self._copies.of(task) if keys else None
            found = copy.get([at for _, at in keys]) if copy is not None else []
            yield from ((slot, state) for (slot, _), state in zip(keys, found, strict=True) if state is not None)

    def _speed(
        self, view: View, seam: Seam, key: tuple[Any, ...] | None, begin: bytes = b""
    ) -> Iterator[Iterator[Pair]]:
        """Slots and states of each Segment from `begin` on, in order within it."""
        for partition, spans in seam.segments.items():
            task = TopicPartition(view.topic.name, partition)
            for start, _ in spans:
                copy = self._copies.of(task)
                assert copy is not None
                prefix = task_prefix(task) + segment_prefix(view.name, start)
                first, end = (prefix, next_prefix(prefix)) if key is None else key_range(prefix, key)
                yield _strip(len(prefix), copy.scan(min(max(first, prefix + begin), end), end))

    def pieces(
        self, view: View, seam: Seam, key: tuple[Any, ...] | None = None, after: Slot | None = None
    ) -> Iterator[Piece]:
        """Each Slot of the whole, after one, with what batch and speed hold of it. Opens all that it will read."""
        begin = b""
        if after is not None:
            # A session may have begun in any Slot of its key before this one.
            begin = slot_key(after)[:-16] if view.window.merges else slot_key(after) + b"\0"
        of_batch: Iterable[Pair] = ()
        if seam.batch is not None:
            of_batch = self._files.all(seam.batch, begin) if key is None else self._files.of_key(seam.batch, key, begin)
        tagged = [((slot, 0, state) for slot, state in of_batch)]
        tagged += [((slot, 1, state) for slot, state in part) for part in self._speed(view, seam, key, begin)]
        pieces = self._join(view, heapq.merge(*tagged))
        if after is None or not view.window.merges:
            return pieces
        return (p for p in pieces if p[0].key != after.key or p[0].start > after.start)

    def _join(self, view: View, tagged: Iterable[tuple[bytes, int, bytes]]) -> Iterator[Piece]:
        """Sorted parts, merged one Slot at a time; sessions one key at a time, as only then is it known which join."""
        fold = self.fold(view)
        same = slice(-16) if view.window.merges else slice(None)
        for _, group in itertools.groupby(tagged, key=lambda item: item[0][same]):
            parts = [(layer, slot_of(slot), fold.load(state)) for slot, layer, state in group]
            begin = 0
            for slot in sorted(fold.merge_slots((s, state) for _, s, state in parts)):
                # Parts and wholes are in order, so each part is looked at once: a key may have a million.
                end = bisect_left(parts, max(slot.end, slot.start + 1), begin + 1, key=lambda part: part[1].start)
                mine, begin = parts[begin:end], end
                batch, speed = ([(s, state) for layer, s, state in mine if layer == n] for n in (0, 1))
                yield slot, batch, speed


def _strip(length: int, pairs: Iterator[Pair]) -> Iterator[Pair]:
    return ((at[length:], state) for at, state in pairs)
