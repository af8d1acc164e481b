"""Record batches as a broker has them, to Chunks: what is compressed, aborted or no data is seen to here."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cramjam
import numpy as np

from streamkit.log.kafka.wire import Part
from streamkit.native.loader import Loops
from streamkit.record import Array, FlatBytes, FlatChunk, Headers

_GREATEST = 1 << 30
_XERIAL = b"\x82SNAPPY\0"
"""What snappy's blocks of Java's clients begin with: 16 bytes, then blocks with their lengths before them."""
_ABORT = 0


class Malformed(Exception):
    """Batches in another format, or such that do not add up."""


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches of one part of an answer, and the offset after the last of them."""

    part: Part
    data: Array
    table: Array
    end: int


def find(loops: Loops, data: Array, part: Part, position: int) -> Batches:
    """Which batches there are. Raises Malformed."""
    native = loops.batches
    most = (part.stop - part.start) // native.HEAD
    table = np.empty((native.BATCH_ROWS, most), np.int64)
    count = native.batches(data, part.start, part.stop, table)
    if count < 0:
        raise Malformed(f"{part.source}: batches at offset {position} are of another format")
    if not count and part.stop > part.start:
        raise Malformed(f"{part.source}: no whole batch at offset {position}")
    table = np.ascontiguousarray(table[:, :count])
    return Batches(part, data, table, int(table[native.LAST, -1]) + 1 if count else position)


def chunk_of(loops: Loops, batches: Batches, position: int) -> FlatChunk | None:
    """The committed records from `position` on; None where there are none. Raises Malformed."""
    native, part = loops.batches, batches.part
    table = _committed(native, batches)
    count = table.shape[1]
    if not count:
        return None
    data, table = _plain(native, batches.data, table)
    claimed, most = table[native.COUNT], (table[native.STOP] - table[native.START]) // native.LEAST
    if (claimed < 0).any() or (claimed > most).any():
        raise Malformed(f"{part.source}: batches at offset {position} claim more records than they have room for")
    out = np.empty((native.RECORD_ROWS, int(claimed.sum())), np.int64)
    found = native.records(data, table, count, position, out)
    if found < 0:
        raise Malformed(f"{part.source}: records at offset {position} do not add up")
    if not found:
        return None
    out = out[:, :found]
    values = FlatBytes(data, out[native.VALUE], out[native.LENGTH])
    keys = FlatBytes(data, out[native.KEY], out[native.KEY_LENGTH])
    headers = LazyHeaders(native.varint, data, out[native.HEADERS])
    return FlatChunk(part.source, out[native.OFFSET], out[native.STAMP], values, keys, headers)


class LazyHeaders(Mapping[int, Headers]):
    """Headers of the records that have any, by their place; read when somebody looks."""

    def __init__(self, varint: Callable[[Array, int, int], tuple[int, int]], data: Array, at: Array) -> None:
        self._varint, self._data, self._at = varint, data, at
        self._places: list[int] = np.flatnonzero(at).tolist()

    def __getitem__(self, place: int) -> Headers:
        if not 0 <= place < len(self._at) or not self._at[place]:
            raise KeyError(place)
        count, at = self._number(int(self._at[place]))
        found: list[tuple[str, bytes | None]] = []
        for _ in range(count):
            name, at = self._bytes(at)
            value, at = self._bytes(at)
            found.append(((name or b"").decode(), value))
        return found

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _number(self, at: int) -> tuple[int, int]:
        return self._varint(self._data, at, len(self._data))

    def _bytes(self, at: int) -> tuple[bytes | None, int]:
        size, at = self._number(at)
        return (self._data[at : at + size].tobytes(), at + size) if size >= 0 else (None, at)


def _committed(native: Any, batches: Batches) -> Array:
    """Without control batches, and without those of aborted transactions (as Java's `CompletedFetch` does it).

    A producer has one transaction at a time. It is an aborted one from the first offset that the broker names, until
    its marker comes.
    """
    table, part = batches.table, batches.part
    attributes = table[native.ATTRIBUTES]
    control = (attributes & native.CONTROL) != 0
    keep = ~control
    if part.aborted:
        waiting = sorted(part.aborted, key=lambda pair: pair[1], reverse=True)
        active: set[int] = set()
        for i in np.flatnonzero(attributes & (native.CONTROL | native.TRANSACTIONAL)).tolist():
            while waiting and waiting[-1][1] <= table[native.LAST, i]:
                active.add(waiting.pop()[0])
            producer = int(table[native.PRODUCER, i])
            if not control[i]:
                keep[i] = producer not in active
            elif _marker(native, batches, i) == _ABORT:
                active.discard(producer)
    return table if keep.all() else np.ascontiguousarray(table[:, keep])


