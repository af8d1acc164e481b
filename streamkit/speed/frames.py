"""What an agent with `batches=True` iterates over: `Frames`, the events of its topic as columns.

A frame is all or nothing. What the agent yields at it, and what it changes in its Tables, is held until it asks for the
next one. Where it fails, both are undone, and it is tried again on the frame's halves, until the event that it fails on
is alone: that one has failed, by the topic's error policy, and all others have been used once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from streamkit.agent import KEY
from streamkit.aggregate import OFFSET, PARTITION, TIME
from streamkit.record import TopicPartition
from streamkit.speed.events import Arrivals, Event, EventBatch
from streamkit.speed.tables import JournaledTables, TableTask


@dataclass(frozen=True, slots=True)
class _Span:
    """Some of a batch's events, in a row."""

    batch: EventBatch
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def last(self) -> Event:
        """Where the last event lay; without what would have to be made of every record for it."""
        batch, at = self.batch, self.stop - 1
        return Event(None, batch.source, int(batch.offsets[at]), int(batch.timestamps[at]), None, ())

    def halves(self) -> tuple[_Span, _Span]:
        middle = (self.start + self.stop) // 2
        return _Span(self.batch, self.start, middle), _Span(self.batch, middle, self.stop)

    def frame(self) -> pl.DataFrame:
        """Raises OverflowError for a whole number beyond 64 bits: as if the agent had failed on it."""
        batch, here = self.batch, slice(self.start, self.stop)
        frame = batch.frame(self.start, self.stop)
        return frame.with_columns(
            pl.Series(KEY, batch.keys[here], dtype=pl.Binary),
            pl.Series(TIME, np.asarray(batch.timestamps[here], np.int64)),
            pl.lit(batch.source.partition, pl.Int64).alias(PARTITION),
            pl.Series(OFFSET, np.asarray(batch.offsets[here], np.int64)),
        )


class Frames:
    """The events of an agent's topic as DataFrames: `async for frame in frames`. Each is of one partition, in offset
    order; belongs to one run of one agent.

    `done` is told of each batch when all of its events have been used; `call` gives an output to the sinks that
    are functions, `send` sends it, with the last event of the frame that it was yielded at.
    """

    def __init__(
        self,
        arrivals: AsyncIterator[EventBatch],
        *,
        done: Callable[[EventBatch], None],
        call: Callable[[Any], Awaitable[None]],
        send: Callable[[Any, Event], None],
        tables: TableTask | None = None,
    ) -> None:
        self._arrivals, self._done, self._call, self._send = Arrivals(arrivals), done, call, send
        self.tables = None if tables is None else JournaledTables(tables, self)
        self._waiting: list[_Span] = []  # of one batch; the next one last
        self._hand: _Span | None = None
        self._held: list[Any] = []
        self.source: TopicPartition | None = None
        """The frame's partition: whose Tables the agent uses. None while it waits for a frame."""
        self.position = 0
        """Grows by one with every frame taken."""

    def __aiter__(self) -> Frames:
        return self

    async def __anext__(self) -> pl.DataFrame:
        await self.settle()
        if not self._waiting:
            batch = await self._arrivals.next()
            if batch is None:
                raise StopAsyncIteration
            self._waiting.append(_Span(batch, 0, len(batch)))
        self._hand = self._waiting.pop()
        self.source = self._hand.batch.source
        self.position += 1
        return self._hand.frame()

    @property
    def ended(self) -> bool:
        """True once the host stops: the iteration is over."""
        return self._arrivals.ended

    @property
    def place(self) -> str | None:
        """Topic/partition/offset of the frame's first event. Any thread may ask; it may be a moment old."""
        hand = self._hand
        return None if hand is None else f"{hand.batch.source}/{hand.batch.offsets[hand.start]}"

    async def yielded(self, value: Any) -> None:
        """Hold an output until the frame has been used."""
        self._held.append(value)

    async def settle(self) -> None:
        """The frame in hand has been used: let go of its outputs, keep what it changed, and acknowledge it.

        All sinks are called before the first output is sent: where one fails, the frame fails, and nothing of it was.
        """
        if self._hand is None:
            return
        for value in self._held:
            await self._call(value)
        held, self._held = self._held, []
        if held:
            cause = self._hand.last()
            for value in held:
                self._send(value, cause)
        if self.tables is not None:
            self.tables.keep()
        self.release()

    def failed(self) -> list[Event] | None:
        """The agent has failed: undo what came of the frame in hand.

        Returns the one event that it failed on, still to be let go of by `release`; none where the frame's halves are
        to be tried instead; None where no frame was in hand.
        """
        hand = self._hand
        self._held = []
        if hand is None:
            return None
        if self.tables is not None:
            self.tables.undo()
        if len(hand) == 1:
            return [hand.batch.at(hand.start)]
        self._waiting += reversed(hand.halves())
        self._hand = self.source = None
        return []

    def release(self) -> None:
        """Acknowledge the frame in hand."""
        if self._hand is not None:
            batch, self._hand, self.source = self._hand.batch, None, None
            if not self._waiting:
                self._done(batch)
