"""Writes of many keys as table files of RocksDB, which takes them in whole: no log, no memtable, no flush.

The format is RocksDB's BlockBasedTable, version 2 (its wiki, "Rocksdb BlockBasedTable Format"), as plain as it may be:
no compression, one index, the Bloom filter of old. RocksDB reads all versions, and writes its own when it compacts.
rocksdict's SstFileWriter makes such files, too: key by key, half a microsecond each with the interpreter's lock held;
this takes a third of it without.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from streamkit.native.loader import Loops, loader
from streamkit.packed import Packed, Strings
from streamkit.record import Array
from streamkit.store.base import Write

WORTH = 20_000
"""Packed keys from which on a file is worth its making: small ones would only have to be compacted."""
_PIECE = 1 << 20
"""Bytes that are written at once."""

_VERSION, _MAGIC, _CRC32C = 2, 0x88E241B785F4CFF7, 1
_FOOTER = 41
"""Bytes of the footer before its version."""
_SMALLEST = bytes(8)
"""Behind a key of the index: it is not before the last key of its block, put or deleted."""
_FILTER = b"fullfilter.rocksdb.BuiltinBloomFilter"
_BITS_EACH, _PROBES, _LINE = 10, 6, 64
"""Of the Bloom filter: bits for a key, how many are set for it, bytes of a cache line, in one of which they all are."""
_PROPERTIES: Mapping[str, bytes] = {
    "rocksdb.block.based.table.index.type": struct.pack("<I", 0),
    "rocksdb.block.based.table.prefix.filtering": b"0",
    "rocksdb.block.based.table.whole.key.filtering": b"1",
    "rocksdb.comparator": b"leveldb.BytewiseComparator",
    "rocksdb.compression": b"NoCompression",
    "rocksdb.external_sst_file.global_seqno": struct.pack("<Q", 0),
    "rocksdb.external_sst_file.version": struct.pack("<I", 2),
}


Row = tuple[bytes, bytes | None]
"""A key and its value; None deletes it."""


def in_order(packed: Iterable[Packed]) -> list[Packed]:
    """Those that are not empty, by their first keys."""
    return sorted((part for part in packed if len(part)), key=lambda part: bytes(part.keys.series[0]))


class SortedFile:
    """A file of a Write, in the making by a thread of its own; keys before all of the Write's may come last.

    What goes wrong there is raised by `write`.
    """

    def __init__(self, loops: Loops, path: Path, rows: Sequence[Row], packed: Sequence[Packed]) -> None:
        self._loops, self.path = loops, path
        self._first = min([packed[0].keys.series[0], *(key for key, _ in rows[:1])])
        thread = ThreadPoolExecutor(1, "streamkit-file")
        self._begun = thread.submit(_write, loops, path, "wb", rows, packed)
        thread.shutdown(wait=False)  # a `with` would wait for it here

    @classmethod
    def of(cls, write: Write, path: Path) -> SortedFile | None:
        """None where it is not worth it, or cannot be: ranges, and parts that overlap, have no place in a file."""
        loops = loader.loops()
        if sum(map(len, write.packed)) < WORTH or write.ranges or loops is None:
            return None
        packed = in_order(write.packed)
        if any(left.keys.series[-1] >= right.keys.series[0] for left, right in pairwise(packed)):
            return None
        rows: dict[bytes, bytes | None] = {**dict.fromkeys(write.deletes), **dict(write.puts)}
        return cls(loops, path, sorted(rows.items()), packed)

    def can_begin_with(self, puts: Sequence[tuple[bytes, bytes]]) -> bool:
        """Do these come before what is in the making?"""
        return all(key < self._first for key, _ in puts)

    def write(self, puts: Sequence[tuple[bytes, bytes]]) -> None:
        """Finish it, with `puts` in it, too. Raises OSError."""
        begun = self._begun.result()
        # Their blocks lie behind those of the keys behind them: it is the index that has an order.
        first = _write(self._loops, self.path, "ab", sorted(dict(puts).items()), [])
        with self.path.open("ab") as file:
            file.writelines(_rest(self._loops, begun, first))

    def drop(self) -> None:
        """There is to be no such file."""
        wait([self._begun])
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Blocks:
    """Data blocks with their trailers: how many bytes; each one's last key, beginning and size; what is in them."""

    size: int
    ends: Sequence[tuple[bytes, int, int]]
    key_size: int
    hashes: Array

    def index(self, begin: int) -> list[tuple[bytes, bytes]]:
        """Their rows in the index, where the first of them is at `begin`."""
        return [(last + _SMALLEST, _varints(begin + at, size)) for last, at, size in self.ends]


