"""Agents that ask for columns: what a frame holds, and that a failed one is undone and tried in halves."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from decimal import Decimal
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamkit as sk
from streamkit.agent import KEY
from streamkit.aggregate import OFFSET, PARTITION, TIME
from streamkit.errors import AgentFailed
from streamkit.testing.driver import Driver


class Click(msgspec.Struct, frozen=True):
    user: str
    cents: int
    at: int = 0
    tags: dict[str, str] = {}


class Sum(msgspec.Struct, frozen=True, rename="camel"):
    user_name: str
    cents: int
    price: Decimal | None = None
    day: dt.datetime | None = None


class Box:
    """A value that is changed in place."""

    def __init__(self) -> None:
        self.items: list[int] = []

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and other.items == self.items


def app_of(errors: Any = "dead_letter") -> tuple[sk.Topology, Any, Any]:
    app = sk.Topology("columns")
    clicks = app.topic("clicks", value=Click, key="user", timestamp="at", partitions=2, errors=errors)
    return app, clicks, app.topic("sums", value=Sum, key="user_name", partitions=1)


def test_a_frame_has_the_fields_and_the_records_place() -> None:
    app, clicks, _ = app_of()
    frames: list[pl.DataFrame] = []

    @app.agent(clicks, batches=True)
    async def look(batches: Any) -> None:
        async for frame in batches:
            frames.append(frame)

    with Driver(app) as driver:
        driver.send(clicks, Click("ann", 1, 10, {"a": "b"}), Click("ann", 2, 20))
        driver.send_bytes(clicks, b"no click", key=b"ann")
        driver.send(clicks, Click("ann", 3, 30))
        driver.catch_up()
        place = next(r.partition for r in driver.records("clicks"))
    (frame,) = frames
    assert frame.drop(KEY, TIME, PARTITION, OFFSET).to_dict(as_series=False) == {
        "user": ["ann"] * 3,
        "cents": [1, 2, 3],
        "at": [10, 20, 30],
    }
    assert frame.select(KEY, TIME, PARTITION, OFFSET).rows() == [
        (b"ann", t, place, o) for t, o in ((10, 0), (20, 1), (30, 3))
    ]
    assert frame.schema[KEY] == pl.Binary
    assert {frame.schema[name] for name in (TIME, PARTITION, OFFSET)} == {pl.Int64}


def test_the_rows_of_a_yielded_frame_are_outputs() -> None:
    app, clicks, sums = app_of()

    @app.agent(clicks, out=sums, batches=True)
    async def add(batches: Any) -> Any:
        async for frame in batches:
            day = pl.lit(86_400_000).cast(pl.Int64)
            yield (
                frame.group_by(pl.col("user").alias("user_name"))
                .agg(pl.col("cents").sum(), pl.lit("1.5").alias("price"), day.first().alias("day"))
                .sort("user_name")
            )
            yield Sum("total", frame.height)

    with Driver(app) as driver:
        driver.send(clicks, Click("ann", 1), Click("ann", 2))
        driver.catch_up()
        second = dt.datetime(1970, 1, 2, tzinfo=dt.UTC)
        assert driver.values(sums) == [Sum("ann", 3, Decimal("1.5"), second), Sum("total", 2)]
        assert {r.key for r in driver.records("sums")} == {b"ann", b"total"}
        assert driver.worker.counters.emitted == 2


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["user"], "no column but fields of Sum: select without user"),
        (["cents"], "rows that are Sum for topic 'sums'.*userName"),
        ([pl.lit("x").alias("cents"), pl.col("user").alias("user_name")], "rows that are Sum .*`int`, got `str`"),
    ],
)
def test_rows_that_are_none_of_the_topics_stop_the_worker(columns: Any, expected: str) -> None:
    app, clicks, sums = app_of()

    @app.agent(clicks, out=sums, batches=True)
    async def wrong(batches: Any) -> Any:
        async for frame in batches:
            yield frame.select(columns)

    with Driver(app) as driver:
        driver.send(clicks, Click("ann", 1))
        with pytest.raises(AgentFailed, match=f"(?s)agent 'wrong' yielded.*expected {expected}"):
            driver.catch_up()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40),
    st.lists(st.integers(1, 15), min_size=1, max_size=4),
)
def test_nothing_is_lost_and_nothing_counted_twice(events: list[tuple[str, bool]], steps: list[int]) -> None:
    """Whatever events it fails on, and however they are batched: those are dead letters, all others count once."""
    app, clicks, sums = app_of()
    counts, boxes = app.table("counts", default=int), app.table("boxes", default=Box, pickle=True)

    @app.agent(clicks, out=sums, batches=True)
    async def add(batches: Any) -> Any:
        async for frame in batches:
            for user, cents in frame.select("user", "cents").iter_rows():
                counts[user] += 1
                box = boxes[user]
                box.items.append(abs(cents))
                boxes[user] = box
                yield Sum(user, abs(cents))
                if cents < 0:
                    raise ValueError(f"bad {cents}")
            assert all(len(boxes[user].items) == counts[user] for user in "abc")

    sent = [Click(user, (-1 if bad else 1) * (i + 1)) for i, (user, bad) in enumerate(events)]
    good, bad = [c for c in sent if c.cents > 0], [c for c in sent if c.cents < 0]
    with Driver(app) as driver:
        driver.send(clicks, *sent)
        for i, size in enumerate(steps):
            driver.step(size)
            driver.step(size)  # what waits is of two polls: a frame is cut across them
            if i % 2:
                driver.checkpoint()
            else:
                driver.settle()
                driver.crash()
        driver.catch_up()
        assert Counter(driver.values(sums)) == Counter(Sum(c.user, c.cents) for c in good)
        failed = [clicks.decode(letter.value or b"") for letter in driver.dead_letters(clicks)]
        assert sorted(failed, key=lambda c: c.cents) == sorted(bad, key=lambda c: c.cents)
        held = {r.user_name: r.cents for r in driver.values(sums)}
        assert held.keys() == {c.user for c in good}


def test_a_failed_frame_leaves_tables_as_they_were() -> None:
    app, clicks, sums = app_of("skip")
    boxes, gone = app.table("boxes", default=Box, pickle=True), app.table("gone", default=int)

    @app.agent(clicks, out=sums, batches=True)
    async def add(batches: Any) -> Any:
        async for frame in batches:
            for cents in frame["cents"]:
                box = boxes["all"]
                box.items.append(cents)
                boxes["all"] = box
                gone["key"] = 1
                if cents == 3:
                    del gone["key"]
                    raise ValueError
            yield Sum(",".join(map(str, boxes["all"].items)), gone["key"])

    with Driver(app) as driver:
        driver.send(clicks, *(Click("ann", cents) for cents in (1, 2, 3, 4)))
        driver.catch_up()
        driver.crash()
        driver.send(clicks, Click("ann", 5))
        driver.catch_up()
        assert driver.values(sums) == [Sum("1,2", 1), Sum("1,2,4", 1), Sum("1,2,4,5", 1)]


def test_a_sink_that_fails_is_the_frames_failure_and_nothing_of_it_was_sent() -> None:
    app, clicks, sums = app_of()

    def picky(value: Sum) -> None:
        if value.cents == 3:
            raise ValueError("not three")

    @app.agent(clicks, out=sums, sinks=[picky], batches=True)
    async def forward(batches: Any) -> Any:
        async for frame in batches:
            for cents in frame["cents"]:
                yield Sum("n", cents)

    with Driver(app) as driver:
        driver.send(clicks, *(Click("ann", cents) for cents in range(6)))
        driver.catch_up()
        assert sorted(s.cents for s in driver.values(sums)) == [0, 1, 2, 4, 5]
        assert [letter.offset for letter in driver.dead_letters(clicks)] == [3]


def test_a_number_beyond_64_bits_is_one_dead_letter() -> None:
    app, clicks, sums = app_of()

    @app.agent(clicks, out=sums, batches=True)
    async def add(batches: Any) -> Any:
        async for frame in batches:
            yield Sum("n", frame.height)

    with Driver(app) as driver:
        driver.send(clicks, Click("ann", 1), Click("ann", 2**70), Click("ann", 3))
        driver.catch_up()
        assert sum(s.cents for s in driver.values(sums)) == 2
        (letter,) = driver.dead_letters(clicks)
        assert (letter.kind, letter.by, letter.offset) == ("agent", "add", 1)


def test_the_policy_to_fail_names_the_event() -> None:
    app, clicks, _ = app_of("fail")

    @app.agent(clicks, batches=True)
    async def picky(batches: Any) -> None:
        async for frame in batches:
            if (frame["cents"] == 7).any():
                raise ValueError("seven")

    with Driver(app) as driver:
        driver.send(clicks, *(Click("ann", cents) for cents in range(10)))
        with pytest.raises(AgentFailed, match=r"agent 'picky' failed at clicks/\d/7: ValueError\('seven'\)"):
            driver.catch_up()


def test_one_that_returns_is_started_again_with_the_next_frame() -> None:
    app, clicks, sums = app_of()

    @app.agent(clicks, out=sums, batches=True)
    async def one(batches: Any) -> Any:
        async for frame in batches:
            yield Sum("n", frame.height)
            return

    with Driver(app) as driver:
        for n in (1, 2):
            driver.send(clicks, *(Click("ann", cents) for cents in range(n)))
            driver.catch_up()
        assert [s.cents for s in driver.values(sums)] == [1, 2]
