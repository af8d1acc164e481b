"""Agents: a named coroutine function and its topics. A declaration only; `speed.agents` has Faust run it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamkit.topic import Topic

AgentFunction = Callable[[Any], Any]
"""`async def f(events)`: iterates over the events; an async generator's yields go to the agent's `out` topic."""


@dataclass(frozen=True)
class Agent:
    """Any code over a topic's events; speed layer only, so nothing is promised of it in batch."""

    name: str
    topic: Topic
    function: AgentFunction
    out: Topic | None = None
    concurrency: int = 1

    def __call__(self, events: AsyncIterator[Any]) -> Any:
        """The decorated function is still the function: call it in a unit test on any async iterator."""
        return self.function(events)
