"""Files of the batch layer: Parquet, sorted by Slot, each with its checksum.

A row is a Slot and its states (both as the speed layer's store has them), and beside them the same in plain columns
(the key's parts, the window, the results) for DuckDB, Spark, pandas and people.
"""

from __future__ import annotations

import bisect
import decimal
import io
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from streamkit.checkpoint import slot_key
from streamkit.control import File
from streamkit.fold import Fold, States
from streamkit.store.population import Population
from streamkit.view import View

SLOT, STATE, HASH = "__slot", "__state", "__hash"
ROW_GROUP = 8_192
COUNTS = ("events", "rejected")
"""What is counted of a Split: records used, records that could not be used."""
_POPULATION = "population"


def write_partial(path: Path, fold: Fold, states: States, counts: Mapping[str, int]) -> None:
    """The states of one Split, and its counts; whole or not at all."""
    slots = [slot_key(slot) for slot in states]
    frame = pl.DataFrame(
        {
            HASH: pl.Series([key_hash(slot) for slot in slots], dtype=pl.UInt32),
            SLOT: pl.Series(slots, dtype=pl.Binary),
            STATE: pl.Series([fold.dump(state) for state in states.values()], dtype=pl.Binary),
        }
    )
    metadata = {name: str(count) for name, count in counts.items()}
    metadata[_POPULATION] = Population.of(slots, fold.view.window).dump().hex()
    write_file(path, _parquet(frame, metadata))


def read_counts(path: Path) -> dict[str, int]:
    """The counts of a Split that is done."""
    metadata = pl.read_parquet_metadata(path)
    return {name: int(metadata[name]) for name in COUNTS}


def read_population(path: Path) -> Population:
    """The Slots that a Split which is done has made, for `bucket_count`."""
    return Population.load(bytes.fromhex(pl.read_parquet_metadata(path)[_POPULATION]))


def read_partial(path: Path, bucket: int, buckets: int) -> Iterator[tuple[bytes, bytes]]:
    """The part of a Split's states that belongs to one of `buckets`."""
    lazy = pl.scan_parquet(path).filter(pl.col(HASH) % buckets == bucket).select(SLOT, STATE)
    return lazy.collect().iter_rows()


def bucket_name(bucket: int) -> str:
    return f"part-{bucket:05}.parquet"


def bucket_bytes(view: View, fold: Fold, states: States) -> bytes:
    """What one file of a BatchView holds, sorted by Slot: the same bytes for the same states, wherever made."""
    ordered = sorted((slot_key(slot), slot, state) for slot, state in states.items())
    slots = [slot for _, slot, _ in ordered]
    columns = {
        SLOT: pl.Series([key for key, _, _ in ordered], dtype=pl.Binary),
        STATE: pl.Series([fold.dump(state) for _, _, state in ordered], dtype=pl.Binary),
    }
    for i, (name, kind) in enumerate(view.key_types.items()):
        columns[name] = pl.Series([slot.key[i] for slot in slots], dtype=kind)
    if view.windowed:
        columns["window_start"] = _moments([slot.start for slot in slots])
        columns["window_end"] = _moments([slot.end for slot in slots])
    results = [fold.result(state) for _, _, state in ordered]
    for name in view.aggregates:
        columns[name] = plain_column([r[name] for r in results])
    return _parquet(pl.DataFrame(columns))


def write_bucket(folder: Path, result: str, bucket: int, rows: int, content: bytes) -> File:
    """Store one file of the result `result` in a View's folder; the path in the File is relative to that."""
    path = f"{result}/{bucket_name(bucket)}"
    write_file(folder / path, content)
    return File(path, rows, len(content), f"{zlib.crc32(content):08x}")


class BucketFile:
    """A BatchView's file in memory: its Slots in order, and their states."""

    def __init__(self, path: Path) -> None:
        frame = pl.read_parquet(path, columns=[SLOT, STATE])
        self._slots: list[bytes] = frame[SLOT].to_list()
        self._states: list[bytes] = frame[STATE].to_list()

    def __len__(self) -> int:
        return len(self._slots)

    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Slots and states with `start <= slot < end`, or to the last."""
        first = bisect.bisect_left(self._slots, start)
        last = len(self._slots) if end is None else bisect.bisect_left(self._slots, end)
        return zip(self._slots[first:last], self._states[first:last], strict=True)


def key_hash(slot: bytes) -> int:
    """Which bucket a key belongs to, before the modulo; its windows all lie together."""
    return zlib.crc32(slot[:-16])


def bucket_count(slots: int, per_bucket: int = 50_000) -> int:
    """A power of two, so that one bucket holds about `per_bucket` Slots.

    >>> bucket_count(10), bucket_count(120_000)
    (1, 4)
    """
    return min(1024, 1 << max(0, (max(slots, 1) - 1) // per_bucket).bit_length())


def checksum(path: Path) -> str:
    """CRC-32 of the file's bytes, as hexadecimal."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return f"{crc:08x}"


def plain_column(values: Sequence[Any]) -> pl.Series:
    """Results as a column that any reader of Parquet knows; what has no such type is JSON text.

    >>> plain_column([1, None, 3]).dtype, plain_column([{"0.5": 2.0}]).to_list()
    (Int64, ['{"0.5":2.0}'])
    """
    kinds = {type(v) for v in values if v is not None}
    for kind, dtype in ((bool, pl.Boolean), (int, pl.Int64), (float, pl.Float64), (str, pl.String)):
        if kinds <= {kind} and not (kind is int and any(v is not None and abs(v) >= 1 << 63 for v in values)):
            return pl.Series(values, dtype=dtype)
    text = [None if v is None else str(v) if isinstance(v, int | decimal.Decimal) else _json(v) for v in values]
    return pl.Series(text, dtype=pl.String)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _moments(milliseconds: Sequence[int]) -> pl.Series:
    return pl.Series(milliseconds, dtype=pl.Int64).cast(pl.Datetime("ms", "UTC"))


def _parquet(frame: pl.DataFrame, metadata: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", row_group_size=ROW_GROUP, metadata=metadata)
    return buffer.getvalue()


def write_file(path: Path, content: bytes) -> None:
    """Durable under its name, or absent: a name with half a file behind it would be taken for a finished one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
