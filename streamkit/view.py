"""Views: keyed, windowed Aggregates of one topic, defined once and run by all three layers. And their Answers."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import msgspec
import polars as pl

from streamkit.aggregate import OFFSET, PARTITION, TIME, Aggregate
from streamkit.cut import Cut
from streamkit.errors import DefinitionError, StreamkitError
from streamkit.schedule import Schedule
from streamkit.topic import Topic
from streamkit.window import Unbounded, Window

NULL = r"\N"
"""How `View.parse_key` writes a key part that is null."""


@dataclass(frozen=True)
class Answer:
    """A value and where it is exact: the sum of all records before `cut`, and of none other.

    `value`, `batch` and `speed` map the Aggregates' names to results: of the whole, of the BatchView's part, and of
    the Segments after it (None where that layer holds nothing of the key). `window` is `(start, end)` in milliseconds,
    end exclusive, None where the View has no windows. `lag` counts the records on the log that are not in the answer,
    None while the broker is away: then nobody knows, and what was there before it went is answered. `as_of` is when the
    newest Checkpoint or BatchView in it was made, in milliseconds since the epoch.
    `errors` holds the bounds of the Aggregates that are sketches. `found` is False where no record had the key.
    """

    view: str
    key: tuple[Any, ...]
    window: tuple[int, int] | None
    value: Mapping[str, Any]
    cut: Cut
    lag: int | None
    batch: Mapping[str, Any] | None = None
    speed: Mapping[str, Any] | None = None
    errors: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    as_of: int = 0

    @property
    def found(self) -> bool:
        return self.batch is not None or self.speed is not None


class Answers(Protocol):
    """What serves a View; `streamkit.connect` puts one into every View of a Topology."""

    def get(self, view: View, key: tuple[Any, ...], window: int | tuple[int, int] | None) -> Answer: ...

    def scan(self, view: View, key: tuple[Any, ...] | None, start: int | None, end: int | None) -> Iterator[Answer]: ...


@dataclass(frozen=True, eq=False)
class View:
    """A View's definition. Make it with `Topology.view`, which checks it.

    `keys` maps the key parts' names to polars expressions over the topic's fields; `aggregates` are bound to them.
    `schedule` is when the batch layer recomputes it by itself, and no part of the fingerprint. Versions of one View
    live side by side; the first is named as the View is, the others NAME@VERSION.
    """

    name: str
    topic: Topic
    keys: Mapping[str, pl.Expr]
    window: Window
    where: pl.Expr | None
    aggregates: Mapping[str, Aggregate[Any, Any]]
    version: int = 1
    schedule: Schedule | None = None

    @property
    def base(self) -> str:
        """The View's name without its version."""
        return self.name.partition("@")[0]

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The topic's fields it reads, sorted."""
        names = {name for expression in self._expressions for name in expression.meta.root_names()}
        names |= {field for aggregate in self.aggregates.values() for field in aggregate.fields}
        return tuple(sorted(names - {TIME, PARTITION, OFFSET}))

    @property
    def _expressions(self) -> list[pl.Expr]:
        return [*self.keys.values(), *([self.where] if self.where is not None else [])]

    @cached_property
    def key_types(self) -> dict[str, pl.DataType]:
        frame = self.topic.schema.empty(self.fields)
        return dict(frame.select(**self.keys).schema)

    @property
    def windowed(self) -> bool:
        return not isinstance(self.window, Unbounded)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that the View's states depend on: two Views with one fingerprint may be merged, others not."""
        parts = {
            "topic": self.topic.describe(),
            "keys": {name: _expression_text(e) for name, e in self.keys.items()},
            "window": self.window.describe(),
            "where": None if self.where is None else _expression_text(self.where),
            "aggregates": {name: describe_aggregate(a) for name, a in self.aggregates.items()},
        }
        return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:16]

    def check(self) -> None:
        """Raises DefinitionError with the fix."""
        try:
            self._check_fields()
            self._check_expressions()
            self._check_keys()
        except DefinitionError as error:
            raise DefinitionError(f"view {self.name!r}: {error}") from None

    def _check_fields(self) -> None:
        if not self.aggregates:
            raise DefinitionError('it has no aggregates; give at least one: aggregates={"events": sk.Count()}')
        for name in self.fields:
            field = self.topic.schema[name]
            if field.dtype is None:
                raise DefinitionError(
                    f"field {name!r} is {field.type}, which has no column type; Views read "
                    f"int, float, str, bool, bytes, Decimal, datetime, UUID, Enum and lists of them"
                )

    def _check_expressions(self) -> None:
        for expression in self._expressions:
            # An expression that looks at other rows (mean(), shift(), over()) would depend on how the log happened to
            # be divided into batches, and speed and batch would disagree.
            if not _row_by_row(expression):
                raise DefinitionError(f"the expression {expression} looks at more than one row; batches would disagree")
        empty = self.topic.schema.empty(self.fields)
        try:
            empty.select(**self.keys)
            if self.where is not None and (kind := empty.select(self.where).dtypes[0]) != pl.Boolean:
                raise DefinitionError(f"where must be true or false for each record, but {self.where} is {kind}")
        except pl.exceptions.PolarsError as error:
            raise DefinitionError(f"{str(error).splitlines()[0]}") from error

    def _check_keys(self) -> None:
        for name, kind in self.key_types.items():
            if not (kind.is_integer() or kind in (pl.String, pl.Boolean, pl.Binary)):
                raise DefinitionError(f"key {name!r} is {kind}; a key is text, a whole number, bool or bytes")

    def key(self, *parts: Any) -> tuple[Any, ...]:
        """The key as states are kept under it. Raises DefinitionError where the parts do not fit the View's key."""
        names = list(self.key_types)
        if len(parts) != len(names):
            raise DefinitionError(
                f"view {self.name!r} is keyed by {', '.join(names)}: give {len(names)} key part(s), got {len(parts)}"
            )
        return tuple(self._key_part(n, k, part) for (n, k), part in zip(self.key_types.items(), parts, strict=True))

    def _key_part(self, name: str, kind: pl.DataType, part: Any) -> Any:
        wanted = bool if kind == pl.Boolean else int if kind.is_integer() else bytes if kind == pl.Binary else str
        if part is None or type(part) is wanted:
            return part
        raise DefinitionError(
            f"view {self.name!r}: key {name!r} must be {wanted.__name__}, got {part!r} ({type(part).__name__})"
        )

    def parse_key(self, texts: Sequence[str]) -> tuple[Any, ...]:
        """The key whose parts are these texts: of a command line, or of a URL.

        Whole numbers are decimal, bool is true or false, bytes are base64, and the two characters \\N are null. Raises
        DefinitionError.
        """
        if len(texts) != len(self.key_types):
            return self.key(*texts)
        return tuple(self._parse_part(n, k, text) for (n, k), text in zip(self.key_types.items(), texts, strict=True))

    def _parse_part(self, name: str, kind: pl.DataType, text: str) -> Any:
        if text == NULL:
            return None
        try:
            if kind == pl.Boolean:
                return {"true": True, "false": False}[text.lower()]
            if kind.is_integer():
                return _whole(text)
            if kind == pl.Binary:
                return base64.b64decode(text, validate=True)
            return text.encode().decode()  # a command line may hold bytes that are no text
        except (KeyError, ValueError):
            wanted = {pl.Boolean(): "true or false", pl.Binary(): "base64", pl.String(): "text in UTF-8"}
            form = wanted.get(kind, "a whole number of 64 bits")
            raise DefinitionError(f"view {self.name!r}: key {name!r} must be {form}, got {text!r}") from None

    # -- asking -------------------------------------------------------------------------------------------------------

    def connect(self, answers: Answers | None) -> None:
        """Have `get` and `scan` answered by `answers` (`streamkit.connect` does this)."""
        object.__setattr__(self, "_answers", answers)

    def get(self, *key: Any, window: int | tuple[int, int] | None = None) -> Answer:
        """The Answer for one key and window.

        `window` is a moment inside it, or its `(start, end)`, in milliseconds since the epoch. Raises CutMismatch where
        no exact answer exists.
        """
        return self._connected().get(self, self.key(*key), window)

    def scan(self, *key: Any, start: int | None = None, end: int | None = None) -> Iterator[Answer]:
        """Answers for all windows that overlap `[start, end)`, of one key or of all, all at the same Cut."""
        return self._connected().scan(self, self.key(*key) if key else None, start, end)

    def _connected(self) -> Answers:
        answers: Answers | None = getattr(self, "_answers", None)
        if answers is None:
            raise StreamkitError(
                f"view {self.name!r} is not connected to a broker: "
                f"with sk.connect(app, brokers='localhost:9092'): {self.name}.get(...)"
            )
        return answers


