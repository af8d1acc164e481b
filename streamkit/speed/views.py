"""Views in the speed layer: the open Segment of each partition, sealed and released at Checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from streamkit.checkpoint import (
    Origin,
    Segments,
    Slot,
    key_range,
    next_prefix,
    segment_prefix,
    segment_range,
    segments_key,
    slot_key,
    slot_of,
    view_key,
)
from streamkit.control import BatchView, Sealed
from streamkit.errors import DefinitionChanged, TopicChanged
from streamkit.fold import FOLD_ROWS, Decoded, Fold, Rejected, State, States
from streamkit.store.base import Store, Write
from streamkit.view import View

_pack, _unpack_segments = msgspec.msgpack.encode, msgspec.msgpack.Decoder(Segments).decode
_unpack_origin = msgspec.msgpack.Decoder(Origin).decode


class Prepared(NamedTuple):
    """What a Checkpoint is to make durable of one View."""

    puts: list[tuple[bytes, bytes]]
    deletes: list[bytes]
    segments: dict[int, Segments]


class ViewTask:
    """One View over all partitions of its topic.

    `absorb` takes values in; nothing of them is durable, or seen by a reader, until `prepare`'s writes are. A crash
    before that loses what was absorbed and the offsets with it, so the values come again.
    """

    def __init__(self, view: View, store: Store, topic_id: str) -> None:
        self.view = view
        self.fold = Fold(view)
        self._store = store
        self._topic_id = topic_id
        self.segments: dict[int, Segments] = {}
        self._read: dict[int, int] = {}
        self._waiting: list[Decoded] = []
        self._pending: dict[int, States] = {}

    # -- start --------------------------------------------------------------------------------------------------------

    def open(self, starts: Mapping[int, int], batch: BatchView | None) -> None:
        """Take up the state in the Store, or begin: after the newest BatchView, else at the log's start.

        Raises DefinitionChanged, TopicChanged.
        """
        puts = self._check_origin()
        keys = [segments_key(self.view.name, p) for p in starts]
        for (partition, first), found in zip(starts.items(), self._store.get(keys), strict=True):
            if found is not None:
                self.segments[partition] = _unpack_segments(found)
            else:
                begin = batch.offsets.get(partition, first) if batch else first
                self.segments[partition] = Segments(begin, begin, whole=batch is None)
                puts.append((segments_key(self.view.name, partition), _pack(self.segments[partition])))
        if puts:
            self._store.write(Write(puts=puts))
        self._read = {p: s.end for p, s in self.segments.items()}

    def _check_origin(self) -> list[tuple[bytes, bytes]]:
        origin = Origin(self.view.fingerprint, self.view.topic.name, self._topic_id)
        found = self._store.get([view_key(self.view.name)])[0]
        if found is None:
            return [(view_key(self.view.name), _pack(origin))]
        before = _unpack_origin(found)
        if before.fingerprint != origin.fingerprint:
            raise DefinitionChanged(
                f"view {self.view.name!r} was changed since its state was written (definition {origin.fingerprint}, "
                f"state {before.fingerprint}). Put the old definition back, give the new one another name, or discard "
                f"the state: `streamkit reset TOPOLOGY {self.view.name}`; the View is then computed anew from the log"
            )
        if before.topic_id != origin.topic_id:
            raise TopicChanged(
                f"topic {origin.topic!r} was deleted and made again since the state of view {self.view.name!r} was "
                f"written (id {origin.topic_id}, state {before.topic_id}): its offsets mean other records now. "
                f"Discard the state: `streamkit reset TOPOLOGY {self.view.name}`"
            )
        return []

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

    def fold_waiting(self) -> list[Rejected]:
        if not self._waiting:
            return []
        states, bad = self.fold.states(self._waiting)
        self._waiting = []
        self.fold.merge_into(self._pending, states)
        return bad

    # -- checkpoint ---------------------------------------------------------------------------------------------------

    def prepare(self, *, seal: bool) -> Prepared:
        """What to write so that all that was absorbed is durable. `fold_waiting` comes first."""
        merge = self._merge_sessions if self.view.window.merges else self._merge_slots
        puts: list[tuple[bytes, bytes]] = []
        deletes: list[bytes] = []
        for partition, states in self._pending.items():
            prefix = segment_prefix(self.view.name, partition, self.segments[partition].start)
            old, new = merge(prefix, states)
            puts += ((prefix + slot_key(slot), self.fold.dump(state)) for slot, state in new.items())
            deletes += (prefix + slot_key(slot) for slot in old)
        segments = {p: s.advance(self._read[p]) for p, s in self.segments.items()}
        if seal:
            segments = {p: s.seal() for p, s in segments.items()}
        changed = {p: s for p, s in segments.items() if s != self.segments[p]}
        puts += ((segments_key(self.view.name, p), _pack(s)) for p, s in changed.items())
        return Prepared(puts, deletes, segments)

    def done(self, prepared: Prepared) -> None:
        """The Write is durable."""
        self.segments = prepared.segments
        self._pending = {}

    def _merge_slots(self, prefix: bytes, states: States) -> tuple[set[Slot], States]:
        found = self._store.get([prefix + slot_key(slot) for slot in states])
        return set(), {
            slot: state if have is None else self.fold.merge(self.fold.load(have), state)
            for (slot, state), have in zip(states.items(), found, strict=True)
        }

    def _merge_sessions(self, prefix: bytes, states: States) -> tuple[set[Slot], States]:
        """Sessions that a new one touches are replaced by one that spans them all."""
        old: dict[Slot, State] = {}
        for key in {slot.key for slot in states}:
            for at, dumped in self._store.scan(*key_range(prefix, key)):
                old[slot_of(at[len(prefix) :])] = self.fold.load(dumped)
        new = self.fold.merge_slots([*old.items(), *states.items()])
        return old.keys() - new.keys(), {slot: state for slot, state in new.items() if old.get(slot) != state}

    def sealed(self, request: str) -> Sealed:
        """The report that the open Segments were sealed."""
        starts = {p: s.all()[0][0] for p, s in self.segments.items()}
        ends = {p: s.start for p, s in self.segments.items()}
        return Sealed(request, self.view.name, self.view.fingerprint, self._topic_id, starts, ends)

    # -- release ------------------------------------------------------------------------------------------------------

    def adopt(self, batch: BatchView) -> Write | None:
        """Release the Segments that a BatchView has made superfluous; None where there are none.

        Comes right after a Checkpoint, so nothing is pending. What the BatchView counts and a Segment straddles is
        read again from the Cut: see `Segments.adopt`.
        """
        if (batch.fingerprint, batch.topic_id) != (self.view.fingerprint, self._topic_id):
            return None
        after = {p: s.adopt(batch.offsets.get(p, 0)) for p, s in self.segments.items()}
        if after == self.segments:
            return None
        ranges = [r for p, s in after.items() for r in self._released(p, s)]
        puts = [(segments_key(self.view.name, p), _pack(s)) for p, s in after.items()]
        return Write(puts=puts, ranges=ranges)

    def adopted(self, batch: BatchView) -> None:
        """The Write is durable."""
        self.segments = {p: s.adopt(batch.offsets.get(p, 0)) for p, s in self.segments.items()}
        self._read = {p: s.end for p, s in self.segments.items()}

    def _released(self, partition: int, after: Segments) -> Iterator[tuple[bytes, bytes]]:
        before = self.segments[partition]
        if before == after:
            return
        first, kept = before.all()[0][0], after.all()[0][0]
        if after.start == after.end and after.start not in {start for start, _ in before.all()}:
            everything = segment_prefix(self.view.name, partition, 0)
            yield everything, next_prefix(everything[:-8])
        elif first < kept:
            yield segment_range(self.view.name, partition, first, kept)
