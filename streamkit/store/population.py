"""How many Slots a result will have, told alike however the records were divided into Splits.

The number of files of a BatchView follows from it, and BatchViews of one Cut are to be the same files whichever Runner
made them. Slots counted Split by Split would not do: a key that occurs in ten Splits would count ten times.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamkit.record import Array
from streamkit.window import Session, Window

SIZE = 512
"""Hashes kept: a standard error of 4 %, where a power of two is looked for."""


@dataclass(frozen=True)
class Population:
    """The smallest SIZE distinct hashes of what was seen, sorted (uint64): a KMV sketch.

    Which they are depends on what was seen alone, neither on its order nor on how often; so any union of parts is the
    Population of the whole. Source: Bar-Yossef et al., "Counting distinct elements in a data stream" (RANDOM 2002).

    >>> left, right = (Population(np.arange(a, b, dtype=np.uint64)) for a, b in ((0, 10), (5, 12)))
    >>> Population.union([left, right]).estimate
    12
    """

    hashes: Array = field(default_factory=lambda: np.empty(0, np.uint64))

    @classmethod
    def of(cls, slots: Sequence[bytes], window: Window) -> Population:
        """Of Slots as `slot_key` writes them.

        Which sessions a Split finds depends on where it ends; which moments they cover does not. So a session counts
        once for each span of one gap that it touches: too many, where sessions are long, but never too few.
        """
        keys = np.array([zlib.crc32(slot[:-16]) for slot in slots], np.uint64)
        bounds = np.frombuffer(b"".join(slot[-16:] for slot in slots), ">u8").astype(np.uint64).reshape(-1, 2)
        places = bounds[:, 0]
        if isinstance(window, Session):
            gap = np.uint64(window.gap_ms)
            first, last = bounds[:, 0] // gap, (bounds[:, 1] - np.uint64(1)) // gap
            counts = (last - first + np.uint64(1)).astype(np.int64)
            keys = np.repeat(keys, counts)
            steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            places = np.repeat(first, counts) + steps.astype(np.uint64)
        return cls(_smallest(_mixed(keys << np.uint64(32) ^ _mixed(places))))

    @classmethod
    def union(cls, parts: Iterable[Population]) -> Population:
        return cls(_smallest(np.concatenate([np.empty(0, np.uint64), *(part.hashes for part in parts)])))

    @property
    def estimate(self) -> int:
        """How many were seen: exact below SIZE."""
        if len(self.hashes) < SIZE:
            return len(self.hashes)
        return int((SIZE - 1) / ((int(self.hashes[-1]) + 1) / 2**64))

    def dump(self) -> bytes:
        return self.hashes.astype("<u8").tobytes()

    @classmethod
    def load(cls, dumped: bytes) -> Population:
        return cls(np.frombuffer(dumped, "<u8").astype(np.uint64))


def _smallest(hashes: Array) -> Array:
    distinct: Array = np.unique(hashes)[:SIZE]
    return distinct


def _mixed(numbers: Any) -> Any:
    """The finalizer of splitmix64 (Steele, Lea, Flood 2014): numbers that are near each other come to lie far apart."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
