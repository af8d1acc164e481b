"""MapReduce jobs: `map`, `combine` and `reduce` over a topic's history or over files, in one step or in a chain.

What is no commutative monoid, and so no View, is one of these. A declaration only: the batch layer runs it, on one
machine or on Spark, with the same result.

Model: Dean and Ghemawat, "MapReduce: Simplified Data Processing on Large Clusters", OSDI 2004.
"""

from __future__ import annotations

import collections.abc
import hashlib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import msgspec

from streamkit.codec import Codec, Json
from streamkit.errors import DefinitionError, StreamkitError
from streamkit.topic import Topic
from streamkit.view import Answer

MAIN = ""
"""The name of a job's main output: what is yielded without `sk.To`."""


class Line(msgspec.Struct):
    """A line of a text file, without its end."""

    text: str


class Text:
    """The codec of text files: a line is a `Line`."""

    name = "text"

    def decoder(self, type_: Any) -> Callable[[bytes], Any]:
        del type_
        return lambda raw: Line(raw.decode())

    def encoder(self, type_: Any) -> Callable[[Any], bytes]:
        del type_
        return lambda line: typing.cast("bytes", line.text.encode())


@dataclass(frozen=True)
class Files:
    """Files as a job's input: those that match `pattern` (a path, or a glob with `*` and `**`).

    `.txt` and `.log` are lines of text (`value` is then `Line`), `.jsonl` and `.ndjson` a JSON value a line, `.parquet`
    rows; with `.gz` at the end they are unpacked. Relative paths are below the folder that the job is run in.

    >>> Files("data/*.txt").topic.name
    'files'
    """

    pattern: str
    value: Any = Line

    @cached_property
    def topic(self) -> Topic:
        """How a line becomes a value, as a topic has it."""
        codec: Codec = Text() if self.value is Line else Json()
        return Topic("files", self.value, errors="fail", codec=codec)


Input = Topic | Files


@dataclass(frozen=True, slots=True)
class To:
    """A pair for another output than the main one: `yield sk.To("broken", key, value)`."""

    output: str
    key: Any
    value: Any


class Context(Protocol):
    """What a function gets that has a parameter `context`."""

    @property
    def files(self) -> Mapping[str, Path]:
        """The job's side files, by name."""

    @property
    def counters(self) -> Mapping[str, int]:
        """What was counted in all stages before this one."""

    @property
    def where(self) -> str:
        """Where what is worked on comes from: topic/partition/offset, file:line, or the key."""

    def count(self, name: str, n: int = 1) -> None:
        """Add to a counter of the job. What failed tries and second tries have counted does not count."""


@dataclass(frozen=True)
class Step:
    """One map, one shuffle, one reduce.

    Of records (the default): `map(value)`, in later steps `map(key, value)`, yields `(key, value)` pairs; without it
    pairs go on as they are. `combine(key, values)` returns one value instead of many (or yields several); it runs any
    number of times, or never. `reduce(key, values)` yields pairs; `values` can be gone through once, and is in no order
    but that of `sort(value)`. `partition(key, partitions)` says which reduce task has a key. A step without `reduce` is
    the last one, and what it maps is the result.

    Of columns (the job has `batches=True`): each takes and returns polars DataFrames. `key` names the columns of the
    key, `sort` those to sort by within a key; `combine` and `reduce` get frames that hold keys whole, or, for
    `combine`, parts of them.
    """

    map: Callable[..., Any] | None = None
    reduce: Callable[..., Any] | None = None
    combine: Callable[..., Any] | None = None
    partition: Callable[[Any, int], int] | None = None
    sort: Callable[[Any], Any] | str | Sequence[str] | None = None
    key: str | Sequence[str] | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        return _names(self.key)

    @property
    def sorts(self) -> tuple[str, ...]:
        """The columns to sort by, of a step of columns."""
        return () if callable(self.sort) else _names(self.sort)


class Answers(Protocol):
    """What answers for a served result."""

    def get(self, job: MapReduce, key: Any) -> Answer: ...

    def scan(self, job: MapReduce) -> Iterator[Answer]: ...

    def parse_key(self, job: MapReduce, texts: Sequence[str]) -> Any: ...


