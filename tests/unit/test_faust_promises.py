"""What Faust's user guide promises of agents, each by a test: sinks, streams, tables. Calls: `test_faust_calls.py`.

What is refused is in `test_what_would_break_exactly_once_is_refused_with_the_way_out`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from streamkit.errors import DefinitionError
from streamkit.speed import tables
from streamkit.testing.driver import Driver
from tests.unit.promises import A, App, B, C, Click, Seen, clicks_of, settle

SOON = 10.0


# -- sinks -------------------------------------------------------------------------------------------------------------


def test_a_topic_may_be_a_sink(a: App) -> None:
    @a.app.agent(a.clicks, sinks=[a.found])
    async def forward(events: Any) -> Any:
        async for click in events:
            yield click

    with a.run(A, B, C) as driver:
        assert clicks_of(driver, a.found) == [A, C, B]


def test_a_function_may_be_a_sink_async_or_not(a: App) -> None:
    plain: list[Click] = []
    awaited: list[Click] = []

    async def later(click: Click) -> None:
        await asyncio.sleep(0)
        awaited.append(click)

    @a.app.agent(a.clicks, out=a.found, sinks=[plain.append, later])
    async def forward(events: Any) -> Any:
        async for click in events:
            yield click

    with a.run(A, B) as driver:
        assert sorted(plain, key=lambda c: c.cents) == sorted(awaited, key=lambda c: c.cents) == [A, B]
        assert clicks_of(driver, a.found) == [A, B]


def test_another_agent_may_be_a_sink(a: App) -> None:
    @a.app.agent(a.found, out=a.seen)
    async def count(events: Any) -> Any:
        async for click in events:
            yield Seen(click.user, click.cents)

    @a.app.agent(a.clicks, sinks=[count])
    async def forward(events: Any) -> Any:
        async for click in events:
            yield click

    with a.run(A, B) as driver:
        assert sorted(driver.values(a.seen), key=lambda s: s.count) == [Seen("ann", 1), Seen("bob", 2)]


def test_a_sink_that_fails_is_the_agents_failure_at_that_event(a: App) -> None:
    def picky(click: Click) -> None:
        if click == B:
            raise ValueError("not bob")

    @a.app.agent(a.clicks, out=a.found, sinks=[picky])
    async def forward(events: Any) -> Any:
        async for click in events:
            yield click

    with a.run(A, B, C) as driver:
        assert clicks_of(driver, a.found) == [A, C]
        assert [a.clicks.decode(letter.value or b"") for letter in driver.dead_letters(a.clicks)] == [B]


def test_outputs_of_every_sink_come_once_over_a_crash(a: App) -> None:
    @a.app.agent(a.clicks, sinks=[a.found])
    async def forward(events: Any) -> Any:
        async for click in events:
            yield click

    with Driver(a.app) as driver:
        driver.send(a.clicks, A, B, C)
        driver.step()
        driver.settle()
        driver.crash()
        driver.catch_up()
        assert clicks_of(driver, a.found) == [A, C, B]


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (lambda e: e.items(), [(b"ann", A), (b"ann", C)]),
        (lambda e: e.enumerate(start=1), [(1, A), (2, C)]),
        (lambda e: e.filter(lambda c: c.page == "shop"), [C]),
        (lambda e: e.take(2, within=SOON), [[A, C]]),
    ],
    ids=["items: keys and values", "enumerate", "filter", "take: lists"],
)
def test_a_stream_has(a: App, stream: Callable[[Any], Any], expected: list[Any]) -> None:
    got: list[Any] = []

    @a.app.agent(a.clicks)
    async def collect(events: Any) -> None:
        async for item in stream(events):
            got.append(item)

    with a.run(A, C):
        assert got == expected


def test_a_filter_may_be_async(a: App) -> None:
    async def is_shop(click: Click) -> bool:
        await asyncio.sleep(0)
        return click.page == "shop"

    @a.app.agent(a.clicks, out=a.found)
    async def shop(events: Any) -> Any:
        async for click in events.filter(is_shop):
            yield click

    with a.run(A, B, C) as driver:
        assert driver.values(a.found) == [C]


def test_events_have_key_headers_timestamp_and_place(a: App) -> None:
    seen: list[Any] = []

    @a.app.agent(a.clicks)
    async def look(events: Any) -> None:
        async for event in events.events():
            seen.append((event.key, list(event.headers), event.source.topic, event.offset, event.value))

    with Driver(a.app) as driver:
        driver.send_bytes(a.clicks, a.clicks.encode(A), key=b"k", headers=[("trace", b"1")])
        driver.catch_up()
        assert seen == [(b"k", [("trace", b"1")], "clicks", 0, A)]


def test_echo_sends_events_on_and_goes_on_with_them(a: App) -> None:
    @a.app.agent(a.clicks, out=a.seen)
    async def count(events: Any) -> Any:
        async for click in events.echo(a.found):
            yield Seen(click.user, click.cents)

    with a.run(A, C) as driver:
        assert driver.values(a.found) == [A, C]
        assert driver.values(a.seen) == [Seen("ann", 1), Seen("ann", 3)]


def test_group_by_brings_a_keys_events_to_one_partition(a: App) -> None:
    by_page = a.app.group_by(a.clicks, "page")
    table = a.app.table("pages", default=int)

    @a.app.agent(by_page, out=a.seen)
    async def count(events: Any) -> Any:
        async for click in events:
            table[click.page] += 1
            yield Seen(click.page, table[click.page])

    with Driver(a.app) as driver:
        for i in range(30):  # many users, so that each page's clicks lie in both partitions
            driver.send(a.clicks, Click(f"user-{i}", "home" if i % 3 else "shop"))
        driver.step()
        driver.checkpoint()
        driver.step()
        driver.crash()  # what was read of the topic in between comes again, and no more
        settle(driver)
        counts: dict[str, list[int]] = {}
        for seen in driver.values(a.seen):
            counts.setdefault(seen.user, []).append(seen.count)
        assert counts == {"home": list(range(1, 21)), "shop": list(range(1, 11))}
        assert {r.key for r in driver.records(by_page.name)} == {b"home", b"shop"}


def test_group_by_takes_a_function(a: App) -> None:
    grouped = a.app.group_by(a.clicks, lambda click: click.cents % 2, name="parity")

    with a.run(A, B, C) as driver:
        assert sorted((r.key, a.clicks.decode(r.value or b"").cents) for r in driver.records(grouped.name)) == [
            (b"0", 2),
            (b"1", 1),
            (b"1", 3),
        ]
    with pytest.raises(DefinitionError, match="needs a name="):
        a.app.group_by(a.clicks, lambda click: click.cents)


def test_an_event_that_group_by_fails_on_is_a_dead_letter(a: App) -> None:
    grouped = a.app.group_by(a.clicks, lambda click: 1 // (click.cents - 2), name="odd")

    with a.run(A, B, C) as driver:
        assert clicks_of(driver, grouped) == [A, C]
        assert [a.clicks.decode(letter.value or b"") for letter in driver.dead_letters(a.clicks)] == [B]


@pytest.mark.parametrize(
    ("use", "way_out"),
    [
        (lambda e: e.group_by("page"), r"app\.group_by\(topic, 'page'\)"),
        (lambda e: e.through("other"), "Make it two agents"),
        (lambda e: e.noack(), "raise: with errors="),
        (lambda e: e & e, "yield to one out= topic"),
        (lambda e: e.join(), "yield to one out= topic"),
    ],
)
def test_what_would_break_exactly_once_is_refused_with_the_way_out(a: App, use: Any, way_out: str) -> None:
    told: list[str] = []

    @a.app.agent(a.clicks)
    async def wrong(events: Any) -> None:
        try:
            use(events)
        except DefinitionError as error:
            told.append(str(error))
        async for _ in events:
            pass

    with a.run(A):
        pass
    assert [bool(re.search(way_out, message)) for message in told] == [True]


# -- tables ------------------------------------------------------------------------------------------------------------


def declare_counts(a: App) -> None:
    """An agent that counts each user's clicks in a Table."""
    table = a.app.table("counts", default=int)

    @a.app.agent(a.clicks, out=a.seen)
    async def count(events: Any) -> Any:
        async for click in events:
            table[click.user] += 1
            yield Seen(click.user, table[click.user])


