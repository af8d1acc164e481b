"""Outputs: the pairs or frames that a task yields as Parquet, or as records that wait to be sent to a topic."""

from __future__ import annotations

import io
import typing
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow.parquet as pq

from streamkit.batch.mapreduce.pairs import KEY, VALUE
from streamkit.errors import DefinitionError
from streamkit.keys import encode_keys
from streamkit.mapreduce import MAIN, MapReduce, pair_types
from streamkit.schema import Field, Schema, field_of
from streamkit.topic import Topic

TIMESTAMP = "__timestamp"
PART_ROWS = 65_536
"""Rows of a row group: always so many, so that a part is the same however its rows came."""


class Part:
    """One task's rows of one output; written PART_ROWS at a time."""

    def __init__(self, columns: Columns, target: Path | io.BytesIO) -> None:
        self._columns, self._target = columns, target
        self._keys: list[Any] = []
        self._values: list[Any] = []
        self._writer: pq.ParquetWriter | None = None
        self.rows = 0

    def add(self, key: Any, value: Any) -> None:
        self._keys.append(key)
        self._values.append(value)
        if len(self._keys) == PART_ROWS:
            self._write()

    def extend(self, pairs: Sequence[tuple[Any, Any]]) -> None:
        for key, value in pairs:
            self.add(key, value)

    def close(self) -> None:
        if self._keys or self._writer is None:
            self._write()
        assert self._writer is not None
        self._writer.close()

    def _write(self) -> None:
        table = self._columns.frame(self._keys, self._values).to_arrow(compat_level=pl.CompatLevel.oldest())
        self.rows += len(self._keys)
        self._keys, self._values = [], []
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._target, table.schema, compression="zstd")
        self._writer.write_table(table, row_group_size=PART_ROWS)


class FramePart:
    """As a Part, of frames: their rows in the order of the key and of what else they hold.

    It is held in memory until then: a frame's rows have no order of their own (a `group_by` gives none).
    """

    def __init__(self, first: Sequence[str], topic: Topic | None, target: Path | io.BytesIO, served: bool) -> None:
        self._first, self._topic, self._target, self._served = tuple(first), topic, target, served
        self._frames: list[pl.DataFrame] = []
        self.rows = 0

    def add(self, frame: pl.DataFrame) -> None:
        self._frames.append(frame)
        self.rows += len(frame)

    def close(self) -> None:
        whole = pl.concat(self._frames) if self._frames else pl.DataFrame()
        first = [name for name in self._first if name in whole.columns]
        order = [*first, *(n for n, kind in whole.schema.items() if n not in first and not kind.is_nested())]
        whole = whole.sort(order) if order else whole
        if self._topic is not None:
            whole = _records(self._topic, whole)
        elif self._served:
            whole = _with_keys(whole, self._first)
        whole.write_parquet(self._target, compression="zstd", row_group_size=PART_ROWS)


class Columns:
    """The columns that pairs become."""

    def __init__(
        self, keys: Sequence[Field], whole_key: bool, fields: Sequence[Field], whole_value: bool, served: bool
    ) -> None:
        self._keys, self._whole_key, self._fields, self._whole_value = keys, whole_key, fields, whole_value
        self._served = served

    @classmethod
    def of(cls, key_names: Sequence[str], types: tuple[Any, Any] | None, served: bool) -> Columns:
        """`types` of key and value; None where nothing is known of them: JSON texts."""
        key_type, value_type = types if types is not None else (Any, Any)
        keys, whole = _key_fields(key_names, key_type)
        struct = isinstance(value_type, type) and (issubclass(value_type, msgspec.Struct) or is_dataclass(value_type))
        fields = list(Schema.of(value_type).fields) if struct else [field_of("value", value_type)]
        twice = {f.name for f in keys} & {f.name for f in fields}
        keys = [replace(f, name=f"key_{f.name}") if f.name in twice else f for f in keys]
        return cls(keys, whole, fields, not struct, served)

    def frame(self, keys: Sequence[Any], values: Sequence[Any]) -> pl.DataFrame:
        """Raises DefinitionError where they are not of the types that are declared."""
        columns = [pl.Series(KEY, encode_keys(keys), dtype=pl.Binary)] if self._served else []
        try:
            for number, field in enumerate(self._keys):
                parts = list(keys) if self._whole_key else [key[number] for key in keys]
                columns.append(_series(field, parts))
            for field in self._fields:
                items = list(values) if self._whole_value else [getattr(v, field.name) for v in values]
                columns.append(_series(field, items))
        except (TypeError, ValueError, OverflowError, AttributeError, IndexError, pl.exceptions.PolarsError) as error:
            raise DefinitionError(
                f"what is yielded does not fit the annotation of the function (Iterator[tuple[key, value]]): {error}"
            ) from error
        return pl.DataFrame(columns)