def describe_aggregate(aggregate: Aggregate[Any, Any]) -> dict[str, Any]:
    """Class, parameters, and for a class outside this package the hash of its source: its logic is part of a View."""
    kind = type(aggregate)
    parameters = {f.name: repr(getattr(aggregate, f.name)) for f in dataclasses.fields(aggregate)}  # type: ignore[arg-type]
    described: dict[str, Any] = {"class": f"{kind.__module__}.{kind.__qualname__}", "parameters": parameters}
    if not kind.__module__.startswith("streamkit."):
        # By name alone: the module of a topology is known by other names on other machines.
        described["class"] = kind.__qualname__
        described["source"] = hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()[:16]
    return described


def _whole(text: str) -> int:
    number = int(text)
    if "_" in text or not -(1 << 63) <= number < 1 << 64:
        raise ValueError(f"{text!r} is not a whole number of 64 bits")
    return number


def _row_by_row(expression: pl.Expr) -> bool:
    """True where each row's value depends on that row alone. Python functions are not: nobody can tell of them."""
    try:
        # polars looks at the outermost operation only: `a > a.mean()` passes, and its second operand must not.
        return expression.meta.is_row_separable() and all(map(_row_by_row, expression.meta.pop()))
    except pl.exceptions.PolarsError:
        return False


def _expression_text(expression: pl.Expr) -> str:
    return hashlib.sha256(expression.meta.serialize()).hexdigest()
