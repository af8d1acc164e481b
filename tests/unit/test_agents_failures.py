"""What becomes of events that an agent fails on, and when the host stops."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import pytest

from streamkit.agent import Agent
from streamkit.errors import AgentFailed, AgentStalled
from streamkit.speed.agents import AgentHost, Failure
from streamkit.speed.events import Events
from tests.unit.agents_bench import CLICKS, SOON, Bench, batch, doom, reason


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
        assert all(
            "raise ValueError" in f.traceback and "test_agents_failures.py" in f.traceback for f in bench.failures
        )

    def test_many_in_a_row_do_not_wait_for_fausts_supervisor(self, bench: Bench) -> None:
        async def never(events: Events) -> None:
            async for value in events:
                raise ValueError(value)

        host = bench.start(Agent("never", CLICKS, never))
        host.feed(batch(range(500)))  # Faust gives up at 100 restarts a second
        host.drain(SOON)
        assert [f.event.offset for f in bench.failures] == list(range(500))

    @pytest.mark.parametrize("batches", [False, True])
    def test_it_is_reported_before_it_is_acknowledged(self, bench: Bench, batches: bool) -> None:
        """Otherwise a Checkpoint could come in between, and after a crash its dead letter would be nowhere."""
        hosts: list[AgentHost] = []
        open_then: list[bool] = []

        def failed(_: Failure) -> None:
            try:
                hosts[0].drain(0.0)
            except AgentStalled:
                open_then.append(True)

        async def never(events: Any) -> None:
            async for value in events:
                raise ValueError(value)

        hosts.append(bench.start(Agent("never", CLICKS, never, batches=batches), failed=failed))
        hosts[0].feed(batch([1]))
        hosts[0].drain(SOON)
        assert open_then == [True]

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
        # Its loop could not clean up; what it left is collected here: CPython 3.11 may trip over it while it compiles.
        host.stop()
        bench.hosts.clear()
        del host
        gc.collect()

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
