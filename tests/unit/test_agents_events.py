"""What an agent iterates over: events one by one, and lists of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from streamkit.agent import Agent
from streamkit.errors import AgentStalled
from streamkit.record import TopicPartition
from streamkit.speed.events import Event, EventBatch, Events, current_event
from tests.unit.agents_bench import CLICKS, SOON, Bench, batch


class TestEvents:
    def test_metadata(self, bench: Bench) -> None:
        seen: list[Event] = []

        async def look(events: Events) -> None:
            async for event in events.events():
                assert event == events.current == current_event()
                seen.append(event)

        host = bench.start(Agent("look", CLICKS, look))
        host.feed(batch(["a", "b"], start=5))
        host.drain(SOON)
        source = TopicPartition("clicks", 0)
        assert seen == [
            Event("a", source, 5, 5_000, b"k5", (("h", b"5"),)),
            Event("b", source, 6, 6_000, b"k6", (("h", b"6"),)),
        ]

    def test_headers_are_decoded_once_and_only_when_looked_at(self, bench: Bench) -> None:
        calls: list[str] = []

        def headers() -> list[Any]:
            calls.append("headers")
            return [(), ()]

        async def look(events: Events) -> None:
            async for value in events:
                if value != "no":
                    _ = events.current.headers

        host = bench.start(Agent("look", CLICKS, look))
        for values in (["no", "no"], ["yes", "yes"]):
            host.feed(EventBatch(TopicPartition("clicks", 0), values, [0, 1], [0, 0], [None, None], headers))
        host.drain(SOON)
        assert calls == ["headers"]

    def test_no_event_is_current_outside_of_an_agent(self) -> None:
        assert current_event() is None

    def test_a_task_that_an_agent_starts_knows_its_event(self, bench: Bench) -> None:
        async def where() -> int:
            here = current_event()
            assert here is not None
            return here.offset

        async def ask(events: Events) -> Any:
            async for _ in events:
                yield await asyncio.gather(where(), where())

        host = bench.start(Agent("ask", CLICKS, ask))
        host.feed(batch("ab", start=3))
        host.drain(SOON)
        assert bench.values() == [[3, 3], [4, 4]]

    def test_one_that_returns_is_started_again_with_the_next(self, bench: Bench) -> None:
        starts: list[int] = []

        async def two(events: Events) -> Any:
            starts.append(len(starts))
            taken = 0
            async for value in events:
                yield (starts[-1], value)
                taken += 1
                if taken == 2:
                    return

        host = bench.start(Agent("two", CLICKS, two))
        host.feed(batch([0, 1, 2]))
        host.feed(batch([3], start=3))
        host.drain(SOON)
        host.feed(batch([4], start=4))
        host.drain(SOON)
        assert bench.values() == [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4)]

    def test_a_time_limit_on_the_wait_loses_nothing(self, bench: Bench) -> None:
        timeouts = threading.Semaphore(0)

        async def patient(events: Events) -> Any:
            while not events.ended:
                try:
                    async with asyncio.timeout(0.005):
                        value = await anext(events)
                except TimeoutError:
                    timeouts.release()
                    continue
                except StopAsyncIteration:
                    return
                yield value

        host = bench.start(Agent("patient", CLICKS, patient))
        for start in range(5):
            assert timeouts.acquire(timeout=SOON)
            host.feed(batch([start], start=start))
        host.drain(SOON)
        assert bench.values() == [0, 1, 2, 3, 4]

    def test_a_long_batch_leaves_room_for_others(self, bench: Bench) -> None:
        """Neither agent may wait for the other's whole batch, though neither awaits anything but events."""
        order: list[str] = []

        def busy(name: str) -> Callable[[Events], Any]:
            async def run(events: Events) -> None:
                async for _ in events:
                    order.append(name)

            return run

        host = bench.start(Agent("a", CLICKS, busy("a")), Agent("b", CLICKS, busy("b")))
        host.feed(batch(range(5_000)))
        host.drain(SOON)
        assert sum(left != right for left, right in pairwise(order)) >= 5


class TestTake:
    def test_full_lists_run_over_batches_and_the_rest_comes_in_time(self, bench: Bench) -> None:
        async def lists(events: Events) -> Any:
            async for values in events.take(4, within=0.3):
                yield (values, events.current.offset)

        host = bench.start(Agent("lists", CLICKS, lists))
        for values in ([0, 1, 2], [3, 4], [5], [6, 7, 8, 9, 10, 11, 12]):
            host.feed(batch(values, start=values[0]))
        host.drain(SOON)
        assert bench.values() == [([0, 1, 2, 3], 3), ([4, 5, 6, 7], 7), ([8, 9, 10, 11], 11), ([12], 12)]
        host.feed(batch([13], start=13))
        host.drain(SOON)
        assert bench.values()[-1] == ([13], 13)

    def test_the_events_of_a_list_in_hand_are_not_acknowledged(self, bench: Bench) -> None:
        gate, reached = asyncio.Event(), threading.Event()

        async def held(events: Events) -> None:
            async for _ in events.take(3, within=60):
                reached.set()
                await gate.wait()

        host = bench.start(Agent("held", CLICKS, held))
        for start in range(3):
            host.feed(batch([start], start=start))
        assert reached.wait(SOON)
        with pytest.raises(AgentStalled, match="clicks/0/2 with 3 events"):
            host.drain(0.02)
        host.app.loop.call_soon_threadsafe(gate.set)
        host.drain(SOON)

    def test_a_list_fails_as_a_whole(self, bench: Bench) -> None:
        async def picky(events: Events) -> Any:
            async for values in events.take(3, within=0.3):
                if 3 in values:
                    raise ValueError(values)
                yield values

        host = bench.start(Agent("picky", CLICKS, picky))
        host.feed(batch([0, 1], start=0))
        host.feed(batch([2, 3, 4, 5, 6], start=2))
        host.drain(SOON)
        assert bench.values() == [[0, 1, 2], [6]]
        assert [f.event.offset for f in bench.failures] == [3, 4, 5]

    def test_single_events_may_follow_a_list(self, bench: Bench) -> None:
        async def mixed(events: Events) -> Any:
            async for values in events.take(2, within=60):
                yield values
                break
            async for value in events:
                yield value

        host = bench.start(Agent("mixed", CLICKS, mixed))
        host.feed(batch([0]))
        host.feed(batch([1, 2, 3], start=1))
        host.drain(SOON)
        assert bench.values() == [[0, 1], 2, 3]
