"""What Faust's user guide promises of calls and timers: cast, ask, map, join; timers and cron lines."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

import streamkit as sk
from streamkit.agent import Agent, running_calls
from streamkit.errors import AgentFailed, DefinitionError, StreamkitError
from streamkit.log.memory import MemoryLog
from streamkit.speed.calls import Caller
from streamkit.testing.driver import Driver
from tests.unit.promises import A, App, B, C, Seen, settle

SOON = 10.0


def counting(a: App) -> Agent:
    """An agent that is called."""

    @a.app.agent(a.found, out=a.seen)
    async def count(events: Any) -> Any:
        async for click in events:
            yield Seen(click.user, click.cents)

    return count


# -- cast, ask ---------------------------------------------------------------------------------------------------------


def test_cast_from_an_agent_comes_with_the_checkpoint(a: App) -> None:
    count = counting(a)

    @a.app.agent(a.clicks)
    async def caster(events: Any) -> None:
        async for click in events:
            await count.cast(click)

    with Driver(a.app) as driver:
        driver.send(a.clicks, A)
        driver.step()
        driver.settle()
        assert driver.values(a.found) == []
        driver.crash()
        settle(driver)
        assert (driver.values(a.found), driver.values(a.seen)) == ([A], [Seen("ann", 1)])


def test_ask_from_an_agent_is_refused_as_it_would_wait_for_ever(a: App) -> None:
    count = counting(a)

    @a.app.agent(a.clicks)
    async def asker(events: Any) -> None:
        async for click in events:
            await count.ask(click)

    with a.run(A) as driver:
        (letter,) = driver.dead_letters(a.clicks)
        assert "Use cast" in letter.reason


@contextmanager
def outside(app: sk.Topology, log: MemoryLog) -> Iterator[None]:
    with closing(Caller(app, log)) as caller:
        token = running_calls.set(caller)
        yield
        running_calls.reset(token)


@contextmanager
def working(driver: Driver) -> Iterator[None]:
    """The Driver's worker works in a thread."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.002):
            driver.step()
            driver.checkpoint()

    driver.catch_up()
    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_ask_from_outside_returns_what_the_agent_yields(a: App) -> None:
    @a.app.agent(a.clicks, replies=int)
    async def price(events: Any) -> Any:
        async for click in events:
            if click == B:
                raise ValueError("no price for bob")
            yield click.cents * 100

    async def ask() -> None:
        await price.cast(A)
        assert await price.ask(C, timeout=SOON) == 300
        assert await price.join([A, C, A], timeout=SOON) == [100, 300, 100]
        assert sorted([answer async for answer in price.map([A, C], timeout=SOON)]) == [100, 300]
        with pytest.raises(AgentFailed, match="no price for bob"):
            await price.ask(B, timeout=SOON)
        with pytest.raises(TypeError, match="takes Click"):
            await price.ask("nonsense")

    with Driver(a.app) as driver, working(driver), outside(a.app, driver.log):
        asyncio.run(ask())


def test_ask_without_a_worker_tells_what_is_missing(a: App) -> None:
    @a.app.agent(a.clicks, replies=int)
    async def price(events: Any) -> Any:
        async for click in events:
            yield click.cents

    with Driver(a.app) as driver, outside(a.app, driver.log), pytest.raises(TimeoutError, match="does a worker run"):
        asyncio.run(price.ask(A, timeout=0.01))
    with pytest.raises(StreamkitError, match=r"with streamkit\.calling\(app\)"):
        asyncio.run(price.ask(A))


# -- timers ------------------------------------------------------------------------------------------------------------


def test_a_timer_runs_every_interval_and_may_cast(a: App) -> None:
    ticks = threading.Semaphore(0)

    @a.app.agent(a.clicks, out=a.found)
    async def forward(events: Any) -> Any:
        async for click in events:
            yield click

    @a.app.timer(0.005)
    async def tick() -> None:
        await forward.cast(A)
        ticks.release()

    with Driver(a.app) as driver:
        assert driver.worker is not None
        assert all(ticks.acquire(timeout=SOON) for _ in range(3))
        assert driver.worker.moved()  # a Checkpoint is due, though nothing was read
        driver.checkpoint()
        driver.step()
        driver.checkpoint()
        assert driver.values(a.found)[:2] == [A, A]


def test_a_crontab_runs_when_its_line_says(a: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faust.app.base.cron.secs_for_next", lambda *_: 0.005)  # a minute is long for a test
    ran = threading.Semaphore(0)

    @a.app.crontab("* * * * *")
    async def every_minute() -> None:
        ran.release()

    @a.app.agent(a.clicks)
    async def idle(events: Any) -> None:
        async for _ in events:
            pass

    with Driver(a.app) as driver:
        assert driver.worker is not None
        assert all(ran.acquire(timeout=SOON) for _ in range(2))


def test_a_cron_line_that_is_none_is_told(a: App) -> None:
    @a.app.agent(a.clicks)
    async def idle(events: Any) -> None:
        async for _ in events:
            pass

    @a.app.crontab("every minute")
    async def wrong() -> None: ...

    with Driver(a.app) as driver, pytest.raises(DefinitionError, match="'every minute' is no cron line"):
        _ = driver.worker


def test_a_timer_that_fails_stops_the_worker(a: App) -> None:
    ticked = threading.Event()

    @a.app.agent(a.clicks)
    async def idle(events: Any) -> None:
        async for _ in events:
            pass

    @a.app.timer(0.005)
    async def broken() -> None:
        ticked.set()
        raise ValueError("boom")

    with Driver(a.app) as driver:
        worker = driver.worker
        assert ticked.wait(SOON)
        told = ""
        while not told:
            try:
                worker.settle()
            except AgentFailed as error:
                told = str(error)
        assert re.search(r"timer 'broken' failed.*boom", told)


def test_what_is_declared_wrongly_is_told_at_once(a: App) -> None:
    async def silent(events: Any) -> None:
        async for _ in events:
            pass

    async def speaks(events: Any) -> Any:
        async for event in events:
            yield event

    async def tick() -> None: ...

    def plain() -> None: ...

    declarations: list[tuple[Callable[[], object], str]] = [
        (lambda: a.app.agent(a.clicks, sinks=[a.found])(silent), "never yields"),
        (lambda: a.app.agent(a.clicks, sinks=["found"])(speaks), "sinks are topics, agents, and functions"),
        (lambda: a.app.agent(a.clicks, replies=int)(silent), "never yields"),
        (lambda: a.app.agent(a.clicks, out=a.found, batches=True, concurrency=2)(speaks), "start more workers"),
        (lambda: a.app.timer(0)(tick), "interval must be above 0"),
        (lambda: a.app.timer(1)(plain), "must be an async function"),  # type: ignore[arg-type]
    ]
    for declare, message in declarations:
        with pytest.raises(DefinitionError, match=message):
            declare()
