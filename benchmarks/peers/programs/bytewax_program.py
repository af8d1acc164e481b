"""Bytewax: run as `python -m bytewax.run MODULE -w 2`, which makes `flow` and runs it in two threads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any

import bytewax.operators as op
import msgspec
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from benchmarks.peers.task import WINDOW_MS, Said, Welford, finish, told

TASK = told()
CAMPAIGNS = TASK.campaigns()


class View(msgspec.Struct):
    ad_id: str
    page_id: str
    event_type: str
    event_time: int
    price: int


decode = msgspec.json.Decoder(View).decode


def views(messages: list[Any]) -> Iterable[tuple[str, int]]:
    events = (decode(message.value) for message in messages)
    return [
        (CAMPAIGNS[event.ad_id], event.event_time // WINDOW_MS * WINDOW_MS)
        for event in events
        if event.event_type == "view"
    ]


def pages(messages: list[Any]) -> Iterable[tuple[str, int]]:
    return [(decode(message.value).page_id, 1) for message in messages]


def prices(messages: list[Any]) -> Iterable[tuple[str, int]]:
    events = (decode(message.value) for message in messages)
    return [(CAMPAIGNS[event.ad_id], event.price) for event in events if event.event_type == "view"]


class PerWindow(StatefulBatchLogic[Any, Any, Any]):
    """Counts per value: here the start of a window. Tells the new counts after each batch."""

    def __init__(self, state: Any) -> None:
        self._counts: Counter[int] = state or Counter()

    def on_batch(self, values: list[int]) -> tuple[Iterable[Any], bool]:
        new = Counter(values)
        self._counts.update(new)
        return [(len(values), {window: self._counts[window] for window in new})], StatefulBatchLogic.RETAIN

    def snapshot(self) -> Any:
        return self._counts.copy()


def welford(state: Any, price: int) -> tuple[Any, Any]:
    new = Welford.add(state or (0, 0.0, 0.0), price)
    return new, new


class Results(DynamicSink[Any]):
    """What comes out, in one dictionary for all workers of this process."""

    def __init__(self) -> None:
        self.lock, self.said = threading.Lock(), Said(TASK.total)
        self.found: dict[str, Any] = {}

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSinkPartition[Any]:
        del step_id, worker_index, worker_count
        return Part(self)

    def rows(self) -> Iterable[Any]:
        if TASK.job == "views":
            return [(key, window, n) for key, found in self.found.items() for window, n in found.items()]
        if TASK.job == "agent":
            return [(key, 0, *Welford.row(state)) for key, state in self.found.items()]
        return [("keys", 0, len(self.found)), ("events", 0, sum(self.found.values()))]


class Part(StatelessSinkPartition[Any]):
    def __init__(self, results: Results) -> None:
        self._results = results

    def write_batch(self, items: list[Any]) -> None:
        results = self._results
        with results.lock:
            for key, (count, new) in items:
                if TASK.job == "views":
                    results.found.setdefault(key, {}).update(new)
                else:
                    results.found[key] = new
                if results.said.add(count):
                    finish(TASK, results.rows())


flow = Dataflow(TASK.group.replace(".", "-"))
source = KafkaSource(
    [TASK.brokers], [TASK.topic], tail=True, batch_size=10_000,
    add_config={"queued.min.messages": "1000000", "queued.max.messages.kbytes": "500000"},
)  # fmt: skip
messages = op.input("kafka", flow, source)
if TASK.job == "views":
    keyed = op.flat_map_batch("views", messages, views)
    counted = op.stateful_batch("count", keyed, PerWindow)
elif TASK.job == "unique":
    keyed = op.flat_map_batch("pages", messages, pages)
    counts = op.stateful_map("count", keyed, lambda state, one: ((state or 0) + one,) * 2)
    counted = op.map_value("ones", counts, lambda n: (1, n))
else:
    keyed = op.flat_map_batch("prices", messages, prices)
    counted = op.map_value("ones", op.stateful_map("welford", keyed, welford), lambda state: (1, state))
op.output("results", counted, Results())
