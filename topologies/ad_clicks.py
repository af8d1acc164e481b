"""Clicks on advertisements: what each campaign shows, earns and reaches, per ten seconds, and an alert on a high price.

streamkit generate topologies/ad_clicks.py ad-events --count 1000000
streamkit worker topologies/ad_clicks.py
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Literal

import msgspec
import polars as pl

import streamkit as sk
from topologies.ad_events import rows

app = sk.Topology("ads")


class AdEvent(msgspec.Struct):
    """As in the Yahoo streaming benchmark, and with a price."""

    user_id: str
    page_id: str
    ad_id: str
    campaign_id: str
    ad_type: str
    event_type: Literal["view", "click", "purchase"]
    event_time: int  # milliseconds since the epoch
    ip_address: str
    price_micros: int  # millionths of a dollar


class Alert(msgspec.Struct):
    campaign_id: str
    ad_id: str
    event_time: int
    price_micros: int


ad_events = app.topic("ad-events", value=AdEvent, timestamp="event_time", key="campaign_id")
alerts = app.topic("alerts", value=Alert, timestamp="event_time", key="campaign_id")

campaign = app.view(
    "campaign",
    ad_events,
    key="campaign_id",
    window=sk.Tumbling(seconds=10),
    where=pl.col("event_type") == "view",
    aggregates={
        "views": sk.Count(),
        "spend": sk.Sum("price_micros"),
        "dearest": sk.Max("price_micros"),
        "reach": sk.Distinct("user_id"),
        "price": sk.Quantiles("price_micros"),
    },
    batch_every="1h",
    batch_full_every="1d",
)

funnel = app.view(
    "funnel",
    ad_events,
    key=["campaign_id", "event_type"],
    window=sk.Tumbling(seconds=10),
    aggregates={"events": sk.Count(), "spend": sk.Sum("price_micros")},
)


@app.agent(ad_events, out=alerts)
async def overspent(events: AsyncIterator[AdEvent]) -> AsyncIterator[Alert]:
    async for event in events:
        if event.price_micros > 5_000_000:
            yield Alert(event.campaign_id, event.ad_id, event.event_time, event.price_micros)


@app.generator(ad_events)
def traffic(seed: int, start: int, rate: float) -> Iterator[AdEvent]:
    return (AdEvent(*row) for row in rows(seed, start, rate))
