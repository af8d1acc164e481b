"""The topology that tests of what Faust promises declare their agents on."""

from __future__ import annotations

from typing import Any

import msgspec

import streamkit as sk
from streamkit.testing.driver import Driver
from streamkit.topic import Topic

SOON = 10.0


class Click(msgspec.Struct, frozen=True):
    user: str
    page: str
    cents: int = 0


class Seen(msgspec.Struct, frozen=True):
    user: str
    count: int


class App:
    """A topology with a topic in, a topic out and one in another shape."""

    def __init__(self, **options: Any) -> None:
        self.app = sk.Topology("promises")
        self.clicks = self.app.topic("clicks", value=Click, key="user", partitions=2, **options)
        self.found = self.app.topic("found", value=Click, key="user", partitions=1)
        self.seen = self.app.topic("seen", value=Seen, key="user", partitions=1)

    def run(self, *clicks: Click) -> Driver:
        driver = Driver(self.app)
        driver.send(self.clicks, *clicks)
        settle(driver)
        return driver


def settle(driver: Driver) -> None:
    """To the log's end, and to the end of what came of it on the topics in between."""
    driver.catch_up()
    driver.catch_up()


A, B, C = Click("ann", "home", 1), Click("bob", "home", 2), Click("ann", "shop", 3)


def clicks_of(driver: Driver, topic: Topic) -> list[Click]:
    return sorted(driver.values(topic), key=lambda c: (c.user, c.cents))
