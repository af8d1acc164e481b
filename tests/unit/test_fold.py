"""Folds: which records are used, whatever they are read with; tables that outlive a crash; policies."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import enum
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import polars as pl
import pytest

import streamkit as sk
from streamkit.aggregate import OFFSET, PARTITION, TIME
from streamkit.cut import Cut
from streamkit.decode import Decoder
from streamkit.errors import AgentFailed, BadRecord, OffsetOutOfRange, StateMissing
from streamkit.fold import Fold
from streamkit.record import Record, RecordChunk
from streamkit.schema import row_of
from streamkit.testing.driver import Driver


class Kind(enum.Enum):
    small = "s"
    large = "l"


class Sale(msgspec.Struct):
    shop: str
    cents: int
    price: decimal.Decimal
    kind: Kind
    at: dt.datetime
    note: str | None = None


def sale(shop: str, cents: int, second: int, **more: Any) -> Sale:
    moment = dt.datetime(2026, 1, 1, 0, 0, second, tzinfo=dt.UTC)
    return Sale(shop, cents, decimal.Decimal(cents) / 100, Kind.small, moment, **more)


def make(**view: Any) -> tuple[sk.Topology, Any, Any]:
    app = sk.Topology("shops")
    sales = app.topic("sales", value=Sale, timestamp="at", key="shop")
    defaults: dict[str, Any] = {
        "key": "shop",
        "aggregates": {"n": sk.Count(), "price": sk.Sum("price"), "last": sk.Last("cents"), "kinds": sk.Top(2, "kind")},
    }
    return app, sales, app.view("v", sales, **{**defaults, **view})


def test_columns_say_what_rows_say_for_every_type_of_field() -> None:
    _, sales, view = make()
    values = [sale(f"s{n % 3}", n, n % 60) for n in range(100)]
    chunk = RecordChunk([Record("sales", 1, 10 + n, 0, None, sales.encode(v)) for n, v in enumerate(values)])
    decoded, rejected = Decoder(sales)(chunk)
    assert rejected == []
    states, bad = Fold(view).states([decoded])
    assert bad == []
    for shop in ("s0", "s1", "s2"):
        rows = [
            {**row_of(sales.schema, v), TIME: sales.time_of(v), PARTITION: 1, OFFSET: 10 + n}
            for n, v in enumerate(values)
            if v.shop == shop
        ]
        expected = tuple(a.fold(rows) for a in view.aggregates.values())
        assert next(state for slot, state in states[1].items() if slot.key == (shop,)) == expected


def test_a_row_that_an_expression_fails_on_is_found_and_the_rest_counts() -> None:
    names = {f"s{n}": n for n in range(3)}
    app, sales, view = make(
        key=pl.col("shop").replace_strict(names, return_dtype=pl.Int64).alias("number"), aggregates={"n": sk.Count()}
    )
    with Driver(app) as driver:
        driver.send(sales, *[sale(f"s{n % 3}", n, 0) for n in range(30)], sale("unknown", 1, 0), sale("s1", 2, 0))
        driver.catch_up()
        assert [driver.ask(view, n).value["n"] for n in range(3)] == [10, 11, 10]
        letters = driver.dead_letters(sales)
        assert [(x.kind, x.by, x.key) for x in letters] == [("view", "v", b"unknown")]
        result = driver.batch(view)
        assert (result.events, result.rejected) == (31, 1)
        proof = driver.prove(view)
        assert proof is not None
        assert proof.differences == 0


def test_an_integer_beyond_64_bits_is_a_dead_letter_of_the_view() -> None:
    app, sales, view = make(aggregates={"cents": sk.Sum("cents")})
    with Driver(app) as driver:
        driver.send(sales, sale("s", 2**63 - 1, 0), sale("s", 2**63 - 1, 1), sale("s", 2**70, 2))
        driver.catch_up()
        assert driver.ask(view, "s").value["cents"] == 2**64 - 2
        assert [x.kind for x in driver.dead_letters(sales)] == ["view"]


def test_a_tombstone_and_an_empty_value_are_dead_letters() -> None:
    app, sales, _ = make()
    with Driver(app) as driver:
        driver.send_bytes(sales, None, key=b"k")
        driver.send_bytes(sales, b"")
        driver.catch_up()
        assert sorted((x.value, x.key) for x in driver.dead_letters(sales) if x.value is None) == [(None, b"k")]
        assert len(driver.dead_letters(sales)) == 2


def test_the_policy_fail_names_the_record_in_both_layers() -> None:
    app = sk.Topology("strict")
    sales = app.topic("sales", value=Sale, timestamp="at", errors="fail")
    view = app.view("v", sales, key="shop", aggregates={"n": sk.Count()})
    with Driver(app) as driver:
        driver.send_bytes(sales, b"{}")
        with pytest.raises(BadRecord, match=r"sales/\d/0: not a Sale: .*missing required field"):
            driver.catch_up()
        with pytest.raises(BadRecord, match=r"sales/\d/0"):
            driver.batch(view, driver.end(view))


def test_a_cut_beyond_the_logs_end_is_refused() -> None:
    app, sales, view = make()
    with Driver(app) as driver:
        driver.send(sales, sale("a", 1, 0))
        end = driver.end(view)
        beyond = Cut(end.topic, end.topic_id, {p: offset + 1 for p, offset in end.offsets.items()})
        with pytest.raises(OffsetOutOfRange, match="is beyond the log's end"):
            driver.batch(view, beyond)


def test_a_table_moves_with_the_checkpoint() -> None:
    app, sales, _ = make()
    seen = app.table("seen", default=int)
    out = app.topic("counts", value=Sale, partitions=1)

    @app.agent(sales, out=out)
    async def count(events: AsyncIterator[Sale]) -> AsyncIterator[Sale]:
        async for event in events:
            seen[event.shop] += 1
            if event.shop == "gone":
                del seen[event.shop]
            yield msgspec.structs.replace(event, cents=seen.get(event.shop, -1), note=str(event.shop in seen))

    with Driver(app) as driver:
        driver.send(sales, sale("a", 0, 0), sale("a", 0, 1))
        driver.catch_up()
        driver.send(sales, sale("a", 0, 2), sale("gone", 0, 3))
        driver.step()
        driver.crash()
        driver.catch_up()
        found = [(v.shop, v.cents) for v in driver.values(out)]
        assert set(found) == {("a", 1), ("a", 2), ("a", 3), ("gone", -1)}


def test_an_output_of_the_wrong_type_stops_the_worker_and_says_where() -> None:
    app, sales, _ = make()
    out = app.topic("out", value=Sale)

    @app.agent(sales, out=out)
    async def wrong(events: AsyncIterator[Sale]) -> AsyncIterator[Any]:
        async for _ in events:
            yield "text"

    with Driver(app) as driver:
        driver.send(sales, sale("a", 0, 0))
        with pytest.raises(AgentFailed, match=r"agent 'wrong' yielded 'text' at sales/\d/0; expected Sale"):
            driver.catch_up()


def test_a_checkpoint_waits_for_the_agents() -> None:
    app, sales, view = make()
    out = app.topic("out", value=Sale, partitions=1)
    begun, gate = threading.Event(), threading.Event()

    @app.agent(sales, out=out)
    async def slow(events: AsyncIterator[Sale]) -> AsyncIterator[Sale]:
        async for event in events:
            begun.set()
            await asyncio.to_thread(gate.wait)
            yield event

    with Driver(app) as driver:
        driver.send(sales, sale("a", 1, 0))
        driver.step()
        assert begun.wait(10)
        checkpoint = threading.Thread(target=driver.checkpoint)
        checkpoint.start()
        try:
            checkpoint.join(0.3)
            assert checkpoint.is_alive()
            with pytest.raises(StateMissing):
                driver.ask(view, "a")  # nothing of it is durable yet
        finally:
            gate.set()
            checkpoint.join(10)
        assert driver.ask(view, "a").value["n"] == 1
        assert len(driver.values(out)) == 1
