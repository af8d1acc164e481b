"""The host of agents, on real Faust: outputs, the acknowledgement barrier, its beginning and end."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import faust
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamkit.agent import Agent
from streamkit.errors import AgentStalled, DefinitionError, StreamkitError
from streamkit.record import TopicPartition
from streamkit.speed.agents import AgentHost, Emitted
from streamkit.speed.events import Event, Events, current_event
from streamkit.topic import Topic
from tests.unit.agents_bench import CLICKS, SOON, VIEWS, Bench, Click, batch, collector, doom, echo, reason


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
