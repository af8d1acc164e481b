"""Blocks: changes of state as they are on a changelog, some thousands in a record.

A record for each change costs librdkafka, the broker and every reader about a microsecond each; in Blocks it is a
fifth of that together, and what neighbouring keys have in common is compressed away.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from streamkit.changelog.changes import Changes
from streamkit.log.base import Change
from streamkit.packed import Packed
from streamkit.record import Array

BLOCK_BYTES = 128 << 10
"""Of a Block, unless one change is larger: a batch of the log takes several, and a topic's largest message is 1 MiB."""
_COUNT = struct.Struct("<I")
_NONE = -1


def pack(changes: Sequence[Change]) -> list[bytes]:
    """Changes, in their order, as Blocks: their number, the lengths of keys and of values, keys, values.

    Lengths are little-endian, 32 bits; that of a value is -1 where there is none, which deletes the key.

    >>> [block] = pack([(b"a", b"1"), (b"b", None)])
    >>> len(block), unpack(block)
    (23, [(b'a', b'1'), (b'b', None)])
    """
    if not changes:
        return []
    keys, values = [key for key, _ in changes], [value for _, value in changes]
    key_sizes = np.fromiter(map(len, keys), "<i4", len(keys))
    value_sizes = np.fromiter([_NONE if value is None else len(value) for value in values], "<i4", len(values))
    return [
        _block(
            key_sizes[begin:end],
            value_sizes[begin:end],
            [*keys[begin:end], *[value for value in values[begin:end] if value is not None]],
        )
        for begin, end in _parts(key_sizes, value_sizes)
    ]


@dataclass(frozen=True, slots=True)
class Part:
    """Some of what is packed, to become a Block when it is sent: all of them at once would be another copy of it."""

    packed: Packed
    begin: int
    end: int

    def __len__(self) -> int:
        """Bytes of the Block."""
        content = sum(
            int(ends[self.end] - ends[self.begin]) for ends in (self.packed.keys.ends, self.packed.values.ends)
        )
        return _COUNT.size + 8 * (self.end - self.begin) + content

    def __bytes__(self) -> bytes:
        keys, values = self.packed.keys, self.packed.values
        within = slice(self.begin, self.end + 1)
        content = [some.data[some.ends[self.begin] : some.ends[self.end]].tobytes() for some in (keys, values)]
        key_sizes, value_sizes = (np.diff(some.ends[within]).astype("<i4") for some in (keys, values))
        return _block(key_sizes, value_sizes, content)


def pack_all(changes: Changes) -> list[bytes | Part]:
    """`pack` of a Checkpoint's changes; those that are packed are Parts, without an object for each."""
    return [*pack(changes.rows), *(part for packed in changes.packed if len(packed) for part in _parts_of(packed))]


def _parts_of(packed: Packed) -> Iterator[Part]:
    sizes = (np.diff(strings.ends) for strings in (packed.keys, packed.values))
    return (Part(packed, begin, end) for begin, end in _parts(*sizes))


def _block(key_sizes: Array, value_sizes: Array, content: Sequence[bytes]) -> bytes:
    return b"".join([_COUNT.pack(len(key_sizes)), key_sizes.tobytes(), value_sizes.tobytes(), *content])


def _parts(key_sizes: Array, value_sizes: Array) -> Iterator[tuple[int, int]]:
    """From which change on and up to which each Block is."""
    ends = np.cumsum(key_sizes + np.maximum(value_sizes, 0), dtype=np.int64)
    cuts = np.flatnonzero(np.diff((ends - 1) // BLOCK_BYTES)) + 1
    return pairwise([0, *cuts.tolist(), len(ends)])


def unpack(block: bytes) -> list[Change]:
    """What `pack` has packed. Raises ValueError where it is none of its Blocks.

    >>> unpack(b"nonsense")
    Traceback (most recent call last):
    ...
    ValueError: no Block: it has 8 bytes and claims 1936617326 changes
    """
    count = _COUNT.unpack_from(block)[0] if len(block) >= _COUNT.size else 0
    if not 0 < count <= (len(block) - _COUNT.size) // 8:
        raise ValueError(f"no Block: it has {len(block)} bytes and claims {count} changes")
    key_sizes, value_sizes = np.frombuffer(block, "<i4", 2 * count, _COUNT.size).reshape(2, count)
    sizes = np.concatenate([key_sizes, np.where(value_sizes == _NONE, 0, value_sizes)]).astype(np.int64)
    ends = _COUNT.size + 8 * count + np.cumsum(sizes)
    if (sizes < 0).any() or ends[-1] != len(block):
        raise ValueError(f"no Block: the sizes of its {count} changes do not add up to its {len(block)} bytes")
    parts = [block[begin:end] for begin, end in zip((ends - sizes).tolist(), ends.tolist(), strict=True)]
    values: list[bytes | None] = list(parts[count:])
    for gone in np.flatnonzero(value_sizes == _NONE).tolist():
        values[gone] = None
    return list(zip(parts[:count], values, strict=True))
