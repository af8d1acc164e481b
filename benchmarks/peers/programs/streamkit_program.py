"""StreamKit: the worker from the log's start to its end, state in RocksDB; done when its last Checkpoint is."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec

import streamkit as sk
from benchmarks.peers.programs.streamkit_topology import CAMPAIGNS, TASK, app, stats
from benchmarks.peers.task import Welford, finish, say
from streamkit.checkpoint import states_range, table_key, task_prefix
from streamkit.folder import DataFolder
from streamkit.interval import Pacer
from streamkit.log.kafka import KafkaLog
from streamkit.record import TopicPartition
from streamkit.settings import Connection
from streamkit.speed.run import Run, ends_of
from streamkit.speed.worker import Worker
from streamkit.store.rocksdb import RocksStore

TASKS = [TopicPartition(TASK.topic, number) for number in range(TASK.partitions)]


def work() -> None:
    """The worker, as `streamkit worker --until-caught-up` runs it."""
    log = KafkaLog(Connection(TASK.brokers))
    with contextlib.ExitStack() as closers:
        slot = closers.enter_context(DataFolder.of(app.name, TASK.directory).claim(__file__))
        store = closers.enter_context(contextlib.closing(RocksStore.open(slot.state)))
        last = 0

        def tell(worker: Worker) -> None:
            nonlocal last
            if worker.counters.events != last:
                last = worker.counters.events
                say(min(last * TASK.total // TASK.events, TASK.total - 1))  # the last is said when it is durable

        def tell_all(worker: Worker) -> None:
            if worker.counters.events == TASK.events:
                say(TASK.total)

        ends = ends_of(app, log)
        Run(
            lambda: Worker(app, log, store, name=slot.name),
            Pacer(app.pace),
            stop=threading.Event(),
            began=time.monotonic(),
            until_caught_up=ends,
            on_turn=tell,
            on_checkpoint=tell_all,
        ).run()
        if TASK.job in ("unique", "agent"):
            finish(TASK, stored(store))
    finish(TASK, answers())


def answers() -> Iterator[list[Any]]:
    with sk.connect(app, brokers=TASK.brokers, data=TASK.directory):
        for answer in app.views["job"].scan():
            value = answer.value
            numbers = [value["n"]]
            if TASK.job == "heavy":
                numbers += [value["spend"], value["least"], value["most"], value["users"], value["price"]["0.5"]]
            yield [answer.key[0], answer.window[0] if answer.window else 0, *numbers]


def stored(store: RocksStore) -> Iterator[list[Any]]:
    """What would take long by Answers, or is none: the number of keys and of events, the agent's table."""
    if TASK.job == "agent":
        for campaign in set(CAMPAIGNS.values()):
            for found in store.get([task_prefix(task) + table_key(stats.name, campaign) for task in TASKS]):
                if found is not None:
                    yield [campaign, 0, *Welford.row(stats.load(found))]
        return
    keys = counted = 0
    for task in TASKS:
        first, last = (task_prefix(task) + end for end in states_range("job"))
        for _, state in store.scan(first, last):
            keys, counted = keys + 1, counted + msgspec.msgpack.decode(state)[0]
    yield ["keys", 0, keys]
    yield ["events", 0, counted]


if __name__ == "__main__":
    work()
