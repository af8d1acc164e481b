"""Where outputs of agents go: held for the Checkpoint's transaction, to their topics and to those that asked."""

from __future__ import annotations

import datetime as dt
import types
from collections.abc import Iterator
from typing import Any, NoReturn

import msgspec
import polars as pl

from streamkit.agent import Agent
from streamkit.errors import AgentFailed, StreamkitError
from streamkit.log.base import Committer
from streamkit.record import Headers
from streamkit.speed.agents import Emitted, Failure
from streamkit.speed.calls import CORRELATION, FAILED, REPLY_TO, check_value
from streamkit.speed.events import Event
from streamkit.speed.tasks import Tasks
from streamkit.topic import Topic


class Outputs:
    """Sends what agents yield, cast and answer by a Checkpoint's Committer; `counters.emitted` counts the yields."""

    def __init__(self, committer: Committer, tasks: Tasks, counters: Any) -> None:
        self._committer, self._tasks, self._counters = committer, tasks, counters
        self._reply = msgspec.json.Encoder().encode

    def emit(self, output: Emitted) -> None:
        """Raises AgentFailed for a value that is none of its topic's."""
        agent, cause = output.agent, output.cause
        topics = agent.topics if output.only is None else (output.only,)
        for value in self._values(agent, topics, output):
            for topic in topics:
                if not isinstance(value, topic.value):
                    _refuse(output, value, f"{topic.value.__name__} for topic {topic.name!r}")
                key = topic.key_of(value) if agent.key is None else str(agent.key(value)).encode()
                time = topic.time_of(value)
                timestamp = cause.timestamp if time is None else time
                self._committer.send(topic.name, topic.encode(value), key=key, timestamp=timestamp)
            self._counters.emitted += 1
        if output.only is None and not agent.batches and cause.headers:
            self._answer(cause, self._reply(output.value), ())

    def refuse(self, failure: Failure) -> None:
        """Tell the one that asked."""
        if failure.event.headers:
            self._answer(failure.event, b"null", ((FAILED, failure.traceback.encode()),))

    async def send(self, topic: Topic, value: Any, key: bytes | None) -> None:
        """What an agent or timer casts: it goes with the next Checkpoint. Raises TypeError."""
        check_value(topic, value)
        key, time = key or topic.key_of(value), topic.time_of(value)
        self._committer.send(topic.name, topic.encode(value), key=key, timestamp=time)
        self._tasks.casts += 1

    async def ask(self, agent: Agent, value: Any, key: bytes | None, timeout: float) -> Any:
        """Refused. Raises StreamkitError."""
        del value, key, timeout
        raise StreamkitError(
            f"agent {agent.name!r} is asked from within the topology: the question goes with the next Checkpoint, and "
            f"that waits for the event that waits for the answer. Use cast, and let {agent.name!r} send what it finds "
            f"to a topic (out= or sinks=) that an agent of yours reads"
        )

    def _values(self, agent: Agent, topics: tuple[Topic, ...], output: Emitted) -> Iterator[Any]:
        value = output.value
        if agent.batches and isinstance(value, pl.DataFrame):
            if len({topic.value for topic in topics}) > 1:
                _refuse(output, value, "values: the topics that it goes to have different types")
            yield from rows_of(topics[0], value, output) if topics else value.to_dicts()
        else:
            if not topics and not agent.functions and agent.replies is None:
                _refuse(output, value, "nothing (it has no out=)")
            yield value

    def _answer(self, event: Event, value: bytes, more: Headers) -> None:
        headers = dict(event.headers)
        topic, asked = headers.get(REPLY_TO), headers.get(CORRELATION)
        if topic is not None:
            self._committer.send(topic.decode(), value, headers=[(CORRELATION, asked), *more], partition=0)


def rows_of(topic: Topic, frame: pl.DataFrame, output: Emitted) -> list[Any]:
    """A frame's rows as values of a topic: a column for each field that has no default, and no other.

    Raises AgentFailed.
    """
    columns, owner = [], topic.value.__name__
    if strange := set(frame.columns) - topic.schema.types().keys():
        _refuse(output, frame, f"no column but fields of {owner}: select without {', '.join(sorted(strange))}")
    for field in topic.schema.fields:
        if field.name in frame.columns:
            column = frame[field.name]
            if field.type is dt.datetime and column.dtype == pl.Int64:  # milliseconds, as a batch has them
                column = column.cast(pl.Datetime("ms", "UTC"))
            columns.append(column.alias(_encoded_names(topic).get(field.name, field.name)))
    try:
        return list(msgspec.convert(pl.DataFrame(columns).to_dicts(), types.GenericAlias(list, topic.value)))
    except msgspec.ValidationError as error:
        _refuse(output, frame, f"rows that are {owner} for topic {topic.name!r}: {error}")


def _encoded_names(topic: Topic) -> dict[str, str]:
    """What a Struct's fields are called on the log."""
    kind = topic.value
    return dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)) if _is_struct(kind) else {}


def _is_struct(kind: Any) -> bool:
    return issubclass(kind, msgspec.Struct)


def _refuse(output: Emitted, value: Any, wanted: str) -> NoReturn:
    cause = output.cause
    raise AgentFailed(
        f"agent {output.agent.name!r} yielded {value!r} at {cause.source}/{cause.offset}; expected {wanted}"
    )
