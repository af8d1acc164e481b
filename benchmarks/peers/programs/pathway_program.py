"""Pathway: Kafka connector, expressions and a group_by, all in its Rust engine; the lookup is a call of Python."""

from __future__ import annotations

from typing import Any

import pathway as pw

from benchmarks.peers.task import WINDOW_MS, Said, finish, told

TASK = told()
CAMPAIGNS = TASK.campaigns()


class Event(pw.Schema):
    user_id: str
    page_id: str
    ad_id: str
    event_type: str
    event_time: int
    price: int


def result(events: Any) -> Any:
    if TASK.job == "unique":
        pages = events.groupby(events.page_id).reduce(n=pw.reducers.count())
        return pages.reduce(key="keys", window=pw.reducers.count(), n=pw.reducers.sum(pages.n))
    views = events.filter(events.event_type == "view")
    views = views.select(
        key=pw.apply_with_type(CAMPAIGNS.__getitem__, str, views.ad_id),
        window=views.event_time // WINDOW_MS * WINDOW_MS,
    )
    return views.groupby(views.key, views.window).reduce(views.key, views.window, n=pw.reducers.count())


class Results:
    """The newest row of each key and window, and how much they count together."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, int], int] = {}
        self.counted, self.keys, self.said = 0, 0, Said(TASK.total)

    def change(self, key: Any, row: dict[str, Any], time: int, is_addition: bool) -> None:
        del key, time
        if is_addition and TASK.job == "unique":
            self.keys, self.counted = row["window"], row["n"]
        elif is_addition:
            where = row["key"], row["window"]
            self.counted += row["n"] - self.found.get(where, 0)
            self.found[where] = row["n"]

    def tick(self, time: int) -> None:
        del time
        if self.counted and self.said.at(self.counted):
            if TASK.job == "unique":
                finish(TASK, [("keys", 0, self.keys), ("events", 0, self.counted)])
            finish(TASK, [(*where, n) for where, n in self.found.items()])


def main() -> None:
    settings = {
        "bootstrap.servers": TASK.brokers,
        "group.id": TASK.group,
        "auto.offset.reset": "earliest",
        "queued.min.messages": "1000000",
        "queued.max.messages.kbytes": "500000",
    }
    events = pw.io.kafka.read(
        settings, topic=TASK.topic, format="json", schema=Event, autocommit_duration_ms=1_000, parallel_readers=1
    )
    results = Results()
    pw.io.subscribe(result(events), on_change=results.change, on_time_end=results.tick)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


if __name__ == "__main__":
    main()
