"""What `generate` and `load` share: sending values to a topic, and a bar."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from streamkit.cli.options import create_topics, err
from streamkit.errors import DefinitionError
from streamkit.log.base import Log
from streamkit.topic import Topic
from streamkit.topology import Topology

FLUSH_SECONDS = 2.0
"""What the broker refuses is told by a flush only: without one now and then, a long run would not hear of it."""


class Sender:
    """Sends values as their producer would: keyed, and with their event time as the record's timestamp.

    As a context manager it waits, at the end, until everything is on the log. `sent` counts the values.
    """

    def __init__(self, log: Log, topic: Topic) -> None:
        self.sent = 0
        self._topic = topic
        self._writer = log.writer()
        self._flushed = time.monotonic()

    def send(self, values: Iterable[Any]) -> None:
        """Raises DeliveryFailed, and DefinitionError for what is not of the topic's type."""
        topic, send = self._topic, self._writer.send
        name, kind, encode, key_of, time_of = topic.name, topic.value, topic.encode, topic.key_of, topic.time_of
        for value in values:
            if not isinstance(value, kind):
                raise DefinitionError(f"topic {name!r}: its values are {kind.__name__}, got {value!r}")
            send(name, encode(value), key=key_of(value), timestamp=time_of(value))
            self.sent += 1
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def make_topics(log: Log, topology: Topology, topic: Topic) -> None:
    """Make the topology's topics that do not exist, and say so of the one that is sent to."""
    if create_topics(log, topology)[topic.name]:
        err.print(f"topic {topic.name}: made, {topic.partitions} partitions, kept for ever")


def bar(unit: str, *, bounded: bool = True) -> Progress:
    """A bar on standard error that says how many `unit` (field `count`) there were, and how many a second."""
    share: tuple[ProgressColumn, ...] = (BarColumn(), TaskProgressColumn()) if bounded else ()
    columns = (
        TextColumn("{task.description}"),
        *share,
        TextColumn(f"{{task.fields[count]:,}} {unit}"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=err)