def test_a_table_survives_and_is_counted_once(a: App) -> None:
    declare_counts(a)
    with Driver(a.app) as driver:
        driver.send(a.clicks, A)
        driver.catch_up()
        driver.send(a.clicks, C)
        driver.step()
        driver.settle()
        driver.crash()
        driver.catch_up()
        driver.lose_disk()
        driver.send(a.clicks, A)
        driver.catch_up()
        assert driver.values(a.seen) == [Seen("ann", n) for n in (1, 2, 3)]


def test_a_table_may_be_larger_than_what_stays_in_memory(a: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_KEPT", 2)
    declare_counts(a)
    with Driver(a.app) as driver:
        for n in range(1, 4):
            for half in (range(4), range(4, 8)):
                driver.send(a.clicks, *(Click(f"user-{i}", "home") for i in half))
                driver.catch_up()
            assert {s.user for s in driver.values(a.seen) if s.count == n} == {f"user-{i}" for i in range(8)}
        held = [len(part.values) for parts in driver.worker._tasks.tables._parts.values() for part in parts.values()]
        assert sum(held) == 4


@pytest.mark.parametrize("key", ["text", 7, b"text", ("text", 7), True, -1])
def test_table_keys_are_told_apart_by_their_type(a: App, key: Any) -> None:
    table = a.app.table("by", default=int)
    others = [k for k in ("text", 7, b"text", ("text", 7), True, 1, -1) if k is not key and type(k) is not type(key)]
    got: list[Any] = []

    @a.app.agent(a.clicks)
    async def use(events: Any) -> None:
        async for click in events:
            if click == A:
                table[key] = 5
            got.append((table[key], [table[other] for other in others]))
            if click == C:
                del table[key]
                got.append(key in table)

    with Driver(a.app) as driver:
        driver.send(a.clicks, A)
        driver.catch_up()
        driver.crash()  # what comes now is read from the store
        driver.send(a.clicks, C)
        driver.catch_up()
    assert got == [(5, [0] * len(others)), (5, [0] * len(others)), False]
