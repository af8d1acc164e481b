"""The host of agents, on real Faust: order, the acknowledgement barrier, failures, backpressure, a clean end."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import faust
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamkit.agent import Agent
from streamkit.errors import AgentFailed, AgentStalled, DefinitionError, StreamkitError
from streamkit.record import TopicPartition
from streamkit.speed.agents import AgentHost, Emitted, Failure
from streamkit.speed.events import Event, EventBatch, Events, current_event
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


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for host in bench.hosts:
        host.stop()
    assert not any(t.name == "streamkit-agents" for t in threading.enumerate())


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


class TestOutputs:
    def test_they_come_in_order_with_the_event_they_were_caused_by(self, bench: Bench) -> None:
        async def twice(events: Events) -> Any:
            async for value in events:
                yield value
                yield -value

        agent = Agent("twice", CLICKS, twice)
        host = bench.start(agent)
        host.feed(batch([1, 2], start=7, partition=3))
        host.feed(batch([3], start=9, partition=3))
        host.drain(SOON)
        assert bench.values() == [1, -1, 2, -2, 3, -3]
        assert [o.cause.offset for o in bench.outputs] == [7, 7, 8, 8, 9, 9]
        last = Event(3, TopicPartition("clicks", 3), 9, 9_000, b"k9", (("h", b"9"),))
        assert bench.outputs[-1] == Emitted(agent, -3, last)

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.integers(0, 2_500), max_size=5))
    def test_however_the_events_are_batched(self, sizes: list[int]) -> None:
        outputs: list[Emitted] = []
        host = AgentHost([Agent("echo", CLICKS, echo)], emit=outputs.append, failed=print)
        host.start()
        total = 0
        for size in sizes:
            host.feed(batch(range(total, total + size), start=total))
            total += size
        host.drain(SOON)
        host.stop()
        assert [o.value for o in outputs] == [o.cause.offset for o in outputs] == list(range(total))

    def test_a_plain_coroutine_has_none(self, bench: Bench) -> None:
        seen: list[Any] = []
        host = bench.start(Agent("plain", CLICKS, collector(seen)))
        host.feed(batch([1, 2, 3]))
        host.drain(SOON)
        assert (seen, bench.outputs) == ([1, 2, 3], [])

    def test_an_output_without_an_event_stops_the_host(self, bench: Bench) -> None:
        async def eager(events: Events) -> Any:
            yield "hello"
            async for value in events:
                yield value

        assert "agent 'doomed' failed with no event in hand" in doom(bench, eager)
        assert bench.outputs == []

    def test_what_emit_raises_is_raised_in_the_worker(self, bench: Bench) -> None:
        def full(output: Emitted) -> None:
            raise ValueError(f"no room for {output.value}")

        host = bench.start(Agent("echo", CLICKS, echo), emit=full)
        host.feed(batch([1, 2]))
        with pytest.raises(ValueError, match="no room for 1"):
            host.drain(SOON)
        with pytest.raises(ValueError, match="no room for 1"):
            host.feed(batch([3]))


class TestAgents:
    def test_they_are_fausts(self, bench: Bench) -> None:
        host = bench.start(Agent("a", CLICKS, echo), Agent("b", VIEWS, echo, concurrency=3))
        assert host.app.client_only
        assert {name: type(agent) for name, agent in host.app.agents.items()} == {"a": faust.Agent, "b": faust.Agent}
        assert [len(agent._actors) for agent in host.app.agents.values()] == [1, 3]

    def test_each_on_a_topic_gets_every_event_and_no_others(self, bench: Bench) -> None:
        seen: dict[str, list[Any]] = {"a": [], "b": [], "v": []}
        topics = {"a": CLICKS, "b": CLICKS, "v": VIEWS}
        host = bench.start(*(Agent(name, topics[name], collector(seen[name])) for name in seen))
        host.feed(batch([1, 2]))
        host.feed(batch([10], topic=VIEWS))
        host.feed(batch([3], start=2))
        host.feed(batch([99], topic=Topic("unheard", Click)))
        host.feed(batch([]))
        host.drain(SOON)
        assert seen == {"a": [1, 2, 3], "b": [1, 2, 3], "v": [10]}

    def test_one_may_be_fed_alone(self, bench: Bench) -> None:
        a, b = Agent("a", CLICKS, echo), Agent("b", CLICKS, echo)
        host = bench.start(a, b)
        host.feed(batch([1]), agent=b)
        host.feed(batch([2], start=1))
        host.drain(SOON)
        assert sorted((o.agent.name, o.value) for o in bench.outputs) == [("a", 2), ("b", 1), ("b", 2)]

    def test_concurrent_runs_share_the_batches(self, bench: Bench) -> None:
        together = asyncio.Barrier(3)
        runs: set[asyncio.Task[Any] | None] = set()

        async def work(events: Events) -> Any:
            async for value in events:
                if value % 10 == 0:
                    await together.wait()  # passes only if three runs hold a batch each
                runs.add(asyncio.current_task())
                here = current_event()
                assert here is not None
                assert here.value == value == events.current.value
                yield value

        host = bench.start(Agent("work", CLICKS, work, concurrency=3))
        for start in range(0, 120, 10):
            host.feed(batch(range(start, start + 10), start=start))
        host.drain(SOON)
        assert sorted(bench.values()) == list(range(120))
        assert all(o.cause.offset == o.value for o in bench.outputs)
        assert len(runs) == 3
        for start in range(0, 120, 10):
            assert [v for v in bench.values() if start <= v < start + 10] == list(range(start, start + 10))

    def test_two_of_one_name_are_refused(self) -> None:
        with pytest.raises(DefinitionError, match="names of their own"):
            AgentHost([Agent("a", CLICKS, echo), Agent("a", VIEWS, echo)], emit=print, failed=print)

    def test_a_function_that_is_not_async_is_refused(self, bench: Bench) -> None:
        assert "agent 'doomed' must be an `async def` function" in doom(bench, lambda events: [events])


class TestBarrier:
    def test_it_waits_for_the_event_in_hand(self, bench: Bench) -> None:
        gate, reached = asyncio.Event(), threading.Event()

        async def held(events: Events) -> Any:
            async for value in events:
                if value == 2:
                    reached.set()
                    await gate.wait()
                yield value

        host = bench.start(Agent("held", CLICKS, held))
        host.feed(batch([1, 2, 3], start=40, partition=2))
        assert reached.wait(SOON)
        with pytest.raises(AgentStalled, match=r"agent 'held' is at clicks/2/41 with 3 events not acknowledged"):
            host.drain(0.02)
        assert bench.values() == [1]
        host.app.loop.call_soon_threadsafe(gate.set)
        host.drain(SOON)
        assert bench.values() == [1, 2, 3]

    def test_the_last_event_counts_until_the_next_is_asked_for(self, bench: Bench) -> None:
        gate, reached = asyncio.Event(), threading.Event()

        async def late(events: Events) -> None:
            async for _ in events:
                reached.set()
                await gate.wait()

        host = bench.start(Agent("late", CLICKS, late), Agent("quick", CLICKS, echo))
        host.feed(batch([1]))
        assert reached.wait(SOON)
        with pytest.raises(AgentStalled, match="'late'") as stalled:
            host.drain(0.02)
        assert "quick" not in str(stalled.value)
        host.app.loop.call_soon_threadsafe(gate.set)
        host.drain(SOON)

    def test_feeding_blocks_while_an_agent_is_far_behind(self, bench: Bench) -> None:
        gate, fed = asyncio.Event(), threading.Semaphore(0)

        async def held(events: Events) -> None:
            async for _ in events:
                await gate.wait()

        host = bench.start(Agent("held", CLICKS, held), capacity=25)

        def feed() -> None:
            for start in range(0, 60, 10):
                host.feed(batch(range(start, start + 10), start=start))
                fed.release()

        worker = threading.Thread(target=feed)
        worker.start()
        assert all(fed.acquire(timeout=SOON) for _ in range(3))  # 0, 10 and 20 behind: below 25
        assert not fed.acquire(timeout=0.05)  # 30 behind
        host.app.loop.call_soon_threadsafe(gate.set)
        assert all(fed.acquire(timeout=SOON) for _ in range(3))
        worker.join(SOON)
        host.drain(SOON)

    def test_an_event_counts_no_longer_once_the_function_has_ended(self, bench: Bench) -> None:
        starts: list[int] = []

        async def slow_to_start(events: Events) -> None:
            starts.append(1)
            if len(starts) == 3:
                await asyncio.Event().wait()
            async for value in events:
                if value == 0:
                    raise ValueError
                return

        host = bench.start(Agent("slow", CLICKS, slow_to_start))
        host.feed(batch([0, 1]))
        host.drain(SOON)
        assert [f.event.value for f in bench.failures] == [0]

    def test_nothing_fed_is_nothing_to_wait_for(self, bench: Bench) -> None:
        bench.start(Agent("echo", CLICKS, echo)).drain(SOON)


class TestFailures:
    @pytest.mark.parametrize("bad", [{0}, {2}, {4}, {5}, {4, 5}, {0, 1, 2, 3, 4, 5, 6}, set(range(0, 7, 2))])
    @pytest.mark.parametrize("yields", [True, False])
    def test_it_goes_on_with_the_next_event(self, bench: Bench, bad: set[int], yields: bool) -> None:
        good: list[Any] = []

        async def plain(events: Events) -> None:
            async for value in events:
                if value in bad:
                    raise ValueError(f"bad {value}")
                good.append(value)

        async def generator(events: Events) -> Any:
            async for value in events:
                if value in bad:
                    raise ValueError(f"bad {value}")
                yield value
                good.append(value)

        agent = Agent("picky", CLICKS, generator if yields else plain)
        host = bench.start(agent)
        host.feed(batch([0, 1, 2, 3, 4]))
        host.drain(SOON)
        host.feed(batch([5], start=5))
        host.feed(batch([6], start=6))
        host.drain(SOON)
        assert good == [v for v in range(7) if v not in bad]
        assert bench.values() == (good if yields else [])
        assert [f.event.offset for f in bench.failures] == sorted(bad)
        assert all(f.agent is agent and str(f.error) == f"bad {f.event.value}" for f in bench.failures)
        assert all("raise ValueError" in f.traceback and "test_agents.py" in f.traceback for f in bench.failures)

    def test_many_in_a_row_do_not_wait_for_fausts_supervisor(self, bench: Bench) -> None:
        async def never(events: Events) -> None:
            async for value in events:
                raise ValueError(value)

        host = bench.start(Agent("never", CLICKS, never))
        host.feed(batch(range(500)))  # Faust gives up at 100 restarts a second
        host.drain(SOON)
        assert [f.event.offset for f in bench.failures] == list(range(500))

    def test_outputs_before_it_are_delivered_first(self, bench: Bench) -> None:
        order: list[Any] = []

        async def half(events: Events) -> Any:
            async for value in events:
                yield value
                raise ValueError(value)

        host = bench.start(
            Agent("half", CLICKS, half),
            emit=lambda o: order.append(("out", o.cause.offset)),
            failed=lambda f: order.append(("failed", f.event.offset)),
        )
        host.feed(batch([1, 2]))
        host.drain(SOON)
        assert order == [("out", 0), ("failed", 0), ("out", 1), ("failed", 1)]

    def test_the_policy_to_fail_stops_the_host(self, bench: Bench) -> None:
        def fail(failure: Failure) -> None:
            raise AgentFailed(f"offset {failure.event.offset}") from failure.error

        async def picky(events: Events) -> Any:
            async for value in events:
                if value == 2:
                    raise ValueError("two")
                yield value

        host = bench.start(Agent("picky", CLICKS, picky), failed=fail)
        host.feed(batch([1, 2, 3]))
        with pytest.raises(AgentFailed, match="offset 1") as caught:
            host.drain(SOON)
        assert str(caught.value.__cause__) == "two"
        with pytest.raises(AgentFailed, match="offset 1"):
            host.feed(batch([4], start=3))
        assert bench.values() == [1]

    def test_a_cancellation_of_what_it_awaited_is_a_failure(self, bench: Bench) -> None:
        async def confused(events: Events) -> Any:
            async for value in events:
                if value == 1:
                    other = asyncio.ensure_future(asyncio.Event().wait())
                    other.cancel()
                    await other
                yield value

        host = bench.start(Agent("confused", CLICKS, confused))
        host.feed(batch([1, 2]))
        host.drain(SOON)
        assert bench.values() == [2]
        assert isinstance(bench.failures[0].error, asyncio.CancelledError)

    def test_a_cancelled_run_stops_the_host(self, bench: Bench) -> None:
        async def suicidal(events: Events) -> None:
            async for _ in events:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.Event().wait()

        host = bench.start(Agent("suicidal", CLICKS, suicidal))
        host.feed(batch([1]))
        with pytest.raises(AgentFailed, match="'suicidal' was cancelled, and not by its host"):
            host.drain(SOON)

    def test_leaving_the_process_stops_the_host(self, bench: Bench) -> None:
        async def leaver(events: Events) -> None:
            async for _ in events:
                sys.exit(3)

        host = bench.start(Agent("leaver", CLICKS, leaver))
        host.feed(batch([1]))
        with pytest.raises(AgentFailed, match=r"ended with SystemExit\(3\)"):
            host.drain(SOON)

    def test_a_function_that_would_spin_stops_the_host(self, bench: Bench) -> None:
        async def lazy(_: Events) -> None: ...

        async def broken(_: Events) -> None:
            raise ValueError("no config")

        assert "agent 'doomed' returned without taking an event" in doom(bench, lazy)
        assert "agent 'doomed' failed with no event in hand" in (why := doom(bench, broken))
        assert "no config" in why

    def test_so_does_one_that_fails_only_when_started_again(self, bench: Bench) -> None:
        starts: list[int] = []

        async def once(events: Events) -> None:
            starts.append(1)
            if len(starts) > 1:
                raise RuntimeError("the second start")
            async for value in events:
                raise ValueError(value)

        host = bench.start(Agent("once", CLICKS, once))
        host.feed(batch([1, 2]))
        with pytest.raises(AgentFailed, match=r"no event in hand.*the second start"):
            host.drain(SOON)
        assert [f.event.value for f in bench.failures] == [1]

    def test_so_does_one_that_fails_while_it_waits(self, bench: Bench) -> None:
        async def impatient(events: Events) -> None:
            while True:
                await asyncio.wait_for(anext(events), 0.01)

        host = bench.start(Agent("impatient", CLICKS, impatient))
        host.feed(batch([1]))
        assert "TimeoutError" in reason(host.drain)


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


class TestLife:
    def test_it_starts_fast_and_stops_twice(self, bench: Bench) -> None:
        begin = time.perf_counter()
        host = bench.start(Agent("echo", CLICKS, echo))
        assert time.perf_counter() - begin < 1
        host.stop()
        host.stop()
        with pytest.raises(StreamkitError, match="not running"):
            host.feed(batch([1]))
        with pytest.raises(StreamkitError, match="not running"):
            host.drain()
        with pytest.raises(StreamkitError, match="starts once"):
            host.start()

    def test_it_is_not_fed_before_it_starts(self) -> None:
        host = AgentHost([], emit=print, failed=print)
        with pytest.raises(StreamkitError, match="not running"):
            host.feed(batch([1]))
        host.stop()

    def test_it_may_have_no_agents(self, bench: Bench) -> None:
        host = bench.start()
        host.feed(batch([1]))
        host.drain(SOON)

    def test_a_stop_cancels_the_event_in_hand_and_reports_nothing_more(self, bench: Bench) -> None:
        reached, ends = threading.Event(), []

        async def held(events: Events) -> Any:
            try:
                async for value in events:
                    yield value
                    reached.set()
                    await asyncio.Event().wait()
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise
            finally:
                yield "last words"

        host = bench.start(Agent("held", CLICKS, held), Agent("idle", VIEWS, collector([])))
        host.feed(batch([1, 2]))
        assert reached.wait(SOON)
        host.stop()
        assert (ends, bench.values(), bench.failures) == (["cancelled"], [1], [])

    def test_an_agent_that_waits_sees_its_events_end(self, bench: Bench) -> None:
        ends: list[bool] = []

        async def tidy(events: Events) -> None:
            async for _ in events:
                pass
            ends.append(events.ended)

        host = bench.start(Agent("tidy", CLICKS, tidy))
        host.feed(batch([1]))
        host.drain(SOON)
        host.stop()
        assert ends == [True]

    def test_an_agent_that_cannot_be_stopped_is_named(self, bench: Bench) -> None:
        gate, reached = threading.Event(), threading.Event()

        async def blocking(events: Events) -> None:
            async for _ in events:
                reached.set()
                gate.wait(SOON)

        host = bench.start(Agent("blocking", CLICKS, blocking))
        host.feed(batch([1]))
        assert reached.wait(SOON)
        with pytest.raises(AgentStalled, match=r"did not stop within 0\.02 s: agent 'blocking' is at clicks/0/0"):
            host.stop(0.02)
        gate.set()

    def test_a_feeder_that_waits_is_woken_by_a_stop(self, bench: Bench) -> None:
        told: list[str] = []
        waiting = threading.Event()

        async def stuck(events: Events) -> None:
            async for _ in events:
                await asyncio.Event().wait()

        host = bench.start(Agent("stuck", CLICKS, stuck), capacity=1)
        host.feed(batch([1]))

        def feed() -> None:
            waiting.set()
            told.append(reason(lambda: host.feed(batch([2], start=1))))

        worker = threading.Thread(target=feed)
        worker.start()
        assert waiting.wait(SOON)
        host.stop()
        worker.join(SOON)
        assert "not running" in told[0]

    def test_it_leaves_no_file_asks_no_broker_and_keeps_off_logging_and_signals(
        self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        root = logging.getLogger()
        before = (root.level, list(root.handlers), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
        calls: list[str] = []
        watching = True

        def audit(event: str, _: Any) -> None:
            if watching and event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "os.mkdir"):
                calls.append(event)

        sys.addaudithook(audit)
        host = bench.start(Agent("echo", CLICKS, echo))
        host.feed(batch([1]))
        host.drain(SOON)
        host.stop()
        watching = False
        assert (calls, list(tmp_path.iterdir())) == ([], [])
        after = (root.level, list(root.handlers), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
        assert after == before
