"""The topology that the life tests run: one View for every kind of window, and an Agent with a Table."""

from __future__ import annotations

from typing import Any

import msgspec

import streamkit as sk
from tests.life import oracle


class Click(msgspec.Struct):
    campaign: str
    user: str
    cents: int
    at: int


class Alert(msgspec.Struct):
    campaign: str
    seen: int


def topology(topic: str = "clicks", *, name: str = "life", **options: Any) -> sk.Topology:
    app = sk.Topology(name, **options)
    clicks = app.topic(topic, value=Click, timestamp="at", key="user", partitions=3)
    alerts = app.topic(f"{topic}.alerts", value=Alert, partitions=1)
    seen = app.table("seen", default=int)
    aggregates: dict[str, sk.Aggregate[Any, Any]] = {
        "clicks": sk.Count(),
        "cents": sk.Sum("cents"),
        "dearest": sk.Max("cents"),
        "users": sk.Distinct("user"),
    }
    in_columns = {name: aggregate for name, aggregate in aggregates.items() if name != "users"}  # see speed.pending
    app.view("tumbling", clicks, key="campaign", window=sk.Tumbling(seconds=10), aggregates=aggregates)
    app.view("hopping", clicks, key="campaign", window=sk.Hopping(seconds=20, every=10), aggregates=in_columns)
    app.view("session", clicks, key="campaign", window=sk.Session(seconds=5), aggregates=aggregates)
    app.view("total", clicks, key="campaign", aggregates=aggregates)

    @app.agent(clicks, out=alerts)
    async def every_third(events: Any) -> Any:
        async for click in events:
            seen[click.user] += 1
            if seen[click.user] % 3 == 0:
                yield Alert(click.campaign, seen[click.user])

    return app


def expected(view: str, events: list[dict[str, Any]]) -> oracle.Expected:
    """What the plain loop says the View holds."""
    loops = {
        "tumbling": lambda: oracle.tumbling(events, 10_000),
        "hopping": lambda: oracle.hopping(events, 20_000, 10_000),
        "session": lambda: oracle.sessions(events, 5_000),
        "total": lambda: oracle.unbounded(events),
    }
    users = view != "hopping"
    return oracle.results(
        loops[view](), lambda s: {n: len(v) if n == "users" else v for n, v in s.items() if users or n != "users"}
    )


def answers(scanned: Any) -> oracle.Expected:
    return {(a.key[0], a.window): dict(a.value) for a in scanned}