def _marker(native: Any, batches: Batches, batch: int) -> int:
    """What a control batch says, in its one record's key: 0 aborted, 1 committed."""
    table = np.ascontiguousarray(batches.table[:, batch : batch + 1])
    data, table = _plain(native, batches.data, table)
    out = np.empty((native.RECORD_ROWS, 1), np.int64)
    if native.records(data, table, 1, 0, out) != 1 or out[native.KEY_LENGTH, 0] < 4:
        raise Malformed(f"{batches.part.source}: a control record at offset {table[native.BASE, 0]} does not add up")
    _version, kind = struct.unpack_from(">hh", data.data, int(out[native.KEY, 0]))
    return int(kind)


def _plain(native: Any, data: Array, table: Array) -> tuple[Array, Array]:
    """Batches that are not compressed: as they are, or in a buffer of their own where one of them was."""
    codecs = table[native.ATTRIBUTES] & native.CODEC
    if not codecs.any():
        return data, table
    sizes = table[native.STOP] - table[native.START]
    room = _Room(int(sizes.sum()))
    table = table.copy()
    spans = zip(codecs.tolist(), table[native.START].tolist(), table[native.STOP].tolist(), strict=True)
    for i, (codec, start, stop) in enumerate(spans):
        table[native.START, i], table[native.STOP, i] = room.add(codec, data[start:stop])
    return room.data(), table


class _Room:
    """A buffer that grows: batches do not tell how large they become."""

    ratio = 4.0
    """How many times larger batches became lately, and a bit: the kernel need not give what is not needed."""

    def __init__(self, compressed: int) -> None:
        self._compressed, self._used = compressed, 0
        self._buffer = np.empty(int(compressed * _Room.ratio) + 4_096, np.uint8)

    def add(self, codec: int, packed: Array) -> tuple[int, int]:
        """Where it lies now."""
        start = self._used
        while True:
            try:
                self._used += _unpack(codec, packed, self._buffer[start:])
            except (cramjam.DecompressionError, ValueError) as error:
                if len(self._buffer) - start > _GREATEST:
                    raise Malformed(f"a batch cannot be decompressed: {error}") from error
                larger = np.empty(2 * len(self._buffer) + 65_536, np.uint8)
                larger[:start] = self._buffer[:start]
                self._buffer = larger
            else:
                return start, self._used

    def data(self) -> Array:
        """With `FlatBytes.PADDING` zeros behind it."""
        size = self._used + FlatBytes.PADDING
        if size > len(self._buffer):
            self._buffer = np.concatenate([self._buffer[: self._used], np.empty(FlatBytes.PADDING, np.uint8)])
        self._buffer[self._used : size] = 0
        _Room.ratio = max(0.95 * _Room.ratio, 1.05 * self._used / max(1, self._compressed))
        return self._buffer[:size]


def _unpack(codec: int, packed: Array, into: Array) -> int:
    """The bytes that it became. Raises DecompressionError, ValueError: damaged, or there is not room for it."""
    match codec:
        case 0:
            if len(packed) > len(into):
                raise ValueError("no room")
            into[: len(packed)] = packed
            return len(packed)
        case 1:
            return int(cramjam.gzip.decompress_into(packed.data, into.data))
        case 2:
            return _unpack_snappy(packed, into)
        case 3:
            return int(cramjam.lz4.decompress_into(packed.data, into.data))
        case 4:
            return int(cramjam.zstd.decompress_into(packed.data, into.data))
    raise Malformed(f"a batch is compressed by an unknown codec, number {codec}")


def _unpack_snappy(packed: Array, into: Array) -> int:
    if packed[: len(_XERIAL)].tobytes() != _XERIAL:
        return int(cramjam.snappy.decompress_raw_into(packed.data, into.data))
    at, used = 16, 0
    while at < len(packed):
        (size,) = struct.unpack_from(">i", packed.data, at)
        used += int(cramjam.snappy.decompress_raw_into(packed[at + 4 : at + 4 + size].data, into[used:].data))
        at += 4 + size
    return used