class RecordColumns(Columns):
    """Records that wait to be sent to a topic."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic

    def frame(self, keys: Sequence[Any], values: Sequence[Any]) -> pl.DataFrame:
        topic = self._topic
        for value in values:
            if not isinstance(value, topic.value):
                raise DefinitionError(
                    f"topic {topic.name!r} is of {topic.schema.owner}, and what is yielded is {value!r}"
                )
        named = list(map(_record_key, keys)) if topic.key is None else list(map(topic.key_of, values))
        return pl.DataFrame(
            {
                KEY: pl.Series(named, dtype=pl.Binary),
                VALUE: pl.Series([topic.encode(v) for v in values], dtype=pl.Binary),
                TIMESTAMP: pl.Series([topic.time_of(v) for v in values], dtype=pl.Int64),
            }
        )


def columns_of(job: MapReduce, output: str) -> Columns:
    """How the pairs of an output lie in its parts."""
    target = job.outputs[output]
    if isinstance(target, Topic):
        return RecordColumns(target)
    if output != MAIN:
        return Columns.of((), None if target is None else (Any, target), served=False)
    last = job.steps[-1]
    return Columns.of(job.key, pair_types(last.reduce or last.map), job.served)


def check_output(job: MapReduce, output: str) -> None:
    """Raises DefinitionError for an output that is not declared."""
    if output not in job.outputs:
        have = ", ".join(repr(name) for name in job.outputs if name != MAIN) or "none"
        raise DefinitionError(
            f"mapreduce {job.name!r} has no output {output!r}; declared are {have}: outputs={{{output!r}: None}}"
        )


def frame_part(job: MapReduce, output: str, target: Path | io.BytesIO) -> FramePart:
    out = job.outputs[output]
    return FramePart(job.steps[-1].keys, out if isinstance(out, Topic) else None, target, job.served)


def part(job: MapReduce, output: str, target: Path | io.BytesIO) -> Part:
    return Part(columns_of(job, output), target)


def _key_fields(names: Sequence[str], type_: Any) -> tuple[list[Field], bool]:
    """The key's columns, and whether it is one of them as it is: a tuple's parts are a column each."""
    if typing.get_origin(type_) is tuple and (parts := typing.get_args(type_)) and Ellipsis not in parts:
        named = names if len(names) == len(parts) else [f"key_{i}" for i in range(1, len(parts) + 1)]
        return [field_of(name, part) for name, part in zip(named, parts, strict=True)], False
    return [field_of(names[0] if names else "key", type_)], True


def _series(field: Field, items: list[Any]) -> pl.Series:
    """As its type has it; as JSON where that has no column (a text stays the text it is)."""
    if field.dtype is not None:
        return field.series(items).alias(field.name)
    texts = [None if i is None else i if type(i) is str else msgspec.json.encode(i).decode() for i in items]
    return pl.Series(field.name, texts, dtype=pl.String)


def _record_key(key: Any) -> bytes | None:
    if key is None or isinstance(key, bytes):
        return key
    return key.encode() if isinstance(key, str) else msgspec.json.encode(key)


def _records(topic: Topic, frame: pl.DataFrame) -> pl.DataFrame:
    try:
        values = [msgspec.convert(row, topic.value) for row in frame.iter_rows(named=True)]
    except msgspec.ValidationError as error:
        raise DefinitionError(f"topic {topic.name!r} is of {topic.schema.owner}, and a row is not: {error}") from error
    return RecordColumns(topic).frame([None] * len(values), values)


def _with_keys(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise DefinitionError(f"served=True needs the key's columns in the result; missing: {', '.join(missing)}")
    if frame.select(names).is_duplicated().any():
        first = frame.filter(frame.select(names).is_duplicated()).row(0, named=True)
        raise DefinitionError(f"served=True needs one row a key; there are several for {first}")
    rows = frame.select(names).rows()
    keys: list[Any] = [row[0] for row in rows] if len(names) == 1 else list(rows)
    return frame.select(pl.Series(KEY, encode_keys(keys), dtype=pl.Binary), pl.all())


def rows_by_output(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name or 'results'}" for name, count in rows.items())