@dataclass(frozen=True)
class MapReduce:
    """A job's definition. Make it with `Topology.mapreduce`, which checks it.

    `outputs` maps names to topics, or to None for Parquet; the main one is named "". `served` results are answered by
    the serving layer, key by key.
    """

    name: str
    inputs: tuple[Input, ...]
    make: Callable[[], Sequence[Step]]
    outputs: Mapping[str, Topic | None] = field(default_factory=lambda: {MAIN: None})
    served: bool = False
    batches: bool = False
    partitions: int | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    skip: int = 0
    key: tuple[str, ...] = ()
    source: str = ""

    def skipping(self, skip: int) -> MapReduce:
        """The job, with another `skip`."""
        return replace(self, skip=skip)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return tuple(self.make())

    @cached_property
    def topics(self) -> tuple[Topic, ...]:
        return tuple(i for i in self.inputs if isinstance(i, Topic))

    def connect(self, answers: Answers | None) -> None:
        """Have `get` and `scan` answered by `answers` (`streamkit.connect` does this)."""
        object.__setattr__(self, "_answers", answers)

    def get(self, *key: Any) -> Answer:
        """The Answer for one key of a served result: exact for all records before its Cut. Raises StateMissing where
        there is no result yet, DefinitionError where the job is not served."""
        return self._connected().get(self, key[0] if len(key) == 1 else key)

    def scan(self) -> Iterator[Answer]:
        """Answers for all keys of a served result."""
        return self._connected().scan(self)

    def parse_key(self, texts: Sequence[str]) -> Any:
        """The key whose parts are these texts: of a command line, or of a URL. Raises DefinitionError."""
        return self._connected().parse_key(self, texts)

    def _connected(self) -> Answers:
        answers: Answers | None = getattr(self, "_answers", None)
        if answers is None:
            raise StreamkitError(
                f"mapreduce {self.name!r} is not connected to a broker: "
                f"with sk.connect(app, brokers='localhost:9092'): {self.name}.get(...)"
            )
        return answers

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what the result depends on: a killed run goes on only with the same."""
        parts = {
            "inputs": [
                [i.describe() if isinstance(i, Topic) else i.pattern, topic_of(i).describe()] for i in self.inputs
            ],
            "source": self.source,
            "shape": [self.partitions, self.skip, self.batches, self.served, self.key],
            "files": {name: _checksum(path) for name, path in self.files.items()},
        }
        return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:16]


def topic_of(source: Input) -> Topic:
    """What makes values of an input's records."""
    return source if isinstance(source, Topic) else source.topic


def define(
    name: str,
    inputs: Sequence[Input],
    target: Any,
    step: Step,
    then: Sequence[Step],
    **options: Any,
) -> MapReduce:
    """The job that a decorated class or map function is. Raises DefinitionError."""
    if inspect.isclass(target):
        if step != Step(key=step.key) or then:
            raise DefinitionError(f"mapreduce {name!r}: a class has its functions as methods, its chain as `steps`")
        make = _steps_of_class(target, step.key)
    else:
        first = Step(target, step.reduce, step.combine, step.partition, step.sort, step.key)
        steps = (first, *then)

        def make() -> Sequence[Step]:
            return steps

    folder = _folder(target)
    files = {label: folder / path for label, path in (options.pop("files", None) or {}).items()}
    job = MapReduce(name, tuple(inputs), make, source=_source(target), files=files, **options)
    _check(job)
    return job


def _steps_of_class(kind: type, key: Any) -> Callable[[], Sequence[Step]]:
    """Each task has an instance of its own, so methods may keep things in it for as long as a task takes."""

    def make() -> Sequence[Step]:
        instance = kind()
        steps = getattr(instance, "steps", None)
        if steps is not None:
            return tuple(steps())
        parts = ("map", "reduce", "combine", "partition", "sort")
        return (Step(**{part: getattr(instance, part, None) for part in parts}, key=key),)

    return make


