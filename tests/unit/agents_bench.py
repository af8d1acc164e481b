"""What tests of the host of agents share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from streamkit.agent import Agent
from streamkit.errors import StreamkitError
from streamkit.record import TopicPartition
from streamkit.speed.agents import AgentHost, Emitted, Failure
from streamkit.speed.events import EventBatch, Events
from streamkit.topic import Topic

SOON = 10.0  # seconds; a barrier that takes longer is broken


class Click(msgspec.Struct):
    n: int


CLICKS, VIEWS = Topic("clicks", Click), Topic("views", Click)


def batch(values: Sequence[Any], *, start: int = 0, topic: Topic = CLICKS, partition: int = 0) -> EventBatch:
    """Values at offsets from `start`, one second apart, each with a key and a header that name its offset."""
    offsets = range(start, start + len(values))
    return EventBatch(
        source=TopicPartition(topic.name, partition),
        values=values,
        offsets=offsets,
        timestamps=[1_000 * o for o in offsets],
        keys=[b"k%d" % o for o in offsets],
        headers=lambda: [(("h", b"%d" % o),) for o in offsets],
    )


class Bench:
    """A host, and what it called back with."""

    def __init__(self) -> None:
        self.outputs: list[Emitted] = []
        self.failures: list[Failure] = []
        self.hosts: list[AgentHost] = []

    def start(self, *agents: Agent, **options: Any) -> AgentHost:
        options = {"emit": self.outputs.append, "failed": self.failures.append} | options
        host = AgentHost(agents, **options)
        self.hosts.append(host)
        host.start()
        return host

    def values(self) -> list[Any]:
        return [output.value for output in self.outputs]


async def echo(events: Events) -> Any:
    async for value in events:
        yield value


def collector(into: list[Any]) -> Callable[[Events], Any]:
    async def collect(events: Events) -> None:
        async for value in events:
            into.append(value)

    return collect


def reason(call: Callable[[], Any]) -> str:
    """Call until the host tells why it stopped."""
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        try:
            call()
        except StreamkitError as error:
            return str(error)
    pytest.fail("the host did not stop")


def doom(bench: Bench, function: Callable[[Events], Any]) -> str:
    """Why a host stops, unfed, whose agent is `function`; it may fall before or after `start` returns."""
    try:
        host = bench.start(Agent("doomed", CLICKS, function))
    except StreamkitError as error:
        return str(error)
    return reason(host.drain)
