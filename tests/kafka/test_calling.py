"""Agents on a real Kafka: asked from outside, cast to by a timer, and behind a `group_by`, on columns."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import msgspec

import streamkit as sk
from streamkit.cli.options import create_topics
from streamkit.interval import Pacer
from streamkit.log.kafka import KafkaLog
from streamkit.log.scan import read_all
from streamkit.settings import Connection
from streamkit.speed.run import Run
from streamkit.speed.worker import Worker
from streamkit.store.memory import MemoryStore
from streamkit.topic import Topic

SOON = 30.0


class Order(msgspec.Struct):
    user: str
    item: str


class Sold(msgspec.Struct):
    item: str
    count: int


@contextmanager
def working(app: sk.Topology, log: KafkaLog) -> Iterator[None]:
    stop = threading.Event()
    run = Run(lambda: Worker(app, log, MemoryStore()), Pacer(app.pace), stop=stop, began=time.monotonic())
    thread = threading.Thread(target=run.run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def most(log: KafkaLog, topic: Topic) -> int:
    """The highest count on a topic of Sold."""
    there = topic.name in log.topics()
    values = [topic.decode(r.value or b"") for r in read_all(log, topic.name)] if there else []
    return max((value.count for value in values), default=0)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end


def test_an_agent_is_asked_and_its_outputs_are_regrouped(brokers: str, unique: Callable[[str], str]) -> None:
    app = sk.Topology(unique("shop"), checkpoint="50ms")
    orders = app.topic(unique("orders"), value=Order, key="user", partitions=2)
    done = app.topic(unique("done"), value=Order, key="user", partitions=2)
    sold = app.topic(unique("sold"), value=Sold, key="item", partitions=1)
    by_item = app.group_by(done, "item")
    counts = app.table("counts", default=int)

    @app.agent(orders, out=done)
    async def accept(events: Any) -> Any:
        async for order in events:
            yield order

    @app.agent(by_item, out=sold, batches=True)
    async def count(batches: Any) -> Any:
        async for frame in batches:
            for item, found in frame["item"].value_counts().iter_rows():
                counts[item] += found
                yield Sold(item, counts[item])

    cast = threading.Event()

    @app.timer(0.2)
    async def once() -> None:  # of an idle worker: nothing else asks for a Checkpoint
        if not cast.is_set():
            cast.set()
            await accept.cast(Order("timer", "tea"))

    async def ask() -> None:
        sent = [Order(f"user-{i}", "tea") for i in range(20)]
        assert await accept.join(sent, timeout=SOON) == sent

    with closing(KafkaLog(Connection(brokers))) as log:
        create_topics(log, app)
        with working(app, log):
            wait_for(lambda: most(log, sold) == 1)
            with sk.calling(app, brokers=brokers):
                asyncio.run(ask())
            wait_for(lambda: most(log, sold) == 21)
        assert {r.key for r in read_all(log, sold.name)} == {b"tea"}
