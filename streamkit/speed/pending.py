"""States that wait for a Checkpoint: in columns where the View's Aggregates can be merged so, else as objects.

A key that comes once costs no object until its bytes are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import polars as pl

from streamkit.aggregate import PARTITION
from streamkit.checkpoint import slot_key
from streamkit.decode import Decoded, Rejected
from streamkit.fold import FOLD_ROWS, Fold, State, States, stack
from streamkit.packed import Packed

_APART = 0.8
"""A share of rows that are left when they were combined."""


class Pending(Protocol):
    """States of one View by partition."""

    def absorb(self, batches: Sequence[Decoded]) -> list[Rejected]:
        """Fold these, too; returns what the View's expressions fail on."""

    def __len__(self) -> int:
        """How many states there are, at most."""

    def encoded(self, partition: int, prefix: bytes) -> tuple[list[bytes], list[State]]:
        """The Slots of a partition as bytes behind a prefix, none twice, and their states, in any order."""

    def packed(self, partition: int, prefix: bytes) -> Packed | None:
        """As `encoded`, the states as bytes, without an object for any: see `Fold.packed`."""

    def drop(self, partition: int) -> None: ...

    def clear(self) -> None: ...


def pending(fold: Fold) -> Pending:
    return InColumns(fold) if fold.in_columns and not fold.view.window.merges else AsObjects(fold)


class AsObjects:
    """See Pending: for every View, and what `InColumns` is compared with."""

    def __init__(self, fold: Fold) -> None:
        self._fold = fold
        self._states: dict[int, States] = {}

    def absorb(self, batches: Sequence[Decoded]) -> list[Rejected]:
        states, bad = self._fold.states(batches)
        self._fold.merge_into(self._states, states)
        return bad

    def __len__(self) -> int:
        return sum(map(len, self._states.values()))

    def states(self, partition: int) -> States:
        return self._states.get(partition, {})

    def encoded(self, partition: int, prefix: bytes) -> tuple[list[bytes], list[State]]:
        window, states = self._fold.view.window, self.states(partition)
        merged = self._fold.merge_slots(states.items()) if window.merges else states
        return [prefix + slot_key(slot) for slot in merged], list(merged.values())

    def packed(self, partition: int, prefix: bytes) -> Packed | None:
        del partition, prefix
        return None

    def drop(self, partition: int) -> None:
        self._states.pop(partition, None)

    def clear(self) -> None:
        self._states = {}


class InColumns:
    """See Pending: frames of partials, combined when they have become twice as many, and for a Checkpoint."""

    def __init__(self, fold: Fold) -> None:
        self._fold = fold
        self._frames: list[pl.DataFrame] = []
        self._rows = self._combined = 0
        self._apart = False
        """Hardly a key has come twice since the last Checkpoint: to look for those again is not worth it."""
        self._distinct = False
        """None of many had come twice at the last Checkpoint: none is looked for, and packing shows where one has."""

    def absorb(self, batches: Sequence[Decoded]) -> list[Rejected]:
        frames, bad = self._fold.groups(batches)
        self._frames += frames
        self._rows += sum(map(len, frames))
        if self._rows > 2 * self._combined + FOLD_ROWS and not self._apart:
            before = self._rows
            self._combine()
            self._apart = self._rows > _APART * before
        return bad

    def __len__(self) -> int:
        return self._rows

    def encoded(self, partition: int, prefix: bytes) -> tuple[list[bytes], list[State]]:
        groups = self._groups(partition)
        return ([], []) if groups is None else self._fold.encoded(groups, prefix)

    def packed(self, partition: int, prefix: bytes) -> Packed | None:
        if self._distinct and self._frames:
            packed = self._fold.packed(_of(partition, self._frames), prefix)
            if packed is not None:
                return packed
        groups = self._groups(partition)
        return None if groups is None else self._fold.packed(groups, prefix)

    def drop(self, partition: int) -> None:
        self._keep([frame.filter(pl.col(PARTITION) != partition) for frame in self._frames])

    def clear(self) -> None:
        self._apart = self._distinct
        self._keep([])

    def _groups(self, partition: int) -> pl.DataFrame | None:
        if len(self._frames) > 1:
            before = self._rows
            self._combine()
            self._distinct = self._rows == before > FOLD_ROWS
        return _of(partition, self._frames) if self._frames else None

    def _combine(self) -> None:
        self._keep([self._fold.combine(self._frames)])
        self._combined = self._rows

    def _keep(self, frames: list[pl.DataFrame]) -> None:
        self._frames, self._rows, self._combined = frames, sum(map(len, frames)), 0


def _of(partition: int, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """A partition's rows."""
    return stack([frame.filter(pl.col(PARTITION) == partition) for frame in frames])
