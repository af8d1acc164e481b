"""Chunks to Parquet and back, in columns: no Python object for any record on either way.

Columns: `_partition` int32, `_offset` and `_timestamp` (milliseconds since the epoch, as Kafka has them) int64, `_key`
and `_value` binary or null, `_headers` a list of (key, value), null where a record has none.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streamkit.errors import ArchiveDamaged
from streamkit.log.archive.index import ArchiveFile
from streamkit.native.loader import Loops, loader
from streamkit.record import Array, Chunk, FlatBytes, FlatChunk, Headers, RecordChunk, TopicPartition, records_of

ROW_GROUP = 65_536
"""Records. Between 8,192 and 65,536 reading costs the same; larger ones suit other readers of the table."""
_GROUP_BYTES = 32 * 1024 * 1024


def _field(number: int, name: str, kind: Any, *, nullable: bool = True) -> Any:
    """With its id: other readers of the Iceberg table find columns by that."""
    return pa.field(name, kind, nullable, {b"PARQUET:field_id": b"%d" % number})


_HEADER = pa.struct([_field(8, "key", pa.string(), nullable=False), _field(9, "value", pa.binary())])
_HEADERS = pa.list_(_field(7, "element", _HEADER, nullable=False))
SCHEMA = pa.schema(
    [
        _field(1, "_partition", pa.int32(), nullable=False),
        _field(2, "_offset", pa.int64(), nullable=False),
        _field(3, "_timestamp", pa.int64(), nullable=False),
        _field(4, "_key", pa.large_binary()),
        _field(5, "_value", pa.large_binary()),
        _field(6, "_headers", _HEADERS),
    ]
)
_NUMBERS = ["_partition", "_offset", "_timestamp"]


class RangeWriter:
    """Writes the records of one range to a temporary file, a row group at a time."""

    def __init__(self, partition: int, start: int) -> None:
        self.partition, self.start = partition, start
        self.records = self.with_headers = self.raw = 0
        self._file: Any = tempfile.TemporaryFile()  # noqa: SIM115 - closed by whoever takes it, or by `abandon`
        self._writer = pq.ParquetWriter(
            self._file,
            SCHEMA,
            compression="zstd",
            use_dictionary=["_key"],
            write_statistics=_NUMBERS,
            column_encoding=dict.fromkeys(_NUMBERS, "DELTA_BINARY_PACKED"),
        )
        self._waiting: list[Any] = []
        self._rows = self._bytes = 0

    def add(self, chunk: Chunk) -> None:
        batch, raw, with_headers = _to_arrow(chunk)
        self.records += len(chunk)
        self.with_headers += with_headers
        self.raw += raw
        self._waiting.append(batch)
        self._rows += len(chunk)
        self._bytes += raw
        if self._rows >= ROW_GROUP or self._bytes >= _GROUP_BYTES:
            self._write()

    def add_file(self, content: memoryview, file: ArchiveFile) -> None:
        """The records of another file."""
        self._writer.write_table(pq.read_table(pa.BufferReader(content), use_threads=False), ROW_GROUP)
        self.records += file.records
        self.with_headers += file.with_headers
        self.raw += file.raw

    def finish(self, end: int, path: str) -> tuple[ArchiveFile, IO[bytes]]:
        """The range ends here; what to name it by in an index, and its content, to be closed by who takes it."""
        self._write()
        self._writer.close()
        size = self._file.seek(0, 2)
        self._file.seek(0)
        digest = hashlib.file_digest(self._file, "sha256").hexdigest()
        self._file.seek(0)
        counts = (self.records, self.with_headers, self.raw)
        return ArchiveFile(self.partition, self.start, end, *counts, size, digest, path), self._file

    def abandon(self) -> None:
        """Let go of what was written; after `finish` nothing happens."""
        if not self._file.closed:
            self._writer.close()
            self._file.close()

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting, SCHEMA), ROW_GROUP)
            self._waiting, self._rows, self._bytes = [], 0, 0


class FileReader:
    """The Chunks of one file, a row group each."""

    def __init__(self, source: TopicPartition, content: memoryview, file: ArchiveFile) -> None:
        self._source, self._file = source, file
        try:
            self._parquet = pq.ParquetFile(pa.BufferReader(content), memory_map=False)
        except pa.ArrowException as error:
            raise ArchiveDamaged(f"archive of {source}, offsets [{file.start}, {file.end}): {error}") from error

    def chunks(self, start: int) -> Iterator[FlatChunk]:
        """The records at `start` and after it."""
        columns = ["_offset", "_timestamp", "_key", "_value", *(["_headers"] if self._file.with_headers else [])]
        for number in range(self._parquet.num_row_groups):
            bounds = self._parquet.metadata.row_group(number).column(1).statistics
            if bounds.max < start:
                continue
            chunk = self._chunk(self._parquet.read_row_group(number, columns, use_threads=False))
            first = int(np.searchsorted(chunk.offsets_array, start))
            yield part(chunk, first, len(chunk)) if first else chunk

    def _chunk(self, table: Any) -> FlatChunk:
        offsets, timestamps, keys, values = (table.column(number).combine_chunks() for number in range(4))
        headers = _headers(table.column(4)) if self._file.with_headers else {}
        return FlatChunk(self._source, offsets.to_numpy(), timestamps.to_numpy(), _flat(values), _flat(keys), headers)


def part(chunk: Chunk, start: int, stop: int) -> Any:
    """The records at some places of a chunk, as a chunk."""
    if not isinstance(chunk, FlatChunk):
        return RecordChunk(list(records_of(chunk))[start:stop])
    return chunk.part(start, stop)


def _to_arrow(chunk: Chunk) -> tuple[Any, int, int]:
    """A record batch, the bytes of its keys and values, and how many records have headers."""
    count = len(chunk)
    if isinstance(chunk, FlatChunk):
        offsets, timestamps = chunk.offsets_array, chunk.timestamps_array
        keys, values = _binary(chunk.flat_keys), _binary(chunk.flat)
        of: dict[int, Headers] = dict(chunk.headers_of)
    else:
        offsets, timestamps = np.array(chunk.offsets, np.int64), np.array(chunk.timestamps, np.int64)
        keys, values = (pa.array(column, pa.large_binary()) for column in (chunk.keys, chunk.values))
        of = {place: headers for place, headers in enumerate(chunk.headers) if headers}
    headers = pa.nulls(count, _HEADERS)
    if of:
        rows = [[{"key": key, "value": value} for key, value in of[i]] if i in of else None for i in range(count)]
        headers = pa.array(rows, _HEADERS)
    partition = pa.array(np.full(count, chunk.source.partition, np.int32))
    columns = [partition, pa.array(offsets), pa.array(timestamps), keys, values, headers]
    raw = sum(int(ends[-1]) - int(ends[0]) for ends in map(_ends, (keys, values)))
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA), raw, len(of)


def _binary(flat: FlatBytes) -> Any:
    """As an Arrow array over the same bytes, where they lie end to end."""
    lengths = np.maximum(flat.lengths, 0)
    ends = flat.starts + lengths
    if len(flat) == 0:
        return pa.array([], pa.large_binary())
    if not np.array_equal(ends[:-1], flat.starts[1:]):
        if (loops := loader.loops()) is None:
            return pa.array(flat.tolist(), pa.large_binary())
        flat = _packed(loops, flat, lengths)
        ends = flat.starts + lengths
    there = flat.lengths >= 0
    validity = None if there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))
    offsets = np.append(flat.starts, ends[-1]).astype(np.int64, copy=False)
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(flat.data)]
    return pa.Array.from_buffers(pa.large_binary(), len(flat), buffers)


def _packed(loops: Loops, flat: FlatBytes, lengths: Array) -> FlatBytes:
    """End to end: as they lie on the log there are lengths between them."""
    data, starts = np.empty(int(lengths.sum()), np.uint8), np.empty(len(flat), np.int64)
    addresses = flat.starts + flat.data.ctypes.data
    loops.messages.gather(data.ctypes.data, starts, addresses, np.ascontiguousarray(flat.lengths), len(flat))
    return FlatBytes(data, starts, flat.lengths)


def _ends(array: Any) -> Array:
    offsets = np.frombuffer(array.buffers()[1] or bytes(8), np.int64)
    return offsets[array.offset : array.offset + len(array) + 1]


def _flat(array: Any) -> FlatBytes:
    ends = _ends(array)
    first, size = int(ends[0]), int(ends[-1]) - int(ends[0])
    data = np.empty(size + FlatBytes.PADDING, np.uint8)
    if size:
        data[:size] = np.frombuffer(array.buffers()[2], np.uint8)[first : first + size]
    data[size:] = 0
    starts, lengths = ends[:-1] - first, np.diff(ends)
    if array.null_count:
        lengths[array.is_null().to_numpy(zero_copy_only=False)] = -1
    return FlatBytes(data, starts, lengths)


def _headers(column: Any) -> dict[int, Headers]:
    places = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False)).tolist()
    rows = column.take(pa.array(places, pa.int64())).to_pylist()
    return {place: [(h["key"], h["value"]) for h in row] for place, row in zip(places, rows, strict=True)}
