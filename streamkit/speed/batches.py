"""From decoded records to what agents are fed with: at once, or, for an agent on columns, when many wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import polars as pl

from streamkit.agent import Agent
from streamkit.decode import Decoded, numbers
from streamkit.record import TopicPartition
from streamkit.speed.events import EventBatch
from streamkit.topic import Topic

FRAME_ROWS = 65_536
"""Events of a partition that wait before an agent on columns gets them as one frame; a Checkpoint waits for no more.

With 10,000 keys it is half the time an event that frames of 5,000 take: an agent's work is by key and frame.
"""

Feed = Callable[[EventBatch, Agent], None]


class Waiting:
    """Events of agents on columns, kept until a frame is full or a Checkpoint comes; `feed` takes them."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._decoded: dict[tuple[str, TopicPartition], tuple[Agent, list[Decoded]]] = {}

    def add(self, agent: Agent, decoded: Decoded) -> None:
        at = (agent.name, decoded.source)
        waiting = self._decoded.setdefault(at, (agent, []))[1]
        waiting.append(decoded)
        if sum(map(len, waiting)) >= FRAME_ROWS:
            del self._decoded[at]
            self._feed(columns_of(waiting), agent)

    def release(self) -> None:
        """Feed all that wait."""
        waiting, self._decoded = self._decoded, {}
        for agent, decoded in waiting.values():
            self._feed(columns_of(decoded), agent)


def plain_fields(topic: Topic) -> list[str]:
    """The fields that have columns."""
    return [field.name for field in topic.schema.fields if field.dtype is not None]


def events_of(decoded: Decoded) -> EventBatch:
    """What an agent iterates over one by one."""
    return EventBatch(
        source=decoded.source,
        values=decoded.values,
        offsets=decoded.offsets,
        timestamps=lambda: decoded.timestamps,
        keys=lambda: decoded.keys,
        headers=lambda: decoded.headers,
    )


def columns_of(parts: Sequence[Decoded]) -> EventBatch:
    """The same of several runs of one partition, for an agent on columns: objects are made only of what it fails on."""
    fields = plain_fields(parts[0].topic)

    def joined(column: Callable[[Decoded], Sequence[Any]]) -> Sequence[Any]:
        return list(chain.from_iterable(map(column, parts)))

    def frame(start: int, stop: int) -> pl.DataFrame:
        return pl.concat([part.frame(fields) for part in _cut(parts, start, stop)])

    return EventBatch(
        source=parts[0].source,
        values=lambda: joined(lambda d: d.values),
        offsets=numbers(d.offsets for d in parts),
        timestamps=lambda: numbers(d.timestamps for d in parts),
        keys=lambda: joined(lambda d: d.keys),
        headers=lambda: joined(lambda d: d.headers),
        frame=frame,
    )


def _cut(parts: Sequence[Decoded], start: int, stop: int) -> Iterator[Decoded]:
    """What of them lies in `[start, stop)`, counted through."""
    for part in parts:
        if start < len(part) and stop > 0:
            whole = start <= 0 and stop >= len(part)
            yield part if whole else part.slice(max(start, 0), min(stop, len(part)))
        start, stop = start - len(part), stop - len(part)
