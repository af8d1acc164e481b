"""The proof: two ways to the same Cut must give the same states, key by key."""

from __future__ import annotations

from collections.abc import Iterator

from streamkit.checkpoint import Slot, slot_key
from streamkit.control import Proof
from streamkit.fold import Fold, State

Item = tuple[Slot, State]


def compare(fold: Fold, merged: Iterator[Item], recomputed: Iterator[Item]) -> Proof:
    """Walk both, which are in order of their Slots' bytes, side by side, and name the first Slot that differs.

    States must be equal to the bit; those that are random (`Quantiles`) within their error: see `Fold.same`.
    """
    slots = differences = 0
    first = ""
    left, right = next(merged, None), next(recomputed, None)
    while left is not None or right is not None:
        slot = min((i[0] for i in (left, right) if i is not None), key=slot_key)
        a = left[1] if left is not None and left[0] == slot else None
        b = right[1] if right is not None and right[0] == slot else None
        slots += 1
        if not fold.same(a, b):
            differences += 1
            first = first or _divergence(fold, slot, a, b)
        if a is not None:
            left = next(merged, None)
        if b is not None:
            right = next(recomputed, None)
    return Proof(slots, differences, first)


def _divergence(fold: Fold, slot: Slot, merged: State | None, recomputed: State | None) -> str:
    window = f" window [{slot.start}, {slot.end})" if fold.view.windowed else ""
    a, b = (None if s is None else fold.result(s) for s in (merged, recomputed))
    return f"key {slot.key}{window}: batch + Segments give {a}, the recomputation gives {b}"
