"""MapReduce jobs over one test's clicks: tasks that die or are slow once, and results that are served or sent."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

import streamkit as sk
from tests.life.app import Click

app = sk.Topology(os.environ["LIFE_NAME"])
clicks = app.topic(os.environ["LIFE_TOPIC"], value=Click, key="user", timestamp="at")
MARK = Path(os.environ.get("MAPREDUCE_MARK", "none"))
"""A file that the first task to fail makes, so that it is the only one."""


class Total(msgspec.Struct):
    campaign: str
    cents: int


totals_topic = app.topic(f"{clicks.name}-totals", value=Total, key="campaign", partitions=2)


class Cents:
    def map(self, click: Click) -> Iterator[tuple[str, int]]:
        yield click.campaign, click.cents

    def combine(self, _: str, cents: Iterable[int]) -> int:
        return sum(cents)

    def reduce(self, campaign: str, cents: Iterable[int]) -> tuple[str, int]:
        return campaign, sum(cents)


class ToTopic(Cents):
    def reduce(self, campaign: str, cents: Iterable[int]) -> tuple[str, Total]:  # type: ignore[override]
        return campaign, Total(campaign, sum(cents))


def once(fail: Callable[[], object]) -> type[Cents]:
    class Once(Cents):
        def map(self, click: Click) -> Iterator[tuple[str, int]]:
            try:
                MARK.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                fail()
            yield from super().map(click)

    return Once


def bad(click: Click) -> Iterator[tuple[str, int]]:
    yield click.campaign, 1 // (click.cents - 499)


spend = app.mapreduce(clicks, key="campaign", served=True, name="spend")(Cents)
totals = app.mapreduce(clicks, out=totals_topic, name="totals")(ToTopic)
dies = app.mapreduce(clicks, name="dies")(once(lambda: os.kill(os.getpid(), signal.SIGKILL)))
straggles = app.mapreduce(clicks, name="straggles")(once(threading.Event().wait))
fails = app.mapreduce(clicks, name="fails", reduce=lambda campaign, ones: (campaign, sum(ones)))(bad)
