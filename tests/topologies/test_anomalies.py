"""The anomaly topology on the real series: what it finds, the same over a crash, and its baseline."""

from __future__ import annotations

import csv
import datetime as dt
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, variance

import pytest

from streamkit.schema import milliseconds
from streamkit.testing.driver import Driver
from topologies import anomalies
from topologies.anomalies import Anomaly, Point

FOLDER = Path(anomalies.__file__).parent / "data" / "nab"


def points() -> list[Point]:
    found = []
    for path in sorted(FOLDER.glob("*.csv")):
        with path.open() as file:
            for row in csv.DictReader(file):
                found.append(Point(path.stem, dt.datetime.fromisoformat(row["timestamp"]), float(row["value"])))
    return found


@pytest.fixture(scope="module")
def data() -> list[Point]:
    return points()


@pytest.fixture
def driver() -> Iterator[Driver]:
    with Driver(anomalies.app) as driver:
        yield driver


def found(driver: Driver) -> set[str]:
    return {str(a) for a in driver.values(anomalies.anomalies)}


def test_most_labelled_windows_are_hit_with_few_false_alarms(driver: Driver, data: list[Point]) -> None:
    driver.send(anomalies.metrics, *data)
    driver.catch_up()
    judged = anomalies.judge(driver.values(anomalies.anomalies))
    assert len(judged) == 6
    assert sum(v.labelled for v in judged) == 14
    assert sum(v.hit for v in judged) >= 10
    assert sum(len(v.outside) for v in judged) <= 9  # of 9,610 points


def test_a_crash_changes_no_anomaly(driver: Driver, data: list[Point]) -> None:
    driver.send(anomalies.metrics, *data)
    while driver.worker.counters.events < 5_000:
        driver.step(1_000)
        driver.checkpoint()
        driver.step(500)
        before = driver.worker.counters.events
        driver.crash()
        driver.worker.counters.events = before
    driver.catch_up()
    with Driver(anomalies.app) as undisturbed:
        undisturbed.send(anomalies.metrics, *data)
        undisturbed.catch_up()
        assert found(driver) == found(undisturbed)
        assert len(found(driver)) > 10


def test_a_score_depends_on_the_past_alone(data: list[Point]) -> None:
    series = [p for p in data if p.series == "exchange-3_cpm"]
    whole, part = anomalies.Detector(), anomalies.Detector()
    scores = [whole.score(p.value) for p in series]
    assert [part.score(p.value) for p in series[:700]] == scores[:700]


def test_the_baseline_is_the_series_own_distribution(driver: Driver, data: list[Point]) -> None:
    driver.send(anomalies.metrics, *data)
    driver.catch_up()
    week = 7 * 86_400_000
    slots: dict[tuple[str, int], list[float]] = {}
    for point in data:
        slots.setdefault((point.series, milliseconds(point.timestamp) // week * week), []).append(point.value)
    scanned = {(a.key[0], a.window[0]): a.value for a in driver.scan(anomalies.baseline) if a.window}
    assert scanned.keys() == slots.keys()
    for slot, values in slots.items():
        assert scanned[slot]["points"] == len(values)
        assert math.isclose(scanned[slot]["mean"], fmean(values))
        if len(values) > 1:
            assert math.isclose(scanned[slot]["variance"], variance(values))


def test_an_anomaly_sent_twice_is_judged_once() -> None:
    moment = dt.datetime(2011, 7, 14, 10)
    twice = [Anomaly("exchange-3_cpc", moment, 1.0, 9.0)] * 2
    verdict = next(v for v in anomalies.judge(twice) if v.series == "exchange-3_cpc")
    assert (verdict.hit, len(verdict.inside), len(verdict.outside)) == (1, 1, 0)
