"""Topologies: the registry of one application's topics, Views, Agents, Tables and Generators."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import polars as pl

from streamkit.agent import Agent, AgentFunction, Timer, check_agent, copying
from streamkit.aggregate import Aggregate
from streamkit.codec import Codec, Json
from streamkit.errors import DefinitionError
from streamkit.generator import Generator, GeneratorFunction
from streamkit.interval import Pace
from streamkit.mapreduce import MAIN, Input, MapReduce, Step, define
from streamkit.schedule import Schedule
from streamkit.table import Table
from streamkit.topic import ErrorPolicy, Topic
from streamkit.view import View
from streamkit.window import Unbounded, Window

Key = str | pl.Expr
Guarantee = Literal["exactly_once", "at_least_once"]
"""`exactly_once`: state, outputs, dead letters and offsets move together or not at all, in one transaction a
Checkpoint; outputs are readable from then on (read_committed). `at_least_once`: no transactions; outputs are readable
at once, and after a crash those since the last Checkpoint are sent a second time. Views count each record once as long
as the worker's own disk is there; state restored from a changelog that a crash has cut short within a Checkpoint may
have counted records of that one twice."""

T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class Topology:
    """One application. Declaring is all it does: it knows no broker, opens nothing, and mistakes fail right here.

    >>> import msgspec, streamkit as sk
    >>> class Click(msgspec.Struct):
    ...     campaign: str
    ...     cents: int
    >>> app = sk.Topology("ads")
    >>> clicks = app.topic("clicks", value=Click)
    >>> app.view("spend", clicks, key="camapign", aggregates={"cents": sk.Sum("cents")})
    Traceback (most recent call last):
    streamkit.errors.DefinitionError: view 'spend': Click has no field 'camapign'; did you mean 'campaign'?
    """

    def __init__(
        self,
        name: str,
        *,
        guarantee: Guarantee = "exactly_once",
        standbys: int = 0,
        recovery: str | float | None = None,
        freshness: str | float | None = None,
        checkpoint: str | float | None = None,
    ) -> None:
        """`guarantee` is what a crash may do to outputs, dead letters and state: see `Guarantee`. `standbys` is how
        many workers keep a copy of each task beside its owner.

        How often Checkpoints are made is a choice of three: `recovery="5s"` states how long a worker that was killed
        may take until it has caught up, and the worker measures what interval that allows; `freshness="1s"` bounds the
        interval, as Answers are as old as the last Checkpoint; `checkpoint="500ms"` fixes it. Raises DefinitionError.
        """
        self.name = _checked_name("topology", name)
        if guarantee not in get_args(Guarantee):
            raise DefinitionError(
                f"topology {name!r}: guarantee must be one of {', '.join(get_args(Guarantee))}, got {guarantee!r}"
            )
        if standbys < 0:
            raise DefinitionError(f"topology {name!r}: standbys must be 0 or more, got {standbys}")
        self.guarantee: Guarantee = guarantee
        self.standbys = standbys
        self.pace = Pace.of(recovery, freshness, checkpoint)
        self.topics: dict[str, Topic] = {}
        self.views: dict[str, View] = {}
        self.agents: dict[str, Agent] = {}
        self.tables: dict[str, Table] = {}
        self.generators: dict[str, Generator] = {}
        self.timers: dict[str, Timer] = {}
        self.jobs: dict[str, MapReduce] = {}
        self.grouped: dict[str, Topic] = {}
        """Topics that `group_by` has made: workers make them on the log, and write them."""

    def topic(
        self,
        name: str,
        *,
        value: Any,
        timestamp: str | None = None,
        key: str | None = None,
        partitions: int = 4,
        errors: ErrorPolicy = "dead_letter",
        codec: Codec | None = None,
    ) -> Topic:
        """Declare a topic: see `Topic`. Raises DefinitionError."""
        self._refuse_twice("topic", name, self.topics)
        topic = Topic(name, value, timestamp, key, partitions, errors, codec or Json())
        self.topics[name] = topic
        return topic

    def view(
        self,
        name: str,
        topic: Topic,
        *,
        key: Key | Sequence[Key],
        aggregates: Mapping[str, Aggregate[Any, Any]],
        window: Window | None = None,
        where: pl.Expr | None = None,
        version: int = 1,
        batch_every: str | float | None = None,
        batch_full_every: str | float | None = None,
    ) -> View:
        """Declare a View of a topic of this Topology.

        `key` is a field, a polars expression with a name (`.alias("...")`), or several of them; `where` keeps the
        records for which it is true; without `window` a key has one state for all time. A changed
        definition is declared beside the old one with the next `version`; `streamkit upgrade` switches readers over.

        `batch_every="1h"` has `streamkit scheduler` (and `streamkit up`) recompute it each hour, on the hour in UTC;
        with `batch_full_every="1d"` from the last BatchView on, and once a day from the log's start, which proves the
        others. Raises DefinitionError.
        """
        _checked_name("view", name)
        if version < 1:
            raise DefinitionError(f"view {name!r}: version must be 1 or more, got {version}")
        name = name if version == 1 else f"{name}@{version}"
        self._refuse_twice("view", name, self.views)
        self._own(topic, f"view {name!r}")
        try:
            types = topic.schema.types()
            bound = {n: _bind(n, a, topic, types) for n, a in aggregates.items()}
            schedule = Schedule.of(batch_every, batch_full_every)
            view = View(name, topic, _keys(topic, key), window or Unbounded(), where, bound, version, schedule)
        except DefinitionError as error:
            raise DefinitionError(f"view {name!r}: {error}") from None
        view.check()
        self.views[name] = view
        return view

    def agent(
        self,
        topic: Topic,
        *,
        out: Topic | None = None,
        name: str | None = None,
        concurrency: int = 1,
        batches: bool = False,
        sinks: Sequence[Any] = (),
        replies: Any = None,
    ) -> Callable[[AgentFunction], Agent]:
        """Declare the decorated `async def f(events)` as an Agent over a topic's events. Raises DefinitionError.

        With `batches=True` it iterates over polars DataFrames: a column for each field of the topic that can be one,
        and `__key` (Binary), `__time` (the record's timestamp, ms), `__partition`, `__offset`. What it yields may be a
        DataFrame, too: each row is an output. A frame that fails is undone and tried again in halves, until the event
        to blame is alone.

        What is yielded goes to `out` and to `sinks`: topics, other agents (their topic), and functions of one value,
        which may be async; those are called at once, so a crash before the Checkpoint calls them again. `replies` is
        the type of an answer to `ask` where there is no `out`.
        """

        def declare(function: AgentFunction) -> Agent:
            own = _checked_name("agent", name or function.__name__)
            self._refuse_twice("agent", own, self.agents)
            agent = Agent(own, topic, function, out, concurrency, batches, tuple(sinks), replies)
            check_agent(agent)
            for used in (topic, *agent.topics):
                self._own(used, f"agent {own!r}")
            self.agents[own] = agent
            return agent

        return declare

    def group_by(
        self, topic: Topic, key: str | Callable[[Any], Any], *, name: str | None = None, partitions: int | None = None
    ) -> Topic:
        """A topic with the same events under another key, so that all of one key share a partition: Faust's
        `stream.group_by`. An agent of this Topology copies them, exactly once; readers are one Checkpoint behind.

        `key` is a field, or a function of the value (then give a `name`). Raises DefinitionError.

        >>> import msgspec
        >>> class Click(msgspec.Struct):
        ...     user: str
        ...     campaign: str
        >>> app = Topology("ads")
        >>> app.group_by(app.topic("clicks", value=Click, key="user"), "campaign").name
        'ads.clicks.by.campaign'
        """
        self._own(topic, "group_by")
        if callable(key) and name is None:
            raise DefinitionError(f"group_by of topic {topic.name!r}: a key that is a function needs a name=")
        own = f"{self.name}.{topic.name}.by.{name or key}"
        field, count = None if callable(key) else key, partitions or topic.partitions
        grouped = self.topic(
            own, value=topic.value, timestamp=topic.timestamp, key=field, partitions=count, errors=topic.errors,
            codec=topic.codec,
        )  # fmt: skip
        self.grouped[own] = grouped
        self.agents[own] = copying(own, topic, grouped, key if callable(key) else None)
        return grouped

    def mapreduce(
        self,
        *inputs: Input,
        name: str | None = None,
        reduce: Callable[..., Any] | None = None,
        combine: Callable[..., Any] | None = None,
        partition: Callable[[Any, int], int] | None = None,
        sort: Any = None,
        key: str | Sequence[str] | None = None,
        then: Sequence[Step] = (),
        out: Topic | None = None,
        outputs: Mapping[str, Any] | None = None,
        served: bool = False,
        batches: bool = False,
        partitions: int | None = None,
        files: Mapping[str, str | Path] | None = None,
        skip: int = 0,
    ) -> Callable[[Any], MapReduce]:
        """Declare the decorated class, or `map` function, as a MapReduce job over topics and `sk.Files`.

        A class has methods `map`, `reduce`, `combine`, `partition`, `sort`, or `steps` that returns `sk.Step`s; a
        function is `map`, with the others as options, and `then` further steps: see `Step`. The result goes to Parquet,
        in columns by the annotation of the last function (`-> Iterator[tuple[str, int]]`), `key` naming those of the
        key; or to `out`. `outputs` names others, for `yield sk.To(name, key, value)`: a topic, a type (its fields are
        the columns of Parquet files), or None. A `served` result is answered key by key, by `streamkit query` and
        `job.get`. With `batches=True` functions take and return polars DataFrames, and `key` names the columns of the
        key.

        `partitions` is how many reduce tasks there are. `files` are side files, by name, relative to the file of the
        topology: a function with a parameter `context` finds them there, counts there, and learns where its record
        comes from. Up to `skip` records that `map` fails on are left out, and told. Raises DefinitionError.

        >>> import streamkit as sk
        >>> from collections.abc import Iterator
        >>> app = sk.Topology("books")
        >>> @app.mapreduce(sk.Files("*.txt"), key="word")
        ... class Words:
        ...     def map(self, line: sk.Line) -> Iterator[tuple[str, int]]:
        ...         for word in line.text.split():
        ...             yield word, 1
        ...     def combine(self, word, counts): return sum(counts)
        ...     def reduce(self, word, counts) -> tuple[str, int]: return word, sum(counts)
        >>> Words.name
        'Words'
        """

        def declare(target: Any) -> MapReduce:
            own = _checked_name("mapreduce", name or target.__name__)
            self._refuse_twice("mapreduce", own, self.jobs)
            self._refuse_twice("view", own, self.views)
            for used in (*inputs, out, *(outputs or {}).values()):
                if isinstance(used, Topic):
                    self._own(used, f"mapreduce {own!r}")
            names = (key,) if isinstance(key, str) else tuple(key or ())
            step = Step(None, reduce, combine, partition, sort, names or None if batches else None)
            self.jobs[own] = define(
                own, inputs, target, step, then, outputs={MAIN: out, **(outputs or {})}, served=served, batches=batches,
                partitions=partitions, files=files, skip=skip, key=names,
            )  # fmt: skip
            return self.jobs[own]

        return declare

    def timer(self, interval: float) -> Callable[[Callable[[], Awaitable[Any]]], Timer]:
        """Have the decorated `async def f()` run every `interval` seconds, in every worker: it may cast, and has no
        event, so no Tables. Raises DefinitionError."""
        return lambda function: self._timer(Timer(function.__name__, function, interval=interval))

    def crontab(self, line: str) -> Callable[[Callable[[], Awaitable[Any]]], Timer]:
        """As `timer`, at the times of a cron line (UTC): "*/10 * * * *"."""
        return lambda function: self._timer(Timer(function.__name__, function, cron=line))

    def _timer(self, timer: Timer) -> Timer:
        self._refuse_twice("timer", timer.name, self.timers)
        return self.timers.setdefault(timer.name, timer)

    def table(
        self, name: str, *, default: Callable[[], Any] | None = None, value: Any = None, pickle: bool = False
    ) -> Table:
        """Declare a Table for this Topology's agents; `value` defaults to the type that `default` is."""
        _checked_name("table", name)
        self._refuse_twice("table", name, self.tables)
        guessed = default if isinstance(default, type) and not pickle else Any
        self.tables[name] = Table(name, default, value if value is not None else guessed, pickle)
        return self.tables[name]

    def generator(self, topic: Topic) -> Callable[[GeneratorFunction], Generator]:
        """Declare the decorated `f(seed, start, rate)` as what `streamkit generate` sends to a topic.

        See `GeneratorFunction`; a topic has at most one. Raises DefinitionError.
        """

        def declare(function: GeneratorFunction) -> Generator:
            self._own(topic, f"generator {function.__name__!r}")
            self._refuse_twice("generator of topic", topic.name, self.generators)
            self.generators[topic.name] = Generator(topic, function)
            return self.generators[topic.name]

        return declare

    def sources(self) -> dict[str, Topic]:
        """The topics that some View or Agent reads."""
        read = {v.topic.name for v in self.views.values()} | {a.topic.name for a in self.agents.values()}
        return {name: topic for name, topic in self.topics.items() if name in read}

    def views_of(self, topic: str) -> list[View]:
        return [v for v in self.views.values() if v.topic.name == topic]

    def agents_of(self, topic: str) -> list[Agent]:
        return [a for a in self.agents.values() if a.topic.name == topic]

    def versions(self, view: str) -> list[View]:
        """The versions of a View that are declared, oldest first."""
        return sorted((v for v in self.views.values() if v.base == view), key=lambda v: v.version)

    def find_view(self, name: str) -> View:
        """The View of this name, or NAME@VERSION. Raises DefinitionError with the names that there are."""
        return _find("view", name, self.views, self.name)

    def find_job(self, name: str) -> MapReduce:
        """Raises DefinitionError with the names that there are."""
        return _find("mapreduce", name, self.jobs, self.name)

    def find_topic(self, name: str) -> Topic:
        """Raises DefinitionError with the names that there are."""
        return _find("topic", name, self.topics, self.name)

    def find_generator(self, topic: str) -> Generator:
        """Raises DefinitionError with the way out."""
        if self.find_topic(topic).name not in self.generators:
            have = f"there is one for {', '.join(self.generators)}" if self.generators else "there is none"
            raise DefinitionError(
                f"topology {self.name!r} has no generator for topic {topic!r} ({have}); declare it: "
                f"@app.generator(...) on a function f(seed, start, rate) that returns an iterator of values"
            )
        return self.generators[topic]

    def _own(self, topic: Topic, user: str) -> None:
        if self.topics.get(topic.name) is not topic:
            raise DefinitionError(
                f"{user}: topic {topic.name!r} is not of topology {self.name!r}; make it by app.topic"
            )

    def _refuse_twice(self, kind: str, name: str, having: Mapping[str, object]) -> None:
        if name in having:
            raise DefinitionError(f"topology {self.name!r} has a {kind} {name!r} already; give this one another name")


def _keys(topic: Topic, key: Key | Sequence[Key]) -> dict[str, pl.Expr]:
    parts = [key] if isinstance(key, str | pl.Expr) else list(key)
    if not parts:
        raise DefinitionError('key is empty; name a field, for example key="campaign_id"')
    named: dict[str, pl.Expr] = {}
    for part in parts:
        name = part if isinstance(part, str) else part.meta.output_name()
        if isinstance(part, str):
            _ = topic.schema[part]
        if name in named:
            raise DefinitionError(f"two key parts are named {name!r}; rename one by .alias(...)")
        named[name] = pl.col(part) if isinstance(part, str) else part
    return named


def _bind(name: str, aggregate: Aggregate[Any, Any], topic: Topic, types: Mapping[str, Any]) -> Aggregate[Any, Any]:
    if not isinstance(aggregate, Aggregate):
        raise DefinitionError(f"aggregate {name!r} must be an Aggregate such as sk.Count(), got {aggregate!r}")
    for field in aggregate.fields:
        if not field.startswith("__"):
            _ = topic.schema[field]
    return aggregate.bind(types)


def _find(kind: str, name: str, having: Mapping[str, T], topology: str) -> T:
    if name not in having:
        raise DefinitionError(f"topology {topology!r} has no {kind} {name!r}; it has {', '.join(having) or 'none'}")
    return having[name]


def _checked_name(kind: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise DefinitionError(f"{kind} name {name!r}: use 1 to 100 letters, digits, '_', '.' and '-', a letter first")
    return name
