"""What an agent iterates over: `Events`, one by one, out of batches, and the event it is at.

An event is acknowledged when the agent asks for the next one, so code that is still busy with it (an `await`, a yield
not yet taken) keeps its batch, and with it the Checkpoint's barrier, open.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import cached_property
from inspect import isawaitable
from typing import Any, NamedTuple

import polars as pl

from streamkit.errors import StreamkitError
from streamkit.record import Headers, TopicPartition
from streamkit.speed.refused import FaustOnly
from streamkit.speed.tables import AgentTables, TableTask
from streamkit.topic import Topic

_following: ContextVar[Events | None] = ContextVar("streamkit_events", default=None)


class Event(NamedTuple):
    """One event and where it lay. `timestamp` is Kafka's, in milliseconds since the epoch."""

    value: Any
    source: TopicPartition
    offset: int
    timestamp: int
    key: bytes | None
    headers: Headers


Column = Sequence[Any] | Callable[[], Sequence[Any]]
"""A column, or what makes it when it is first asked for."""


class EventBatch:
    """Decoded records of one partition in offset order, as parallel columns; each is made when somebody looks at it.

    `frame(start, stop)` makes the fields of some of the values as columns, for agents that ask for them.
    """

    def __init__(
        self,
        source: TopicPartition,
        values: Column,
        offsets: Sequence[int],
        timestamps: Column,
        keys: Column,
        headers: Column,
        frame: Callable[[int, int], pl.DataFrame] = lambda *_: pl.DataFrame(),
    ) -> None:
        self.source, self.offsets, self.frame = source, offsets, frame
        self._values, self._timestamps, self._keys, self._headers = values, timestamps, keys, headers

    @cached_property
    def values(self) -> Sequence[Any]:
        return _made(self._values)

    @cached_property
    def timestamps(self) -> Sequence[int]:
        return _made(self._timestamps)

    @cached_property
    def keys(self) -> Sequence[bytes | None]:
        return _made(self._keys)

    @cached_property
    def headers(self) -> Sequence[Headers]:
        return _made(self._headers)

    def __len__(self) -> int:
        return len(self.offsets)

    def at(self, index: int) -> Event:
        """The event at `index`, counted from the batch's first.

        >>> batch = EventBatch(TopicPartition("clicks", 0), ["a", "b"], [7, 9], [0, 0], [None, None], lambda: [(), ()])
        >>> event = batch.at(1)
        >>> event.value, event.offset
        ('b', 9)
        """
        offset, timestamp = int(self.offsets[index]), int(self.timestamps[index])
        return Event(self.values[index], self.source, offset, timestamp, self.keys[index], self.headers[index])


def _made(column: Column) -> Sequence[Any]:
    return column() if callable(column) else column


_STRIDE = 1_000
"""Events taken without a turn of the event loop: other agents, timers and a stop wait for as long."""

_NOTHING = EventBatch(TopicPartition("", 0), (), (), (), (), tuple)


def current_event() -> Event | None:
    """The event that the agent running here is at; None outside of an agent and while it waits for its next event."""
    events = _following.get()
    return events.here if events is not None else None


