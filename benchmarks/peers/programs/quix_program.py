"""Quix Streams: its windows for `views`, `apply(stateful=True)` for `agent`."""

from __future__ import annotations

from typing import Any

from quixstreams import Application

from benchmarks.peers.task import DAY_MS, WINDOW_MS, Said, Welford, finish, told

TASK = told()
CAMPAIGNS = TASK.campaigns()
said = Said(TASK.total)


def time_of(value: Any, headers: Any, timestamp: float, kind: Any) -> int:
    del headers, timestamp, kind
    found: int = value["event_time"]
    return found


def views(frame: Any) -> None:
    counts: dict[tuple[str, int], int] = {}

    def note(window: dict[str, Any], key: Any, timestamp: int, headers: Any) -> None:
        del timestamp, headers
        counts[key.decode(), window["start"]] = window["value"]
        if said.add(1):
            finish(TASK, [(*where, n) for where, n in counts.items()])

    frame.tumbling_window(WINDOW_MS, grace_ms=DAY_MS).count().current().update(note, metadata=True)


def agent(frame: Any) -> None:
    found: dict[str, tuple[int, float, float]] = {}

    def deviation(event: dict[str, Any], state: Any) -> None:
        campaign = CAMPAIGNS[event["ad_id"]]
        new = Welford.add(tuple(state.get("stats", (0, 0.0, 0.0))), event["price"])
        state.set("stats", new)
        found[campaign] = new
        if said.add(1):
            finish(TASK, [(key, 0, *Welford.row(each)) for key, each in found.items()])

    frame.update(deviation, stateful=True)


def main() -> None:
    app = Application(
        broker_address=TASK.brokers,
        consumer_group=TASK.group,
        auto_offset_reset="earliest",
        commit_interval=1.0,
        state_dir=f"{TASK.directory}/state",
        processing_guarantee="exactly-once" if TASK.settings.get("guarantee") == "exactly_once" else "at-least-once",
        loglevel="ERROR",
        consumer_extra_config={"queued.min.messages": 1_000_000, "queued.max.messages.kbytes": 500_000},
        producer_extra_config={"compression.type": "lz4", "linger.ms": 20},
    )
    frame = app.dataframe(app.topic(TASK.topic, value_deserializer="json", timestamp_extractor=time_of))
    frame = frame.filter(lambda event: event["event_type"] == "view")
    if TASK.job == "latency":
        looked_up = frame.apply(lambda event: CAMPAIGNS[event["ad_id"]])
        counts = looked_up.tumbling_window(WINDOW_MS, grace_ms=DAY_MS).count().current()
        counts.to_topic(app.topic(TASK.settings["job.out"], value_serializer="json"))
    elif TASK.job == "agent":
        agent(frame)
    else:
        views(frame.apply(lambda event: CAMPAIGNS[event["ad_id"]]))
    app.run()


if __name__ == "__main__":
    main()
