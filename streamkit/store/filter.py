"""Which keys a store may have: a Bloom filter, asked for many keys at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from streamkit.native.loader import loader
from streamkit.record import Array

_PROBES = 4
"""Bits of a key, all of them in one line of 512, of which the processor's cache takes one at a time (Putze, Sanders and
Singler, "Cache-, hash- and space-efficient Bloom filters", 2007). A hash's lowest 28 bits tell the line, and each nine
above them a bit."""
_BITS_EACH = 12
"""Bits for a key at least (a power of two in all): of 100 keys that were never added a full part takes at most one for
one that was."""
_LEAST = 1 << 16


class Filter:
    """A set of keys that may say yes for one that was never added, and never no for one that was.

    It grows: where a filter is full another one, twice as large, is put beside it (Almeida, Baquero, Preguica and
    Hutchison, "Scalable Bloom filters", 2007).

    >>> filter = Filter()
    >>> filter.add([b"a", b"b"]).tolist(), filter.add([b"b", b"c"]).tolist()
    ([False, False], [True, False])
    """

    def __init__(self) -> None:
        self._parts = [_Part(_LEAST)]

    def add(self, keys: Sequence[bytes] | pl.Series) -> Array:
        """Add keys; returns for each whether it may have been there before (bool)."""
        hashes = pl.Series(keys, dtype=pl.Binary).hash().to_numpy()
        known = np.zeros(len(keys), np.bool_)
        for part in self._parts:
            known |= part.has(hashes)
        fresh = hashes[~known]
        if self._parts[-1].room < len(fresh):
            self._parts.append(_Part(max(2 * self._parts[-1].size, len(fresh))))
        self._parts[-1].add(fresh)
        return known


class _Part:
    """Bits for about `size` keys, by their hashes (uint64)."""

    def __init__(self, size: int) -> None:
        self.size = self.room = size
        bits = 1 << (_BITS_EACH * size - 1).bit_length()
        self._words = np.zeros(bits // 64, np.uint64)

    def has(self, hashes: Array) -> Array:
        loops = loader.loops()
        if loops is not None:
            known: Array = loops.rows.known(self._words, hashes, _PROBES)
            return known
        found = np.ones(len(hashes), np.bool_)
        for words, bits in self._places(hashes):
            found &= self._words[words] & bits != 0
        return found

    def add(self, hashes: Array) -> None:
        self.room -= len(hashes)
        loops = loader.loops()
        if loops is not None:
            loops.rows.remember(self._words, hashes, _PROBES)
            return
        for words, bits in self._places(hashes):
            np.bitwise_or.at(self._words, words, bits)

    def _places(self, hashes: Array) -> list[tuple[Array, Array]]:
        """Words, and the bit of each, for every probe."""
        lines = (hashes & np.uint64(len(self._words) // 8 - 1)).astype(np.intp) * 8
        at = [hashes >> np.uint64(28 + 9 * probe) for probe in range(_PROBES)]
        in_line = [(bit >> np.uint64(6) & np.uint64(7)).astype(np.intp) for bit in at]
        return [(lines + word, np.uint64(1) << (bit & np.uint64(63))) for word, bit in zip(in_line, at, strict=True)]
