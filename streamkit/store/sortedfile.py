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
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from streamkit.native.loader import Loops, loader
from streamkit.packed import Packed, Strings
from streamkit.record import Array
from streamkit.store.base import Write

WORTH = 20_000
"""Packed keys from which on a file is worth its making: small ones would only have to be compacted."""

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


def can_be_file(write: Write) -> bool:
    """Is it worth it, and are there the loops for it? Ranges, and parts that overlap, have no place in such a file."""
    worth = sum(map(len, write.packed)) >= WORTH and not write.ranges and loader.loops() is not None
    ends = [(part.keys.series[0], part.keys.series[-1]) for part in in_order(write.packed)] if worth else []
    return worth and all(left[1] < right[0] for left, right in pairwise(ends))


def in_order(packed: Iterable[Packed]) -> list[Packed]:
    """Those that are not empty, by their first keys."""
    return sorted((part for part in packed if len(part)), key=lambda part: bytes(part.keys.series[0]))


def make_file(path: Path, write: Write) -> None:
    """Make `path` of a Write that `can_be_file`. Raises OSError."""
    loops = loader.loops()
    assert loops is not None
    rows: dict[bytes, bytes | None] = {**dict.fromkeys(write.deletes), **dict(write.puts)}
    with path.open("wb") as file:
        file.writelines(_parts(loops, sorted(rows.items()), in_order(write.packed)))


def _stream(keys: Strings, values: Strings, gone: Array) -> list[int]:
    """Rows in the order of keys, as `native.sorted` reads them: for as long as these live."""
    arrays = (keys.data, keys.ends, values.data, values.ends, gone)
    return [*(array.ctypes.data for array in arrays), len(keys)]


def _parts(loops: Loops, rows: Sequence[tuple[bytes, bytes | None]], packed: Sequence[Packed]) -> Iterator[Any]:
    """The file's, from its beginning to its end."""
    sorted_, keys, values = loops.sorted, Strings.of([k for k, _ in rows]), Strings.of([v or b"" for _, v in rows])
    gone = np.array([value is None for _, value in rows], np.uint8)
    count = len(rows) + sum(map(len, packed))
    size = keys.size + values.size + sum(part.size for part in packed)
    out = np.empty(size + count * sorted_.ROW_MOST + 64, np.uint8)
    blocks = np.empty((size // sorted_.BLOCK_BYTES + count, 4), np.int64)
    bloom = np.zeros(_LINE * (count * _BITS_EACH // (8 * _LINE) | 1), np.uint8)
    streams = np.array([_stream(part.keys, part.values, gone) for part in packed], np.int64)
    at, made, written = sorted_.write(
        sorted_.CRC, np.array(_stream(keys, values, gone), np.int64), streams, out, blocks, bloom, _PROBES
    )
    yield out[:at]

    def block(data: bytes) -> tuple[bytes, bytes]:
        """A block with its trailer, and where it is."""
        nonlocal at
        data += b"\0"  # not compressed
        start = np.frombuffer(data, np.uint8).ctypes.data
        crc = sorted_.checksum(sorted_.CRC, start, start + len(data))
        place = _varints(at, len(data) - 1)
        at += len(data) + 4
        return data + struct.pack("<I", crc), place

    lasts = [(ctypes.string_at(last, size), begin, bytes_) for begin, bytes_, last, size in blocks[:made].tolist()]
    filter_, filter_at = block(bloom.tobytes() + struct.pack("<BI", _PROBES, len(bloom) // _LINE))
    index, index_at = block(_block((key + _SMALLEST, _varints(begin, bytes_)) for key, begin, bytes_ in lasts))
    told = {"data.size": out[:at].size, "num.data.blocks": made, "num.entries": written, "index.size": len(index),
            "filter.size": len(filter_), "raw.key.size": size + 8 * written}  # fmt: skip
    known = {**_PROPERTIES, **{f"rocksdb.{name}": _varints(number) for name, number in told.items()}}
    properties, properties_at = block(_block((name.encode(), known[name]) for name in sorted(known)))
    meta, meta_at = block(_block([(_FILTER, filter_at), (b"rocksdb.properties", properties_at)]))
    footer = (bytes([_CRC32C]) + meta_at + index_at).ljust(_FOOTER, b"\0")
    yield from (filter_, index, properties, meta, footer + struct.pack("<IQ", _VERSION, _MAGIC))


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