def _stream(keys: Strings, values: Strings, gone: Array) -> list[int]:
    """Rows in the order of keys, as `native.sorted` reads them: for as long as these live."""
    arrays = (keys.data, keys.ends, values.data, values.ends, gone)
    return [*(array.ctypes.data for array in arrays), len(keys)]


def _write(loops: Loops, path: Path, mode: str, rows: Sequence[Row], packed: Sequence[Packed]) -> _Blocks:
    """Rows, and what is packed, as blocks to a file, a piece at a time: a buffer for all would be made for each file
    anew, and most of the time would go by until the kernel has cleared its pages."""
    keys, values = Strings.of([key for key, _ in rows]), Strings.of([value or b"" for _, value in rows])
    gone = np.array([value is None for _, value in rows], np.uint8)
    parts = [(keys, values), *((part.keys, part.values) for part in packed)]
    room = 2 * loops.sorted.BLOCK_BYTES + max(some.longest + others.longest for some, others in parts)
    out, blocks = np.empty(_PIECE + room, np.uint8), np.empty((_PIECE // loops.sorted.BLOCK_BYTES + 2, 4), np.int64)
    hashes = np.empty(sum(len(keys) for keys, _ in parts), np.uint32)
    streams = np.array([_stream(*part, gone) for part in parts], np.int64)
    done = np.zeros(4, np.int64)
    size, ends = 0, list[tuple[bytes, int, int]]()
    with path.open(mode) as file:
        while True:
            at, made = loops.sorted.write(loops.sorted.CRC, streams[0], streams[1:], done, room, out, blocks, hashes)
            if not made:
                return _Blocks(size, ends, sum(keys.size for keys, _ in parts), hashes[: done[loops.sorted.WRITTEN]])
            file.write(out[:at])
            places = blocks[:made].tolist()
            ends += [(ctypes.string_at(last, length), size + begin, bytes_) for begin, bytes_, last, length in places]
            size += at


def _rest(loops: Loops, begun: _Blocks, first: _Blocks) -> Iterator[bytes]:
    """What comes behind the data blocks of a file: those that were begun with, and those of its first keys."""
    at = begun.size + first.size
    index = [*first.index(begun.size), *begun.index(0)]
    hashes = np.concatenate([first.hashes, begun.hashes])
    bloom = np.zeros(_LINE * (len(hashes) * _BITS_EACH // (8 * _LINE) | 1), np.uint8)
    loops.sorted.remember(bloom, _PROBES, hashes)
    told = {"data.size": at, "num.data.blocks": len(index), "num.entries": len(hashes),
            "raw.key.size": begun.key_size + first.key_size + len(_SMALLEST) * len(hashes),
            "filter.size": len(bloom)}  # fmt: skip
    known = {**_PROPERTIES, **{f"rocksdb.{name}": _varints(number) for name, number in told.items()}}

    def block(data: bytes) -> tuple[bytes, bytes]:
        """A block with its trailer, and where it is."""
        nonlocal at
        data += b"\0"  # not compressed
        start = np.frombuffer(data, np.uint8).ctypes.data
        crc = loops.sorted.checksum(loops.sorted.CRC, start, start + len(data))
        place = _varints(at, len(data) - 1)
        at += len(data) + 4
        return data + struct.pack("<I", crc), place

    filter_, filter_at = block(bloom.tobytes() + struct.pack("<BI", _PROBES, len(bloom) // _LINE))
    index_block, index_at = block(_block(index))
    properties, properties_at = block(_block((name.encode(), known[name]) for name in sorted(known)))
    meta, meta_at = block(_block([(_FILTER, filter_at), (b"rocksdb.properties", properties_at)]))
    footer = (bytes([_CRC32C]) + meta_at + index_at).ljust(_FOOTER, b"\0")
    yield from (filter_, index_block, properties, meta, footer + struct.pack("<IQ", _VERSION, _MAGIC))


def _block(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Each key whole, each a restart."""
    rows = [_varints(0, len(key), len(value)) + key + value for key, value in entries]
    starts = np.cumsum([0, *map(len, rows)], dtype="<u4")[:-1]
    return b"".join([*rows, starts.tobytes(), struct.pack("<I", len(rows))])


def _varints(*numbers: int) -> bytes:
    out = bytearray()
    for number in numbers:
        while number >= 128:
            out.append(number & 127 | 128)
            number >>= 7
        out.append(number)
    return bytes(out)
