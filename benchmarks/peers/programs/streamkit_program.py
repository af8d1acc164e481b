"""StreamKit: workers from the log's start to its end, state in RocksDB; done when the last Checkpoint is.

One works in this process; several in processes of their own, as those of `streamkit worker --workers N`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

import streamkit as sk
from benchmarks.peers.programs.streamkit_topology import CAMPAIGNS, TASK, app, stats
from benchmarks.peers.task import Welford, finish, say
from streamkit.changelog.changelogs import Changelogs
from streamkit.checkpoint import states_range, table_key, task_prefix
from streamkit.folder import DataFolder
from streamkit.interval import Pacer
from streamkit.log.kafka import KafkaLog
from streamkit.record import TopicPartition
from streamkit.serving.copies import Copies, LocalStores
from streamkit.settings import Connection
from streamkit.speed.run import Run, ends_of
from streamkit.speed.worker import Worker
from streamkit.store.base import StoreReader
from streamkit.store.rocksdb import RocksStore

TASKS = [TopicPartition(TASK.topic, number) for number in range(TASK.partitions)]
WORKERS = int(TASK.settings.get("workers", "1"))
ONE_OF_SEVERAL = "PEERS_WORKER"


def work() -> None:
    """The worker, as `streamkit worker --until-caught-up` runs it; says what it has counted."""
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

        Run(
            lambda: Worker(app, log, store, name=slot.name),
            Pacer(app.pace),
            stop=threading.Event(),
            began=time.monotonic(),
            until_caught_up=ends_of(app, log),
            on_turn=tell,
            on_checkpoint=tell_all,
        ).run()


def work_together() -> None:
    """Workers in processes of their own; says what they have counted together."""
    command, environment = [sys.executable, "-m", __spec__.name], {**os.environ, ONE_OF_SEVERAL: "1"}
    counted, lock = [0] * WORKERS, threading.Lock()

    def listen(number: int) -> None:
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            for line in process.stdout or ():
                with lock:
                    counted[number] = json.loads(line)["counted"]
                    say(min(sum(counted), TASK.total - 1))
        if process.returncode:
            os._exit(process.returncode)  # the others would wait for its share

    threads = [threading.Thread(target=listen, args=(number,)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say(TASK.total)


def answers() -> Iterator[list[Any]]:
    with sk.connect(app, brokers=TASK.brokers, data=TASK.directory):
        for answer in app.views["job"].scan():
            value = answer.value
            numbers = [value["n"]]
            if TASK.job == "heavy":
                numbers += [value["spend"], value["least"], value["most"], value["users"], value["price"]["0.5"]]
            yield [answer.key[0], answer.window[0] if answer.window else 0, *numbers]


def stored() -> Iterator[list[Any]]:
    """What would take long by Answers, or is none: the number of keys and of events, the agent's table."""
    log, folder = KafkaLog(Connection(TASK.brokers)), DataFolder.of(app.name, TASK.directory)
    stores = LocalStores(folder.stores)
    with contextlib.closing(log), contextlib.closing(stores):
        copies = Copies(Changelogs(log, app.name), stores)
        copies.refresh()
        found = {task: copy for task in TASKS if (copy := copies.of(task)) is not None}
        yield from (table(found) if TASK.job == "agent" else counts(found))


def table(copies: Mapping[TopicPartition, StoreReader]) -> Iterator[list[Any]]:
    for campaign in set(CAMPAIGNS.values()):
        for task, copy in copies.items():
            [state] = copy.get([task_prefix(task) + table_key(stats.name, campaign)])
            if state is not None:
                yield [campaign, 0, *Welford.row(stats.load(state))]


def counts(copies: Mapping[TopicPartition, StoreReader]) -> Iterator[list[Any]]:
    keys = counted = 0
    for task, copy in copies.items():
        first, last = (task_prefix(task) + end for end in states_range("job"))
        for _, state in copy.scan(first, last):
            keys, counted = keys + 1, counted + msgspec.msgpack.decode(state)[0]
    yield ["keys", 0, keys]
    yield ["events", 0, counted]


def main() -> None:
    if ONE_OF_SEVERAL in os.environ:
        work()
    else:
        (work if WORKERS == 1 else work_together)()
        finish(TASK, stored() if TASK.job in ("unique", "agent") else answers())


if __name__ == "__main__":
    main()
