"""Agents: a named coroutine function and its topics. A declaration only; `speed.agents` has Faust run it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from streamkit.errors import DefinitionError, StreamkitError
from streamkit.topic import Topic

AgentFunction = Callable[[Any], Any]
"""`async def f(events)`: iterates over the events; an async generator's yields go to the agent's `out` topic."""

KEY = "__key"
"""The column of the record's key, beside TIME, PARTITION and OFFSET, in the frames of an agent with `batches=True`."""


class Calls(Protocol):
    """How `cast` and `ask` reach an agent."""

    async def send(self, topic: Topic, value: Any, key: bytes | None) -> None:
        """Send one value to a topic."""

    async def ask(self, agent: Agent, value: Any, key: bytes | None, timeout: float) -> Any:
        """Send a value to an agent, and return what it yields first at it."""


running_calls: ContextVar[Calls | None] = ContextVar("streamkit_calls", default=None)
"""Who sends for the code that runs here: the worker, in a topology, or `streamkit.calling`, outside."""


@dataclass(frozen=True)
class Agent:
    """Any code over a topic's events; speed layer only, so nothing is promised of it in batch.

    What it yields goes to `out`, to each of `sinks` (topics, agents, functions), and, where it was asked, back as the
    answer. `key` makes the record key of what is yielded; without it the out topic's key field does.
    """

    name: str
    topic: Topic
    function: AgentFunction
    out: Topic | None = None
    concurrency: int = 1
    batches: bool = False
    sinks: tuple[Any, ...] = ()
    replies: Any = None
    key: Callable[[Any], Any] | None = None

    def __call__(self, events: AsyncIterator[Any]) -> Any:
        """The decorated function is still the function: call it in a unit test on any async iterator."""
        return self.function(events)

    @cached_property
    def topics(self) -> tuple[Topic, ...]:
        """The topics that what it yields goes to."""
        targets = [sink.topic if isinstance(sink, Agent) else sink for sink in self.sinks]
        return tuple(t for t in (self.out, *targets) if isinstance(t, Topic))

    @cached_property
    def functions(self) -> tuple[Callable[[Any], Any], ...]:
        """The sinks that are functions."""
        return tuple(s for s in self.sinks if callable(s) and not isinstance(s, Agent))

    async def cast(self, value: Any, *, key: bytes | None = None) -> None:
        """Send a value to this agent's topic: from an agent or timer with the next Checkpoint, from outside at once.

        Raises StreamkitError outside of both.
        """
        await _calls(self, "cast").send(self.topic, value, key)

    async def ask(self, value: Any, *, key: bytes | None = None, timeout: float = 30.0) -> Any:
        """Send a value and return what the agent yields first at it, after the Checkpoint that makes it durable.

        From outside of the topology alone: within `with streamkit.calling(app)`. Raises AgentFailed where the
        agent failed on it, TimeoutError after `timeout` seconds, StreamkitError within an agent or timer.
        """
        return await _calls(self, "ask").ask(self, value, key, timeout)

    async def map(self, values: Iterable[Any], *, timeout: float = 30.0) -> AsyncIterator[Any]:
        """The answers to many values, as they come."""
        for answer in asyncio.as_completed([self.ask(value, timeout=timeout) for value in values]):
            yield await answer

    async def join(self, values: Iterable[Any], *, timeout: float = 30.0) -> list[Any]:
        """The answers to many values, in their order."""
        return await asyncio.gather(*(self.ask(value, timeout=timeout) for value in values))


@dataclass(frozen=True)
class Timer:
    """An `async def` function that runs in every worker, every `interval` seconds or by a cron line."""

    name: str
    function: Callable[[], Awaitable[Any]]
    interval: float | None = None
    cron: str = ""

    def __post_init__(self) -> None:
        if not inspect.iscoroutinefunction(self.function):
            raise DefinitionError(f"timer {self.name!r} must be an async function: async def {self.name}(): ...")
        if self.interval is not None and self.interval <= 0:
            raise DefinitionError(f"timer {self.name!r}: the interval must be above 0 seconds, got {self.interval}")


def copying(name: str, topic: Topic, out: Topic, key: Callable[[Any], Any] | None) -> Agent:
    """An agent that sends a topic's events on, under the key that `out` or `key` makes of them."""

    async def copy(events: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for event in events:
            if key is not None:
                key(event)  # where it raises, it is this event's failure, and not that of what sends it
            yield event

    return Agent(name, topic, copy, out, key=key)


def check_agent(agent: Agent) -> None:
    """Raises DefinitionError."""
    name, generates = agent.name, inspect.isasyncgenfunction(agent.function)
    if not generates and not inspect.iscoroutinefunction(agent.function):
        raise DefinitionError(f"agent {name!r} must be an async function: async def {name}(events): ...")
    if generates and agent.out is None and not agent.sinks and agent.replies is None:
        raise DefinitionError(f"agent {name!r} yields, but has no out= topic to send it to (nor sinks= or replies=)")
    for use, given in (("out", agent.out and agent.out.name), ("sinks", agent.sinks), ("replies", agent.replies)):
        if given and not generates:
            raise DefinitionError(f"agent {name!r} has {use}={given!r}, but never yields anything to send there")
    if agent.concurrency < 1:
        raise DefinitionError(f"agent {name!r}: concurrency must be 1 or more, got {agent.concurrency}")
    if agent.batches and agent.concurrency > 1:
        raise DefinitionError(
            f"agent {name!r}: batches=True runs one frame at a time, so that a failed one can be undone; leave out "
            f"concurrency={agent.concurrency}, and start more workers instead"
        )
    if agent.batches and agent.replies is not None:
        raise DefinitionError(f"agent {name!r}: what is yielded at a frame answers no single event; leave out replies=")
    _check_sinks(name, agent.sinks, len(agent.topics) + len(agent.functions) - (agent.out is not None))


def _check_sinks(name: str, sinks: Sequence[Any], known: int) -> None:
    if known != len(sinks):
        raise DefinitionError(f"agent {name!r}: sinks are topics, agents, and functions of one value; got {sinks!r}")


def _calls(agent: Agent, verb: str) -> Calls:
    calls = running_calls.get()
    if calls is None:
        raise StreamkitError(
            f"agent {agent.name!r}: {verb} needs a way to Kafka. In a program of its own: "
            f"with streamkit.calling(app): await {agent.name}.{verb}(value)"
        )
    return calls
