"""Faust on its own transport (aiokafka). Job `views` counts into a dict, `agent` into a Faust table.

Faust reads the command line itself: `faust_program worker -l info`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import faust
import msgspec

from benchmarks.peers.task import WINDOW_MS, Said, Welford, finish, told

TASK = told()
CAMPAIGNS = TASK.campaigns()


class View(msgspec.Struct):
    """What of an event is looked at."""

    ad_id: str
    event_type: str
    event_time: int
    price: int


app = faust.App(
    TASK.group,
    broker=f"kafka://{TASK.brokers}",
    store="memory://",
    value_serializer="raw",
    topic_partitions=TASK.partitions,
    topic_replication_factor=1,
    datadir=TASK.directory,
    web_enabled=False,
    stream_wait_empty=False,
    stream_buffer_maxsize=65_536,
    broker_max_poll_records=10_000,
    consumer_max_fetch_size=10 << 20,
    consumer_auto_offset_reset="earliest",
    broker_commit_interval=1.0,
)
topic = app.topic(TASK.topic, value_type=bytes, value_serializer="raw", key_type=bytes, key_serializer="raw")
decode = msgspec.json.Decoder(View).decode
said = Said(TASK.total)

if TASK.job == "views":
    counts: Counter[tuple[str, int]] = Counter()

    @app.agent(topic)
    async def count(events: Any) -> None:
        async for raw in events:
            event = decode(raw)
            if event.event_type == "view":
                counts[CAMPAIGNS[event.ad_id], event.event_time // WINDOW_MS * WINDOW_MS] += 1
                if said.add(1):
                    finish(TASK, [(*where, n) for where, n in counts.items()])

else:
    stats = app.Table("stats", default=lambda: (0, 0.0, 0.0), partitions=TASK.partitions)

    @app.agent(topic)
    async def deviation(events: Any) -> None:
        async for raw in events:
            event = decode(raw)
            if event.event_type == "view":
                campaign = CAMPAIGNS[event.ad_id]
                stats[campaign] = Welford.add(stats[campaign], event.price)
                if said.add(1):
                    finish(TASK, [(key, 0, *Welford.row(state)) for key, state in stats.items()])


if __name__ == "__main__":
    app.main()
