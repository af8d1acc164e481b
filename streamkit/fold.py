"""Folds: a View's columnar definition, from decoded values to states. The speed and the batch layer run the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
import polars as pl

from streamkit.aggregate import OFFSET, PARTITION, TIME, Aggregate
from streamkit.checkpoint import Slot, slot_keys, windows
from streamkit.decode import Decoded, DecodedObjects, Rejected, numbers, objects_frame
from streamkit.native.loader import loader
from streamkit.packed import Packed, can_pack, pack_rows
from streamkit.view import View
from streamkit.window import END, START

T = TypeVar("T")

State = tuple[Any, ...]
"""One state an Aggregate, in the View's order."""

States = dict[Slot, State]

FOLD_ROWS = 131_072
"""Values that wait before they are folded together: a group_by over many rows touches fewer keys a row."""
MANY = 1_000
"""Slots that are made bytes in their order, which is a quicker one to look for them and to write them in."""

_pack, _unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(tuple[Any, ...]).decode
_new = tuple.__new__  # a third of what the call of a NamedTuple costs


class Fold:
    """One View's fold."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._aggregates = tuple(view.aggregates.values())
        self._partials = [a.partial().alias(f"__{i}") for i, a in enumerate(self._aggregates)]
        used = {field for a in self._aggregates for field in a.fields}
        self._needs_offset = OFFSET in used
        self._key_columns = [f"__key_{n}" for n in view.keys]
        self._slot_columns = [PARTITION, *self._key_columns, START, END]
        self._reads = fields_of(view)
        kinds = [type(a) for a in self._aggregates]
        self._plain = all(k.dump is Aggregate.dump and k.load is Aggregate.load for k in kinds)
        self._only = self._aggregates[0] if len(kinds) == 1 else None

        combined = [a.combine(pl.col(f"__{i}")) for i, a in enumerate(self._aggregates)]
        self._combined = [e.alias(f"__{i}") for i, e in enumerate(combined) if e is not None]
        self.in_columns = len(self._combined) == len(kinds)
        """Can `combine` merge what `groups` makes?"""
        dumped = [a.dumped(pl.col(f"__{i}")) for i, a in enumerate(self._aggregates)]
        self._dumped = [e.alias(f"__{i}") for i, e in enumerate(dumped) if e is not None]
        self._packs = [*self._key_columns, *(f"__{i}" for i in range(len(kinds)))]

    def states(self, batches: Sequence[Decoded]) -> tuple[dict[int, States], list[Rejected]]:
        """States by partition, and the records that the View's expressions fail on."""
        parts, rejected = self._parts(batches, lambda batches: self._by_partition(self._groups(batches)))
        merged: dict[int, States] = {}
        for states in parts:
            self.merge_into(merged, states)
        return merged, rejected

    def groups(self, batches: Sequence[Decoded]) -> tuple[list[pl.DataFrame], list[Rejected]]:
        """As `states`, in columns: PARTITION, the key's parts, START, END, and a partial an Aggregate; a row a Slot."""
        return self._parts(batches, self._groups)

    def combine(self, groups: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """What `groups` made, merged: a row a Slot."""
        rows = stack(groups)
        # To see that no Slot is there twice takes a fifth of what merging them takes.
        if rows.select(self._slot_columns).hash_rows().n_unique() == len(rows):
            return rows
        return rows.group_by(*self._slot_columns).agg(self._combined)

    def encoded(self, groups: pl.DataFrame, prefix: bytes) -> tuple[list[bytes], list[State]]:
        """The Slots of `groups` as bytes (`slot_key`) behind a prefix, and their states; nearly in the bytes' order."""
        groups = groups.sort(*self._key_columns, START) if len(groups) > MANY else groups
        keys = zip(*(groups[name].to_list() for name in self._key_columns), strict=True)
        columns = [groups[f"__{i}"].to_list() for i in range(len(self._aggregates))]
        states = [map(a.state, column) for a, column in zip(self._aggregates, columns, strict=True)]
        starts, ends = groups[START].to_numpy(), groups[END].to_numpy()
        return slot_keys(prefix, keys, starts, ends), list(zip(*states, strict=True))

    def packed(self, groups: pl.DataFrame, prefix: bytes) -> Packed | None:
        """As `encoded`, the states as `dump` makes them, in the bytes' order.

        None where only Python can do that, where there are but a few, and where a Slot is there twice.
        """
        loops = loader.loops()
        if loops is None or len(self._dumped) < len(self._aggregates) or len(groups) <= MANY:
            return None
        try:
            rows = groups.with_columns(self._dumped)
        except pl.exceptions.InvalidOperationError:  # a number beyond 64 bits
            return None
        if not can_pack(rows.select(self._packs)):
            return None
        tails = windows(rows[START].to_numpy(), rows[END].to_numpy())
        keys, states = self._packs[: len(self._key_columns)], self._packs[len(self._key_columns) :]
        packed = pack_rows(loops, rows.select(keys), prefix, tails), pack_rows(loops, rows.select(states))
        return Packed.of(loops, *packed)

    def _parts(
        self, batches: Sequence[Decoded], make: Callable[[Sequence[Decoded]], T]
    ) -> tuple[list[T], list[Rejected]]:
        """What `make` makes of batches.

        A failure of one row (an integer beyond 64 bits, a strict cast, a mapping without the key) fails the frame:
        halving finds the row, so that the rest counts and the one is reported.
        """
        try:
            return [make(batches)], []
        except (pl.exceptions.PolarsError, OverflowError, TypeError, ValueError) as error:
            smaller = halves(batches)
            if smaller is None:
                return [], [batches[0].rejected(0, f"view {self.view.name!r}: {str(error).splitlines()[0]}")]
        parts: list[T] = []
        rejected: list[Rejected] = []
        for half in smaller:
            made, bad = self._parts(half, make)
            parts += made
            rejected += bad
        return parts, rejected

    def merge_into(self, target: dict[int, States], states: Mapping[int, States]) -> None:
        """Merge states by partition into `target`."""
        for partition, slots in states.items():
            have = target.setdefault(partition, {})
            for slot, state in slots.items():
                have[slot] = self.merge(have[slot], state) if slot in have else state

    def merge(self, left: State, right: State) -> State:
        if self._only is not None:
            return (self._only.merge(left[0], right[0]),)
        return tuple(a.merge(x, y) for a, x, y in zip(self._aggregates, left, right, strict=True))

    def merge_all(self, states: Iterable[State]) -> State | None:
        """None for none."""
        merged: State | None = None
        for state in states:
            merged = state if merged is None else self.merge(merged, state)
        return merged

    def merge_slots(self, parts: Iterable[tuple[Slot, State]]) -> States:
        """States of one Slot merged; spans of sessions that touch become one."""
        by_slot: States = {}
        for slot, state in parts:
            by_slot[slot] = self.merge(by_slot[slot], state) if slot in by_slot else state
        if not self.view.window.merges:
            return by_slot
        by_key: dict[tuple[Any, ...], list[tuple[int, int, State]]] = {}
        for slot, state in by_slot.items():
            by_key.setdefault(slot.key, []).append((slot.start, slot.end, state))
        return {
            Slot(key, start, end): state
            for key, spans in by_key.items()
            for start, end, state in self.view.window.coalesce(spans, self.merge)
        }

    def dump(self, state: State) -> bytes:
        if self._plain:
            return _pack(state)
        return _pack([a.dump(s) for a, s in zip(self._aggregates, state, strict=True)])

    def dump_all(self, states: Iterable[State]) -> list[bytes]:
        return list(map(_pack if self._plain else self.dump, states))

    def load(self, dumped: bytes) -> State:
        loaded = _unpack(dumped)
        return loaded if self._plain else tuple(a.load(d) for a, d in zip(self._aggregates, loaded, strict=True))

    def zero(self) -> State:
        return tuple(a.zero() for a in self._aggregates)

    def result(self, state: State) -> dict[str, Any]:
        return {n: a.result(s) for (n, a), s in zip(self.view.aggregates.items(), state, strict=True)}

    def bounds(self, state: State) -> dict[str, Mapping[str, Any]]:
        pairs = zip(self.view.aggregates.items(), state, strict=True)
        return {n: bounds for (n, a), s in pairs if (bounds := a.bounds(s)) is not None}

    def same(self, left: State | None, right: State | None) -> bool:
        """Equal, as far as equality is promised: to the bit, but for the random ones (`Aggregate.agree`)."""
        if left is None or right is None:
            return left is right
        return all(a.agree(x, y) for a, x, y in zip(self._aggregates, left, right, strict=True))

    # -- columns ------------------------------------------------------------------------------------------------------

    def _groups(self, batches: Sequence[Decoded]) -> pl.DataFrame:
        frame = self._frame(batches)
        if self.view.where is not None:
            frame = frame.filter(self.view.where)
        columns = [e.alias(f"__key_{n}") for n, e in self.view.keys.items()]
        frame = self.view.window.explode(frame.with_columns(columns), [PARTITION, *self._key_columns])
        return frame.group_by(*self._slot_columns).agg(self._partials)

    def _by_partition(self, groups: pl.DataFrame) -> dict[int, States]:
        out: dict[int, States] = {}
        width = len(self._key_columns) + 1
        aggregates = self._aggregates
        for row in groups.iter_rows():
            slot = _new(Slot, (row[1:width], row[width], row[width + 1]))
            state = tuple([a.state(p) for a, p in zip(aggregates, row[width + 2 :], strict=True)])
            out.setdefault(row[0], {})[slot] = state
        return out

    def _frame(self, batches: Sequence[Decoded]) -> pl.DataFrame:
        topic, read = self.view.topic, self._reads
        objects = [b for b in batches if isinstance(b, DecodedObjects)]
        others = [b for b in batches if not isinstance(b, DecodedObjects)]
        frames = [b.frame(read) for b in others]
        if objects:  # all at once: a frame for each of many small ones would cost more than they
            frames.append(objects_frame(topic, read, [v for b in objects for v in b.values]))
        frame = frames[0] if len(frames) == 1 else pl.concat(frames)
        in_order = [*others, *objects]
        columns = [_partitions(in_order)]
        if topic.timestamp:
            columns.append(frame[topic.timestamp].alias(TIME))
        else:
            columns.append(pl.Series(TIME, numbers(b.timestamps for b in in_order)))
        if self._needs_offset:
            columns.append(pl.Series(OFFSET, numbers(b.offsets for b in in_order)))
        return pl.DataFrame([*(frame[name] for name in self.view.fields), *columns])


def fields_of(view: View) -> tuple[str, ...]:
    """The fields of the topic that a View's fold reads."""
    return tuple(sorted({*view.fields, *([view.topic.timestamp] if view.topic.timestamp else [])}))


def stack(groups: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The rows of all that `Fold.groups` made, a Slot as often as it is in them."""
    return pl.concat(groups, how="vertical_relaxed")


def _partitions(batches: Sequence[Decoded]) -> pl.Series:
    # By numpy: polars takes 60 us a run for it, and records that come evenly come in many short runs.
    partitions = np.array([b.source.partition for b in batches], np.int64)
    return pl.Series(PARTITION, np.repeat(partitions, [len(b) for b in batches]))


def halves(batches: Sequence[Decoded]) -> Iterator[Sequence[Decoded]] | None:
    """The batches in two parts; None where there is but one value."""
    if len(batches) > 1:
        middle = len(batches) // 2
        return iter((batches[:middle], batches[middle:]))
    only = batches[0]
    if len(only) <= 1:
        return None
    middle = len(only) // 2
    return iter(([only.slice(0, middle)], [only.slice(middle, len(only))]))
