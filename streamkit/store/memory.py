"""The store in memory: for tests, and for a look at a topology that keeps nothing."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from streamkit.packed import Packed, Strings
from streamkit.store.base import Begun, Write


def _scan(entries: Mapping[bytes, bytes], start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
    keys = sorted(entries)
    return iter([(key, entries[key]) for key in keys[bisect_left(keys, start) : bisect_left(keys, end)]])


class MemoryStore:
    """A Store in this process. Every Write makes a new map, so readers hold the old one at no cost."""

    def __init__(self) -> None:
        self._entries: Mapping[bytes, bytes] = {}
        self._lock = threading.Lock()

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._entries.get(key) for key in keys]

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return _scan(self._entries, start, end)

    def write(self, write: Write) -> None:
        ranges, deletes = list(write.ranges), set(write.deletes)
        with self._lock:
            kept = {
                key: value
                for key, value in self._entries.items()
                if key not in deletes and not any(start <= key < end for start, end in ranges)
            }
            self._entries = {**kept, **dict(write.puts), **dict(chain.from_iterable(write.packed))}

    def begin(self, write: Write) -> Begun:
        return _Begun(self, write)

    def close(self) -> None:
        """Nothing to let go: the entries live as long as this object."""


@dataclass(frozen=True)
class _Begun:
    store: MemoryStore
    begun: Write

    def finish(self, puts: Sequence[tuple[bytes, bytes]]) -> None:
        last = Packed(*(Strings.of([row[i] for row in sorted(dict(puts).items())]) for i in (0, 1)))
        self.store.write(replace(self.begun, packed=[*self.begun.packed, last]))


class MemoryReader:
    """A StoreReader of a MemoryStore."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._entries = store._entries

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._entries.get(key) for key in keys]

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return _scan(self._entries, start, end)

    def refresh(self) -> None:
        self._entries = self._store._entries

    def close(self) -> None:
        """Nothing to let go."""
