"""The store port: an ordered map of bytes with atomic writes, and a reader that follows it from another process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from streamkit.packed import Packed


@dataclass(frozen=True, slots=True)
class Write:
    """One atomic write: first the ranges `[from, to)` go, then the deletes, then the puts come, then what is packed."""

    puts: Sequence[tuple[bytes, bytes]] = ()
    deletes: Sequence[bytes] = ()
    ranges: Sequence[tuple[bytes, bytes]] = ()
    packed: Sequence[Packed] = ()


class Begun(Protocol):
    """A Write that may be worked on already, and of which nothing shows, nor lasts, before `finish`."""

    def finish(self, puts: Sequence[tuple[bytes, bytes]]) -> None:
        """Do all of it, and after it these, or nothing; as `Store.write`."""


class StoreReader(Protocol):
    """A frozen look at a Store: what it shows changes only by `refresh`, and then by whole Writes."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of `keys`, in their order; None where there is none."""

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Entries with `start <= key < end`, in key order."""

    def refresh(self) -> None:
        """Show what has been written up to now."""

    def close(self) -> None: ...


class Store(Protocol):
    """A worker's own state; one process holds it."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of `keys`, in their order; None where there is none."""

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Entries with `start <= key < end`, in key order, as they were when the scan began."""

    def write(self, write: Write) -> None:
        """Do all of it or nothing, also over a `kill -9`."""

    def begin(self, write: Write) -> Begun:
        """Begin to write, while something else is done; one that is never finished never was."""

    def close(self) -> None: ...
