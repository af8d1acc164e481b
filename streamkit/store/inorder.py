"""Writes of many keys, key by key in their order: as a sorted file wants them."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Protocol

from streamkit.packed import Packed
from streamkit.store.base import Write

WORTH = 20_000
"""Packed keys from which on a file of its own is worth its making: small ones would only have to be compacted."""


class SortedFile(Protocol):
    """Takes each key once, in their order."""

    def __setitem__(self, key: bytes, value: bytes) -> None: ...

    def __delitem__(self, key: bytes) -> None: ...


def packed_in_order(write: Write) -> list[Packed] | None:
    """What is packed in a Write, in the order of keys; None where the Write is not to be a file."""
    packed = sorted((some for some in write.packed if len(some)), key=lambda some: bytes(some.keys[0]))
    if sum(map(len, packed)) < WORTH or write.ranges:
        return None
    apart = all(left.keys[-1] < right.keys[0] for left, right in pairwise(packed))
    return packed if apart else None


def put_in_order(file: SortedFile, write: Write, packed: Sequence[Packed]) -> None:
    """Put a Write, whose packed part is `packed`.

    >>> class Shown(dict):
    ...     def __delitem__(self, key): self[key] = None
    >>> file = Shown()
    >>> put_in_order(file, Write(puts=[(b"c", b"3"), (b"a", b"1")], deletes=[b"b", b"a"]), [])
    >>> file
    {b'a': b'1', b'b': None, b'c': b'3'}
    """
    keys = list(chain.from_iterable(some.keys.to_list() for some in packed))
    values = list(chain.from_iterable(some.values.to_list() for some in packed))
    rows: dict[bytes, bytes | None] = {**dict.fromkeys(write.deletes), **dict(write.puts)}
    begin = 0
    for key in sorted(rows):
        end = bisect_left(keys, key, begin)
        _put(file, keys[begin:end], values[begin:end])
        begin, value = end, rows[key]
        if keys[end : end + 1] == [key]:
            continue  # what is packed comes after the rows
        if value is None:
            del file[key]
        else:
            file[key] = value
    _put(file, keys[begin:], values[begin:])


def _put(file: SortedFile, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
    deque(map(file.__setitem__, keys, values), maxlen=0)
