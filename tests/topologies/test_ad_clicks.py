"""The ad topology against a plain loop over the same events: late ones, a crash, a batch, and both after another."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice, pairwise
from statistics import quantiles
from typing import Any

import pytest

from streamkit.testing.driver import Driver
from topologies import ad_clicks
from topologies.ad_clicks import AdEvent, Alert

START = 1_700_000_000_000


def traffic(seed: int, count: int) -> list[AdEvent]:
    """Made-up events, 100 a second, so that a few thousand fill several windows."""
    return list(islice(ad_clicks.traffic(seed, START, 100.0), count))


def by_slot(events: Iterable[AdEvent], *fields: str) -> dict[tuple[Any, ...], list[AdEvent]]:
    slots: dict[tuple[Any, ...], list[AdEvent]] = {}
    for event in events:
        start = event.event_time // 10_000 * 10_000
        slots.setdefault((*(getattr(event, f) for f in fields), start), []).append(event)
    return slots


def check_campaign(driver: Driver, events: list[AdEvent]) -> None:
    views = by_slot((e for e in events if e.event_type == "view"), "campaign_id")
    scanned = {(*a.key, a.window[0]): a for a in driver.scan(ad_clicks.campaign) if a.window}
    assert scanned.keys() == views.keys()
    for slot, own in views.items():
        answer, prices = scanned[slot], [e.price_micros for e in own]
        value = dict(answer.value)
        median = value.pop("price")["0.5"]
        assert value == {
            "views": len(own),
            "spend": sum(prices),
            "dearest": max(prices),
            "reach": len({e.user_id for e in own}),
        }
        if len(prices) > 20:
            low, high = (quantiles(prices, n=100)[i] for i in (44, 54))
            assert low <= median <= high
        assert answer.lag == 0


def check_funnel(driver: Driver, events: list[AdEvent]) -> None:
    expected = {
        slot: {"events": len(own), "spend": sum(e.price_micros for e in own)}
        for slot, own in by_slot(events, "campaign_id", "event_type").items()
    }
    assert {(*a.key, a.window[0]): dict(a.value) for a in driver.scan(ad_clicks.funnel) if a.window} == expected


@pytest.fixture
def driver() -> Any:
    with Driver(ad_clicks.app) as driver:
        yield driver


def test_speed_alone_batch_alone_and_both_are_the_plain_loop(driver: Driver) -> None:
    first, second = traffic(1, 3_000), traffic(2, 1_500)
    driver.send(ad_clicks.ad_events, *first)
    driver.step(1_000)
    driver.checkpoint()
    driver.step(1_000)
    driver.crash()
    driver.catch_up()
    check_campaign(driver, first)
    check_funnel(driver, first)
    for view in (ad_clicks.campaign, ad_clicks.funnel):
        driver.seal(view)
        driver.checkpoint()
        driver.batch(view)
        proof = driver.prove(view)
        assert proof is not None
        assert proof.differences == 0
        driver.publish(view)
    check_campaign(driver, first)
    driver.send(ad_clicks.ad_events, *second)
    driver.catch_up()
    check_campaign(driver, first + second)
    check_funnel(driver, first + second)


def test_there_are_late_events_and_they_land_in_their_window() -> None:
    events = traffic(1, 3_000)
    late = [b for a, b in pairwise(events) if b.event_time < a.event_time - 10_000]
    assert len(late) > 10


def test_a_high_price_raises_an_alert_and_no_other_does(driver: Driver) -> None:
    events = traffic(3, 4_000)
    driver.send(ad_clicks.ad_events, *events)
    driver.catch_up()
    due = [Alert(e.campaign_id, e.ad_id, e.event_time, e.price_micros) for e in events if e.price_micros > 5_000_000]
    assert due
    found = driver.values(ad_clicks.alerts)
    assert sorted(map(str, found)) == sorted(map(str, due))


def test_one_seed_gives_one_traffic() -> None:
    assert traffic(5, 500) == traffic(5, 500)
    assert traffic(5, 500) != traffic(6, 500)


def test_an_event_has_about_240_bytes_of_json() -> None:
    sizes = [len(ad_clicks.ad_events.encode(e)) for e in traffic(1, 500)]
    assert 220 <= sum(sizes) / len(sizes) <= 300
