"""Rows of files: CSV, JSON lines and Parquet, one at a time, each with its place."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import polars as pl

from streamkit.errors import StreamkitError

Format = Literal["csv", "json", "parquet"]
SUFFIXES: Mapping[str, Format] = {
    ".csv": "csv", ".csv.gz": "csv", ".ndjson": "json", ".ndjson.gz": "json", ".jsonl": "json", ".jsonl.gz": "json",
    ".parquet": "parquet",
}  # fmt: skip

OnBytes = Callable[[int], None]
"""Told now and then how many bytes of the file have been read."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its cells by column (CSV, Parquet) or its JSON; `reason` where it could not be read as a row.

    `number` counts from 1: the line where it ends in a text file, the row in a Parquet file.
    """

    number: int
    data: Mapping[str, Any] | bytes
    reason: str | None = None


@dataclass(frozen=True)
class RowFile:
    """A file of rows; its format is told by its suffix."""

    path: Path
    format: Format
    stem: str
    """The name without the suffix."""

    @classmethod
    def of(cls, path: Path) -> RowFile:
        """Raises StreamkitError where there is no such file, or its suffix is unknown."""
        if not path.is_file():
            raise StreamkitError(f"{path}: there is no such file" + (" (it is a folder)" if path.is_dir() else ""))
        for suffix, format_ in SUFFIXES.items():
            if path.name.lower().endswith(suffix):
                return cls(path, format_, path.name[: -len(suffix)])
        raise StreamkitError(f"{path}: its format is told by its suffix: {', '.join(SUFFIXES)}")

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size

    def columns(self) -> list[str] | None:
        """The columns' names; None for JSON, where every row names its own. Raises StreamkitError."""
        if self.format == "json":
            return None
        with self._reading():
            if self.format == "parquet":
                return pl.scan_parquet(self.path).collect_schema().names()
            with self._open(lambda _: None) as file:
                return _header(self.path, csv.reader(_text(file), strict=True))

    def rows(self, on_bytes: OnBytes = lambda _: None) -> Iterator[Row]:
        """Raises StreamkitError where the file ends in the middle, is no text, or is not of its format."""
        read = {"csv": self._csv, "json": self._json, "parquet": self._parquet}[self.format]
        with self._reading():
            yield from read(on_bytes)
            on_bytes(self.size)

    def _csv(self, on_bytes: OnBytes) -> Iterator[Row]:
        with self._open(on_bytes) as file:
            lines = csv.reader(_text(file), strict=True)
            header = _header(self.path, lines)
            try:
                for cells in lines:
                    if len(cells) == len(header):
                        yield Row(lines.line_num, dict(zip(header, cells, strict=True)))
                    elif cells:
                        reason = f"expected {len(header)} cells ({', '.join(header)}), got {len(cells)}"
                        yield Row(lines.line_num, {}, reason)
            except csv.Error as error:
                raise StreamkitError(f"{self.path}:{lines.line_num}: not CSV: {error}") from error

    def _json(self, on_bytes: OnBytes) -> Iterator[Row]:
        with self._open(on_bytes) as file:
            for number, line in enumerate(file, start=1):
                if not line.isspace():
                    yield Row(number, line)

    def _parquet(self, on_bytes: OnBytes) -> Iterator[Row]:
        frame = pl.scan_parquet(self.path)
        total, number = frame.select(pl.len()).collect().item(), 0
        for batch in frame.collect_batches(maintain_order=True):
            for fields in batch.iter_rows(named=True):
                number += 1
                yield Row(number, fields)
            on_bytes(self.size * number // total)

    @contextmanager
    def _open(self, on_bytes: OnBytes) -> Iterator[BinaryIO]:
        with self.path.open("rb") as raw:
            counted = io.BufferedReader(_Counted(raw, on_bytes), 1 << 16)
            yield gzip.GzipFile(fileobj=counted) if self.path.name.lower().endswith(".gz") else counted  # type: ignore[misc]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, zlib.error, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
            raise StreamkitError(f"{self.path}: cannot be read: {error}") from error


class _Counted(io.RawIOBase):
    """Tells how far a file has been read, whatever unpacks or decodes it above."""

    def __init__(self, raw: BinaryIO, on_bytes: OnBytes) -> None:
        self._raw, self._on_bytes = raw, on_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = self._raw.readinto(buffer)  # type: ignore[attr-defined]
        self._on_bytes(self._raw.tell())
        return int(read)


def _text(file: BinaryIO) -> io.TextIOWrapper:
    """UTF-8, also with the mark that spreadsheets put before it."""
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def _header(path: Path, lines: Iterator[list[str]]) -> list[str]:
    try:
        header = next(lines, None)
    except csv.Error as error:
        raise StreamkitError(f"{path}: its first line is not CSV: {error}") from error
    if not header:
        raise StreamkitError(f"{path}: it is empty; expected a first line with the columns' names")
    if len(set(header)) < len(header):
        raise StreamkitError(f"{path}: two columns have one name: {', '.join(header)}")
    return header
