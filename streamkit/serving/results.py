"""Results of MapReduce jobs as the serving layer answers from them: files in order of the key, found by its bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from streamkit.control import JobResult
from streamkit.cut import Cut
from streamkit.errors import DefinitionError, StateMissing, TopicChanged
from streamkit.keys import decode_key, encode_key
from streamkit.log.base import Log
from streamkit.log.control import ControlTopic
from streamkit.mapreduce import MAIN, MapReduce
from streamkit.store.batchfile import checksum
from streamkit.topology import Topology
from streamkit.view import Answer

_KEY = "__key"


class Results:
    """Answers from the newest published result of each `served` job; `folder` is the topology's mapreduce folder.

    Threads may share it.
    """

    def __init__(self, log: Log, topology: Topology, folder: Path) -> None:
        self._log, self._topology, self._folder = log, topology, folder
        self._control = ControlTopic(log, topology.name)
        self._checked: set[str] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        self._control.close()

    def get(self, job: MapReduce, key: Any) -> Answer:
        """The Answer for one key; `found` is False where the result has none. Raises as `newest`."""
        result = self.newest(job)
        frame = self._rows(job, result).filter(pl.col(_KEY) == pl.lit(encode_key(key))).collect()
        lag = self._lag(result)
        if not len(frame):
            return _answer(job, result, lag, _parts(key), None)
        return _row_answer(job, result, lag, frame.row(0, named=True))

    def scan(self, job: MapReduce) -> Iterator[Answer]:
        """All Answers, part by part, in order of the key within each. Raises as `newest`."""
        result = self.newest(job)
        lag = self._lag(result)
        for path in self._paths(job, result):
            for row in pl.read_parquet(path).iter_rows(named=True):
                yield _row_answer(job, result, lag, row)

    def newest(self, job: MapReduce) -> JobResult:
        """The result in force. Raises StateMissing where there is none, TopicChanged where its topic was made anew."""
        if not job.served:
            raise DefinitionError(
                f"mapreduce {job.name!r} is not served: declare it with served=True, and run it again"
            )
        with self._lock:
            self._control.catch_up()
            results = self._control.published.results(job.name)
        if not results:
            raise StateMissing(f"mapreduce {job.name!r} has no result yet: `streamkit mapreduce TOPOLOGY {job.name}`")
        for topic, cut in results[0].cuts.items():
            if self._log.describe(topic).id != cut.topic_id:
                raise TopicChanged(
                    f"mapreduce {job.name!r}: topic {topic!r} was deleted and made again since its result; run it again"
                )
        return results[0]

    def key_columns(self, job: MapReduce) -> dict[str, pl.DataType]:
        """The columns that a key's parts are; none where the result is empty."""
        rows = self._rows(job, self.newest(job))
        first = rows.head(1).collect()
        parts = len(_parts(decode_key(first[_KEY][0]))) if len(first) else 0
        return dict(list(first.schema.items())[1 : 1 + parts])

    def parse_key(self, job: MapReduce, texts: Sequence[str]) -> Any:
        """The key whose parts are these texts, of the types that the result's columns have. Raises DefinitionError."""
        columns = self.key_columns(job)
        if not columns:
            return texts[0]  # nothing is found in an empty result, whatever the key
        if len(texts) != len(columns):
            raise DefinitionError(
                f"mapreduce {job.name!r} is keyed by {', '.join(columns)}: give {len(columns)} key part(s), "
                f"got {len(texts)}"
            )
        parts = tuple(_parse(job, *column, text) for column, text in zip(columns.items(), texts, strict=True))
        return parts[0] if len(parts) == 1 else parts

    def _rows(self, job: MapReduce, result: JobResult) -> pl.LazyFrame:
        paths = self._paths(job, result)
        if not paths:
            return pl.LazyFrame(schema={_KEY: pl.Binary})
        return pl.scan_parquet(paths)

    def _paths(self, job: MapReduce, result: JobResult) -> list[Path]:
        """The parts; each is checked once."""
        paths = []
        for file in result.files[MAIN]:
            path = self._folder / job.name / "results" / file.path
            paths.append(path)
            if file.path in self._checked:
                continue
            if not path.exists():
                raise StateMissing(
                    f"{path} is missing: the result of {job.name!r} was published from another data folder, or its "
                    f"files were deleted. Point --data at that folder, or run it again"
                )
            if (found := checksum(path)) != file.crc32:
                raise StateMissing(f"{path} was damaged (checksum {found}, manifest {file.crc32}): run the job again")
            self._checked.add(file.path)
        return paths

    def _lag(self, result: JobResult) -> int:
        (cut,) = result.cuts.values()
        return Cut(cut.topic, cut.topic_id, self._log.ends(cut.topic)).count(since=cut)


def _row_answer(job: MapReduce, result: JobResult, lag: int, row: dict[str, Any]) -> Answer:
    parts = _parts(decode_key(row[_KEY]))
    values = dict(list(row.items())[1 + len(parts) :])
    return _answer(job, result, lag, parts, values)


def _answer(job: MapReduce, result: JobResult, lag: int, key: tuple[Any, ...], values: dict[str, Any] | None) -> Answer:
    (cut,) = result.cuts.values()
    return Answer(job.name, key, None, values or {}, cut, lag, batch=values, as_of=result.created)


def _parse(job: MapReduce, name: str, kind: pl.DataType, text: str) -> Any:
    try:
        if kind.is_integer():
            return int(text)
        if kind.is_float():
            return float(text)
        if kind == pl.Boolean:
            return {"true": True, "false": False}[text.lower()]
    except (KeyError, ValueError):
        raise DefinitionError(f"mapreduce {job.name!r}: key {name!r} is {kind}, got {text!r}") from None
    return text


def _parts(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)
