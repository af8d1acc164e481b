"""Changes: what a Checkpoint makes another value of one task's state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from streamkit.log.base import Change
from streamkit.packed import Packed


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of one task, by the keys that they have in a store and on a changelog: `rows` in order, then `packed`.

    >>> both = Changes.of([Changes([(b"a", b"1")]), Changes([(b"b", None)])])
    >>> len(both), both.rows
    (2, [(b'a', b'1'), (b'b', None)])
    """

    rows: Sequence[Change] = ()
    packed: Sequence[Packed] = ()

    @classmethod
    def of(cls, parts: Sequence[Changes]) -> Changes:
        """All of these; none of the parts has in `rows` what one before it has in `packed`."""
        return cls(
            *(list(chain.from_iterable(each)) for each in zip(*((p.rows, p.packed) for p in parts), strict=True))
        )

    def __len__(self) -> int:
        return len(self.rows) + sum(map(len, self.packed))
