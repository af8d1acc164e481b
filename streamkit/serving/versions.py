"""Two versions of a View side by side: what readers would see change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from streamkit.checkpoint import Slot, slot_key
from streamkit.fold import Fold, State
from streamkit.serving.merge import Serving
from streamkit.serving.seam import Seam
from streamkit.view import View

_EXAMPLES = 5


@dataclass
class Difference:
    """What two versions hold, Slot by Slot; `shared` are the aggregates that both name."""

    shared: tuple[str, ...]
    same: int = 0
    only_old: int = 0
    only_new: int = 0
    changed: int = 0
    examples: list[tuple[Slot, str, Any, Any]] = field(default_factory=list)
    """Slot, aggregate, old and new result, of the first that differ."""


def differences(serving: Serving, old: View, new: View, seams: tuple[Seam, Seam]) -> Difference:
    """Walk both, which are in order of their Slots' bytes, side by side; the Seams are at one Cut."""
    folds = Fold(old), Fold(new)
    shared = tuple(name for name in old.aggregates if name in new.aggregates)
    found = Difference(shared)
    left, right = serving.merged(old, seams[0]), serving.merged(new, seams[1])
    for slot, a, b in _side_by_side(left, right):
        if b is None:
            found.only_old += 1
        elif a is None:
            found.only_new += 1
        else:
            _compare(found, slot, folds[0].result(a), folds[1].result(b))
    return found


def _compare(found: Difference, slot: Slot, old: dict[str, Any], new: dict[str, Any]) -> None:
    differ = [name for name in found.shared if not _same(old[name], new[name])]
    found.changed += bool(differ)
    found.same += not differ
    for name in differ:
        if len(found.examples) < _EXAMPLES:
            found.examples.append((slot, name, old[name], new[name]))


def _same(old: Any, new: Any) -> bool:
    """A NaN is like another one to a reader, if not to `==`."""
    return bool(old == new or (old != old and new != new))


def _side_by_side(
    left: Iterator[tuple[Slot, State]], right: Iterator[tuple[Slot, State]]
) -> Iterator[tuple[Slot, State | None, State | None]]:
    a, b = next(left, None), next(right, None)
    while a is not None or b is not None:
        slot = min((item[0] for item in (a, b) if item is not None), key=slot_key)
        in_a, in_b = a is not None and a[0] == slot, b is not None and b[0] == slot
        yield slot, a[1] if a is not None and in_a else None, b[1] if b is not None and in_b else None
        a = next(left, None) if in_a else a
        b = next(right, None) if in_b else b