def _check(job: MapReduce) -> None:
    try:
        if not job.inputs:
            raise DefinitionError("it has no input: give a topic, or sk.Files(...)")
        if not job.steps:
            raise DefinitionError("it has no step")
        for number, step in enumerate(job.steps, 1):
            _check_step(job, step, number)
        if job.served:
            _check_served(job)
        if job.partitions is not None and job.partitions < 1:
            raise DefinitionError(f"partitions must be 1 or more, got {job.partitions}")
        for label, path in job.files.items():
            if not path.is_file():
                raise DefinitionError(f"side file {label!r}: there is no file {path}")
    except DefinitionError as error:
        raise DefinitionError(f"mapreduce {job.name!r}: {error}") from None


def _check_served(job: MapReduce) -> None:
    if len(job.topics) != 1 or len(job.inputs) != 1:
        raise DefinitionError("served=True needs one topic as input: an Answer names the Cut that it is exact at")
    if job.outputs[MAIN] is not None:
        raise DefinitionError("served=True keeps the result in files: leave out out=")
    if job.steps[-1].reduce is None:
        raise DefinitionError("served=True needs a reduce in the last step: a key has one value")


def _check_step(job: MapReduce, step: Step, number: int) -> None:
    last = number == len(job.steps)
    if step.reduce is None and not last:
        raise DefinitionError(f"step {number} has no reduce, but others follow it: only the last one may do without")
    if step.map is None and step.reduce is None:
        raise DefinitionError(f"step {number} has neither map nor reduce")
    if step.combine is not None and step.reduce is None:
        raise DefinitionError(f"step {number} has combine, but no reduce that it would spare work")
    if job.batches and step.reduce is not None and not step.keys:
        raise DefinitionError(f'step {number} of columns has no key: name its columns: key="word"')
    if not job.batches and step.key is not None:
        raise DefinitionError(f"step {number}: key= is for columns (batches=True); of records the pairs have the key")
    if job.batches and callable(step.sort):
        raise DefinitionError(f'step {number} of columns: sort names columns: sort="time"')
    for part in ("map", "reduce", "combine", "partition"):
        function = getattr(step, part)
        if function is not None and not callable(function):
            raise DefinitionError(f"step {number}: {part} must be a function, got {function!r}")


def takes_context(function: Callable[..., Any]) -> bool:
    return "context" in inspect.signature(function).parameters


def pair_types(function: Callable[..., Any] | None) -> tuple[Any, Any] | None:
    """The types of key and value that a function yields, by its annotation; None where it says nothing.

    >>> def words(line: Line) -> Iterator[tuple[str, int]]: ...
    >>> pair_types(words)
    (<class 'str'>, <class 'int'>)
    """
    if function is None:
        return None
    try:
        hint = typing.get_type_hints(inspect.unwrap(function)).get("return")
    except (NameError, TypeError):
        return None
    if typing.get_origin(hint) in _MANY:
        hint = typing.get_args(hint)[0]
    options = typing.get_args(hint) if typing.get_origin(hint) is not tuple else (hint,)
    for option in options:
        if typing.get_origin(option) is tuple and len(typing.get_args(option)) == 2:
            key, value = typing.get_args(option)
            return key, value
    return None


_MANY = (
    collections.abc.Iterator,
    collections.abc.Iterable,
    collections.abc.Generator,
    collections.abc.Sequence,
    list,
)


def _source(target: Any) -> str:
    """The whole file that the job is in: functions beside it are part of what it does."""
    try:
        module = inspect.getmodule(target)
        return hashlib.sha256(inspect.getsource(module or target).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return ""


def _folder(target: Any) -> Path:
    """The folder that relative paths of side files are below: that of the file in which the job is."""
    file = getattr(inspect.getmodule(target), "__file__", None)
    return Path(file).parent if file else Path()


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _names(given: Any) -> tuple[str, ...]:
    if given is None or callable(given):
        return ()
    return (given,) if isinstance(given, str) else tuple(given)


def pairs_of(made: Any) -> Iterator[Any]:
    """What a function has returned or yielded, as an iterator of pairs: none, one, or many."""
    if made is None:
        return iter(())
    return iter((made,)) if isinstance(made, tuple | To) else iter(made)
