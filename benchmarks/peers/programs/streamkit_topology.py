"""The topology of StreamKit's jobs. What it is called and what it reads is in the Task of this process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import polars as pl

import streamkit as sk
from benchmarks.peers.task import Welford, told
from streamkit.topology import Topology

TASK = told()
CAMPAIGNS = TASK.campaigns()
ONLY_VIEWS = pl.col("event_type") == "view"
CAMPAIGN = pl.col("ad_id").replace_strict(CAMPAIGNS, default=None, return_dtype=pl.String)


class AdEvent(msgspec.Struct):
    user_id: str
    page_id: str
    ad_id: str
    ad_type: str
    event_type: str
    event_time: int
    ip_address: str
    price: int


app: Topology = sk.Topology(
    TASK.group,
    guarantee="at_least_once" if TASK.settings.get("guarantee") == "at_least_once" else "exactly_once",
    checkpoint=TASK.settings.get("checkpoint", "1s"),
)
events = app.topic(TASK.topic, value=AdEvent, timestamp="event_time")
stats = app.table("stats", default=lambda: (0, 0.0, 0.0), value=tuple[int, float, float])

if TASK.job in ("views", "latency"):
    app.view(
        "job", events, key=CAMPAIGN, window=sk.Tumbling(seconds=10), where=ONLY_VIEWS, aggregates={"n": sk.Count()}
    )
elif TASK.job == "unique":
    app.view("job", events, key="page_id", aggregates={"n": sk.Count()})
elif TASK.job == "heavy":
    app.view(
        "job", events, key=CAMPAIGN, window=sk.Hopping(seconds=60, every=10), where=ONLY_VIEWS,
        aggregates={
            "n": sk.Count(), "spend": sk.Sum("price"), "least": sk.Min("price"), "most": sk.Max("price"),
            "users": sk.Distinct("user_id"), "price": sk.Quantiles("price", at=(0.5,)),
        },
    )  # fmt: skip
elif TASK.job == "agent":

    @app.agent(events)
    async def deviation(views: AsyncIterator[AdEvent]) -> None:
        async for event in views:
            if event.event_type == "view":
                campaign = CAMPAIGNS[event.ad_id]
                stats[campaign] = Welford.add(stats[campaign], event.price)