class Events(FaustOnly):
    """The events of an agent's topic, in offset order within a partition: `async for value in events`.

    Belongs to one run of one agent (with `concurrency=n` there are n, each with an `events` of its own). `arrivals`
    gives the batches; `done` is told of each when all of its events have been acknowledged; `call` gives an
    output to the sinks that are functions, `send` sends it, with the event that it was yielded at, or sends it to one
    topic alone.
    """

    def __init__(
        self,
        arrivals: AsyncIterator[EventBatch],
        *,
        done: Callable[[EventBatch], None],
        call: Callable[[Any], Awaitable[None]],
        send: Callable[[Any, Event, Topic | None], None],
        tables: TableTask | None = None,
    ) -> None:
        self._arrivals, self._done, self._call, self._send = Arrivals(arrivals), done, call, send
        self.tables = None if tables is None else AgentTables(tables, self)
        self._batch = _NOTHING
        self._values: Sequence[Any] = ()
        self._index = -1  # of the current event in _batch
        self._limit = 0  # how far __anext__ may go without a _turn; up to there an event is in hand
        self._before = 0  # events of the batches before _batch
        self._list: list[tuple[EventBatch, range]] = []  # what the list that `take` gave out holds
        self._spent: list[EventBatch] = []  # batches used up by that list
        self.source: TopicPartition | None = None
        """The partition whose events, and Tables, the agent is at; None while it waits for a batch."""

    @property
    def ended(self) -> bool:
        """True once the host stops: the iteration is over."""
        return self._arrivals.ended

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Any:
        index = self._index + 1
        if index >= self._limit:
            await self._turn()
            index = self._index + 1
        self._index = index
        return self._values[index]

    async def items(self) -> AsyncIterator[tuple[bytes | None, Any]]:
        """Keys and values."""
        async for value in self:
            yield self._batch.keys[self._index], value

    async def enumerate(self, start: int = 0) -> AsyncIterator[tuple[int, Any]]:
        """Values with a count of them in this run of the agent: it begins again where the agent does."""
        count = start
        async for value in self:
            yield count, value
            count += 1

    async def filter(self, keep: Callable[[Any], Any]) -> AsyncIterator[Any]:
        """The values for which `keep`, a function or an `async def`, is true; the others are acknowledged."""
        async for value in self:
            kept = keep(value)
            if await kept if isawaitable(kept) else kept:
                yield value

    async def echo(self, *topics: Topic) -> AsyncIterator[Any]:
        """The same values, each sent on to `topics` as well, in the Checkpoint that counts it."""
        async for value in self:
            for topic in topics:
                self._send(value, self.current, topic)
            yield value

    async def events(self) -> AsyncIterator[Event]:
        """The same events with their key, headers, timestamp and offset."""
        async for _ in self:
            yield self.current

    async def take(self, n: int, within: float) -> AsyncIterator[list[Any]]:
        """Lists of up to `n` values, each closed `within` seconds of its first event.

        A list's events are acknowledged when the next list is asked for; if the agent raises with a list in hand, all
        of its events have failed. The current event is the list's last. A Checkpoint waits for a list to fill, so for
        up to `within`: keep it short.
        """
        clock = asyncio.get_running_loop().time
        async for first in self:
            self._list.append((self._batch, range(self._index, self._index + 1)))
            values, deadline = [first], clock() + within
            while len(values) < n and (self._index + 1 < len(self._values) or await self._more(deadline - clock())):
                rest = range(self._index + 1, min(self._index + 1 + n - len(values), len(self._values)))
                values.extend(self._values[rest.start : rest.stop])
                self._list.append((self._batch, rest))
                self._index = rest.stop - 1
            self._limit = self._index + 1  # the next __anext__ takes a _turn, which lets go of the list
            yield values

    @property
    def current(self) -> Event:
        """The current event; raises StreamkitError when none is in hand."""
        event = self.here
        if event is None:
            raise StreamkitError(
                "no event is in hand: ask for one first (`async for value in events`), and use it before asking again"
            )
        return event

    @property
    def here(self) -> Event | None:
        """The current event, or None when none is in hand."""
        return self._batch.at(self._index) if 0 <= self._index < self._limit else None

    @property
    def place(self) -> str | None:
        """The current event's topic/partition/offset. Any thread may ask; the answer may be a moment old."""
        batch, index = self._batch, self._index
        return f"{batch.source}/{batch.offsets[index]}" if 0 <= index < len(batch) else None

    @property
    def position(self) -> int:
        """Grows by one with every event taken."""
        return self._before + self._index

    @property
    def in_hand(self) -> Iterator[Event]:
        """The events that are not acknowledged yet: the current one, or those of the list that `take` gave out."""
        if self._list:
            return (batch.at(index) for batch, span in self._list for index in span)
        here = self.here
        return iter(() if here is None else (here,))

    async def yielded(self, value: Any) -> None:
        """Hand on an output of the agent."""
        await self._call(value)
        self._send(value, self.current, None)

    async def settle(self) -> None:
        """The agent is done with the events in hand."""
        self.release()

    def failed(self) -> list[Event] | None:
        """The agent has failed: the events that it failed on, still to be let go of by `release`; None for none."""
        return list(self.in_hand) or None

    def follow(self) -> None:
        """Make `current_event()` speak of these events, in this task and those it starts."""
        _following.set(self)

    def release(self) -> None:
        """Acknowledge all events in hand."""
        self._list.clear()
        self._limit = 0
        spent, self._spent = self._spent, []
        for batch in spent:
            self._done(batch)
        if self._batch is not _NOTHING and self._index + 1 == len(self._values):
            batch = self._batch
            self._open(_NOTHING)
            self._done(batch)

    async def _turn(self) -> None:
        """Acknowledge, and wait for a batch if this one is used up; raises StopAsyncIteration at the end."""
        self.release()
        if self._index + 1 < len(self._values):
            await asyncio.sleep(0)
        elif (batch := await self._arrivals.next()) is not None:
            self._open(batch)
        else:
            raise StopAsyncIteration
        self._limit = min(self._index + 1 + _STRIDE, len(self._values))

    async def _more(self, timeout: float) -> bool:
        """Go on to the next batch, keeping this one unacknowledged; False if none comes within `timeout` seconds."""
        try:
            async with asyncio.timeout(max(timeout, 0)):
                batch = await self._arrivals.next()
        except TimeoutError:
            return False
        if batch is None:
            return False
        self._spent.append(self._batch)
        self._open(batch)
        return True

    def _open(self, batch: EventBatch) -> None:
        self._before += len(self._values)
        self._batch, self._values, self._index, self._limit = batch, batch.values, -1, 0
        self.source = None if batch is _NOTHING else batch.source


class Arrivals:
    """The batches that Faust's stream brings to one run of an agent.

    A task of its own fetches each: an agent may put a time limit around its wait, and a cancellation that reached into
    Faust's stream would end the stream, not the wait.
    """

    def __init__(self, source: AsyncIterator[EventBatch]) -> None:
        self._source = source
        self._arrival: asyncio.Task[EventBatch | None] | None = None
        self.ended = False

    async def next(self) -> EventBatch | None:
        """The next batch, None at the end."""
        if self.ended:
            return None
        if self._arrival is None:
            self._arrival = asyncio.create_task(self._fetch())
        batch = await asyncio.shield(self._arrival)
        self._arrival = None
        self.ended = batch is None
        return batch

    async def _fetch(self) -> EventBatch | None:
        return await anext(self._source, None)
