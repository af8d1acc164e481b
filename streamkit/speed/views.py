"""Views in the speed layer: the open Segment of each partition, sealed and released at Checkpoints."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import polars as pl

from streamkit.changelog.changes import Changes
from streamkit.changelog.state import within
from streamkit.checkpoint import (
    Origin,
    Segments,
    Slot,
    garbage_key,
    key_range,
    next_prefix,
    origin_key,
    pack,
    segment_prefix,
    segments_key,
    slot_key,
    slot_of,
    states_range,
    task_prefix,
)
from streamkit.control import BatchView, Sealed
from streamkit.decode import Decoded, Rejected
from streamkit.errors import DefinitionChanged, TopicChanged
from streamkit.fold import FOLD_ROWS, MANY, Fold, State, States
from streamkit.log.base import Change
from streamkit.packed import Packed
from streamkit.record import TopicPartition
from streamkit.speed.pending import AsObjects, pending
from streamkit.store.base import Store
from streamkit.store.filter import Filter
from streamkit.view import View

Span = tuple[int, int]

_unpack_segments = msgspec.msgpack.Decoder(Segments).decode
_unpack_origin = msgspec.msgpack.Decoder(Origin).decode
_unpack_spans = msgspec.msgpack.Decoder(tuple[Span, ...]).decode

_KEYS_READ = 100_000
"""Keys from which on a Segment is too large to read them all."""
PURGED = 20_000
"""States of released Segments that one Checkpoint deletes: each is a change."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a Checkpoint is to make durable of one View, by partition, and what is so afterwards.

    `grown` are the bytes of keys that the Store does not have yet, with their states.
    """

    changes: Mapping[int, Changes]
    grown: Mapping[int, int]
    segments: Mapping[int, Segments]
    garbage: Mapping[int, tuple[Span, ...]]


class ViewTask:
    """One View over the partitions of its topic that are this worker's.

    `absorb` takes values in; nothing of them is durable, or seen by a reader, until `prepare`'s changes are. A crash
    before that loses what was absorbed and the offsets with it, so the values come again.
    """

    def __init__(self, view: View, store: Store, topic_id: str) -> None:
        self.view = view
        self.fold = Fold(view)
        self._store = store
        self._topic_id = topic_id
        self.segments: dict[int, Segments] = {}
        self._garbage: dict[int, tuple[Span, ...]] = {}
        self._unsaved: dict[int, list[Change]] = {}
        self._discarded: set[int] = set()
        """Partitions whose states in the Store go with the next Checkpoint: until then they count for nothing."""
        self.resets: dict[int, str] = {}
        """The Reset that each partition's state comes after."""
        self._read: dict[int, int] = {}
        self._filters: dict[int, tuple[int, Filter | None]] = {}
        """Of the open Segment, whose start comes first; None for a Segment that has too many keys to begin one."""
        self._waiting: list[Decoded] = []
        self._pending = pending(self.fold)

    # -- partitions ---------------------------------------------------------------------------------------------------

    def open(self, partition: int, first: int, batch: BatchView | None, reset: str) -> None:
        """Take up the state in the Store, or begin: after the newest BatchView, else at `first`, the log's start.

        A state from before `reset` is discarded. Raises DefinitionChanged, TopicChanged.
        """
        keys = [self._at(partition) + key(self.view.name) for key in (origin_key, segments_key, garbage_key)]
        origin, segments, garbage = self._store.get(keys)
        before = None if origin is None else _unpack_origin(origin)
        if before is not None and before.reset != reset:
            return self.restart(partition, first, reset)
        self._check_origin(before)
        self.resets[partition] = reset
        self._garbage[partition] = () if garbage is None else _unpack_spans(garbage)
        if segments is not None:
            self.segments[partition] = _unpack_segments(segments)
        else:
            counted = batch.offsets.get(partition) if batch else None
            begin = first if counted is None else counted
            self.segments[partition] = Segments(begin, begin, whole=counted is None)
            self._unsaved[partition] = [self._origin(reset), self._segments(self.segments[partition])]
        self._read[partition] = self.segments[partition].end
        return None

    def restart(self, partition: int, first: int, reset: str) -> None:
        """Discard what is known of a partition, at the next Checkpoint, and begin at `first`."""
        prefix = self._at(partition)
        start, end = states_range(self.view.name)
        gone: list[Change] = [(at[len(prefix) :], None) for at, _ in self._store.scan(prefix + start, prefix + end)]
        self.segments[partition] = Segments(first, first)
        self.resets[partition] = reset
        self._discarded.add(partition)
        self._garbage[partition] = ()
        self._pending.drop(partition)
        self._filters.pop(partition, None)
        self._waiting = [waiting for waiting in self._waiting if waiting.source.partition != partition]
        self._read[partition] = first
        nothing: list[Change] = [(garbage_key(self.view.name), None)]
        self._unsaved[partition] = [*gone, *nothing, self._origin(reset), self._segments(self.segments[partition])]

    def close(self, partition: int) -> None:
        """Let a partition go; comes right after a Checkpoint, so nothing is pending."""
        for known in (self.segments, self._garbage, self._unsaved, self.resets, self._read):
            known.pop(partition, None)
        self._pending.drop(partition)
        self._filters.pop(partition, None)
        self._discarded.discard(partition)

    def _check_origin(self, before: Origin | None) -> None:
        if before is not None and before.fingerprint != self.view.fingerprint:
            raise DefinitionChanged(
                f"view {self.view.name!r} was changed since its state was written (definition {self.view.fingerprint}, "
                f"state {before.fingerprint}). Put the old definition back; or keep it and declare the new one beside "
                f"it with version={self.view.version + 1}, then `streamkit upgrade TOPOLOGY {self.view.base}`; or "
                f"discard the state: `streamkit reset TOPOLOGY {self.view.name}`, and it is computed anew from the log"
            )
        if before is not None and before.topic_id != self._topic_id:
            raise TopicChanged(
                f"topic {self.view.topic.name!r} was deleted and made again since the state of view {self.view.name!r} "
                f"was written (id {self._topic_id}, state {before.topic_id}): its offsets mean other records now. "
                f"Discard the state: `streamkit reset TOPOLOGY`"
            )

    def _task(self, partition: int) -> TopicPartition:
        return TopicPartition(self.view.topic.name, partition)

    def _at(self, partition: int) -> bytes:
        return task_prefix(self._task(partition))

    def _origin(self, reset: str) -> Change:
        origin = Origin(self.view.fingerprint, self.view.topic.name, self._topic_id, reset)
        return origin_key(self.view.name), pack(origin)

    def _segments(self, segments: Segments) -> Change:
        return segments_key(self.view.name), pack(segments)

    # -- events -------------------------------------------------------------------------------------------------------

    def position(self, partition: int) -> int:
        """The next offset this View wants of a partition."""
        return self._read[partition]

    def absorb(self, decoded: Decoded) -> list[Rejected]:
        """Take values in; those before the View's position are known already."""
        fresh = decoded.since(self._read[decoded.source.partition])
        if not len(fresh):
            return []
        self._waiting.append(fresh)
        if sum(map(len, self._waiting)) < FOLD_ROWS:
            return []
        return self.fold_waiting()

    def reached(self, partition: int, offset: int) -> None:
        """All records before `offset` have been absorbed, rejected or are no data."""
        self._read[partition] = max(self._read[partition], offset)

    def pending(self) -> int:
        """States that wait for a Checkpoint."""
        return len(self._pending)

    def fold_waiting(self) -> list[Rejected]:
        if not self._waiting:
            return []
        waiting, self._waiting = self._waiting, []
        return self._pending.absorb(waiting)

    # -- checkpoint ---------------------------------------------------------------------------------------------------

    def asks(self) -> bool:
        """Is there something to make durable that is no event: a partition just opened, states to be deleted?"""
        return bool(self._unsaved) or any(self._garbage.values())

    def prepare(self, seal: set[int], batch: BatchView | None) -> Prepared:
        """What to make durable so that all that was absorbed is; `fold_waiting` comes first.

        `seal` are the partitions whose Segment is to be closed. What `batch` has made superfluous is released; what it
        counts and a Segment straddles is read again from its Cut: see `Segments.adopt`.
        """
        if batch is not None and (batch.fingerprint, batch.topic_id) != (self.view.fingerprint, self._topic_id):
            batch = None
        changes: dict[int, Changes] = {}
        grown: dict[int, int] = {}
        segments: dict[int, Segments] = {}
        garbage: dict[int, tuple[Span, ...]] = {}
        for partition, before in self.segments.items():
            after = before.advance(self._read[partition])
            after = after.seal() if partition in seal else after
            cut = None if batch is None else batch.offsets.get(partition)
            kept = after if cut is None else after.adopt(cut)
            live = set(kept.all())
            released = tuple(span for span in after.all() if span not in live)
            changed = list(self._unsaved.get(partition, ()))
            merged = Changes()
            if before.start in {start for start, _ in live}:
                merged, grown[partition] = self._merged(partition, before.start)
            left, purged = self._purge(partition, kept, released)
            changed += purged
            if kept != before:
                changed.append(self._segments(kept))
            segments[partition], garbage[partition] = kept, left
            if changed or merged:
                changes[partition] = Changes.of([Changes(within(self._task(partition), changed)), merged])
        return Prepared(changes, grown, segments, garbage)

    def done(self, prepared: Prepared) -> None:
        """The changes are durable, and in the Store."""
        self.segments = dict(prepared.segments)
        self._garbage = dict(prepared.garbage)
        self._read = {p: s.end for p, s in self.segments.items()}
        self._pending.clear()
        self._unsaved, self._discarded = {}, set()

    def _merged(self, partition: int, segment: int) -> tuple[Changes, int]:
        """What was absorbed of a partition, merged into its open Segment, and the bytes of what is new in it."""
        prefix = self._at(partition) + segment_prefix(self.view.name, segment)
        if isinstance(self._pending, AsObjects) and self.view.window.merges and partition not in self._discarded:
            return Changes(self._merge_sessions(prefix, self._pending.states(partition))), 0
        packed = self._pending.packed(partition, prefix)
        if packed is not None:
            return self._merged_packed(partition, segment, packed)
        merge, load, dump = self.fold.merge, self.fold.load, self.fold.dump
        keys, states = self._pending.encoded(partition, prefix)
        dumped = self.fold.dump_all(states)
        grown = sum(map(len, keys)) + sum(map(len, dumped))
        asked = self._may_be_there(partition, segment, keys)
        for i, known in zip(asked, self._store.get([keys[i] for i in asked]), strict=True):
            if known is not None:
                dumped[i] = dump(merge(load(known), states[i]))
                grown -= len(keys[i]) + len(dumped[i])
        return Changes(list(zip(keys, dumped, strict=True))), grown

    def _merged_packed(self, partition: int, segment: int, packed: Packed) -> tuple[Changes, int]:
        """As `_merged`: what the Store has is merged one by one, the rest goes as it is."""
        merge, load, dump = self.fold.merge, self.fold.load, self.fold.dump
        asked = np.asarray(self._may_be_there(partition, segment, packed.keys.series), np.int64)
        there = self._store.get(packed.keys.series.gather(asked).to_list())
        found = asked[[known is not None for known in there]]
        known = [load(state) for state in there if state is not None]
        rows = [(key, dump(merge(k, load(state)))) for (key, state), k in zip(packed.at(found), known, strict=True)]
        fresh = packed.without(found)
        return Changes(rows, [fresh]), fresh.size

    def _may_be_there(self, partition: int, segment: int, keys: Sequence[bytes] | pl.Series) -> Sequence[int]:
        """The numbers of the keys that the Store may have; to ask it for one that it has not takes a microsecond.

        A Segment has a Filter from the first time on that many keys come at once, if it is small by then: after a
        restart a large one has none, as to read all its keys would take longer than it saves before the next seal.
        """
        if partition in self._discarded:
            return ()
        if self._filters.get(partition, (-1, None))[0] != segment:
            if len(keys) <= MANY:
                return range(len(keys))
            self._filters[partition] = segment, self._filter_of(partition, segment)
        filter_ = self._filters[partition][1]
        return range(len(keys)) if filter_ is None else np.flatnonzero(filter_.add(keys)).tolist()

    def _filter_of(self, partition: int, segment: int) -> Filter | None:
        start = self._at(partition) + segment_prefix(self.view.name, segment)
        there = [at for at, _ in itertools.islice(self._store.scan(start, next_prefix(start)), _KEYS_READ)]
        if len(there) == _KEYS_READ:
            return None
        filter_ = Filter()
        filter_.add(there)
        return filter_

    def _merge_sessions(self, prefix: bytes, states: States) -> list[Change]:
        """Sessions that a new one touches are replaced by one that spans them all."""
        old: dict[Slot, State] = {}
        for key in {slot.key for slot in states}:
            for found, dumped in self._store.scan(*key_range(prefix, key)):
                old[slot_of(found[len(prefix) :])] = self.fold.load(dumped)
        new = self.fold.merge_slots([*old.items(), *states.items()])
        dump = self.fold.dump
        puts: list[Change] = [(prefix + slot_key(s), dump(new[s])) for s in new if old.get(s) != new[s]]
        return puts + [(prefix + slot_key(slot), None) for slot in old.keys() - new.keys()]

    def sealed(self, request: str, partitions: set[int]) -> Sealed:
        """The report that the open Segments of these partitions were sealed."""
        starts = {p: self.segments[p].all()[0][0] for p in partitions}
        ends = {p: self.segments[p].start for p in partitions}
        return Sealed(request, self.view.name, self.view.fingerprint, self._topic_id, starts, ends)

    # -- release ------------------------------------------------------------------------------------------------------

    def _purge(
        self, partition: int, kept: Segments, released: tuple[Span, ...]
    ) -> tuple[tuple[Span, ...], list[Change]]:
        """Delete states of released Segments, some at each Checkpoint; what is left is remembered as garbage.

        A Segment that is released and whose start may be a Segment's start again (the View reads again from before it)
        goes at once: states left over from it would count as the new one's.
        """
        before = self._garbage.get(partition, ())
        waiting = [*before, *released]
        if not waiting:
            return (), []
        urgent = [span for span in waiting if span[0] >= kept.all()[0][0]]
        gone = [key for span in urgent for key in self._states(partition, span[0])]
        waiting = [span for span in waiting if span not in urgent]
        while waiting and len(gone) < PURGED:
            more = list(itertools.islice(self._states(partition, waiting[0][0]), PURGED - len(gone)))
            gone += more
            if len(gone) < PURGED:
                waiting.pop(0)
        left = tuple(waiting)
        changes: list[Change] = [(key, None) for key in gone]
        if left != before:
            changes.append((garbage_key(self.view.name), pack(left) if left else None))
        return left, changes

    def _states(self, partition: int, segment: int) -> Iterator[bytes]:
        task, prefix = self._at(partition), segment_prefix(self.view.name, segment)
        return (at[len(task) :] for at, _ in self._store.scan(task + prefix, next_prefix(task + prefix)))
