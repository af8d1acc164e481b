"""How long a worker waits for records."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Any

from streamkit.interval import Pace, Pacer
from streamkit.log.memory import MemoryLog
from streamkit.speed.run import Run
from streamkit.speed.worker import Worker
from streamkit.store.memory import MemoryStore
from tests.life.app import Click, topology


class Waits(Worker):
    """A worker that notes how long it is told to wait for records, and never waits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told: dict[bool, list[float]] = {False: [], True: []}
        """Seconds, by whether records that were read wait for their Checkpoint."""

    def step(self, max_records: int = 20_000, timeout: float = 0.0) -> int:
        self.told[self.moved()].append(timeout)
        return super().step(max_records)


def test_records_do_not_wait_for_others_beyond_their_checkpoint() -> None:
    app, log = topology(), MemoryLog()
    for topic in app.topics.values():
        log.create(topic.name, partitions=topic.partitions)
    stop, interval = threading.Event(), 0.04
    worker = Waits(app, log, MemoryStore())

    def send_another(_: Worker) -> None:
        if worker.told[True]:
            stop.set()
        with closing(log.writer()) as writer:
            writer.send("clicks", app.topics["clicks"].encode(Click("c1", "u1", 1, 0)))

    Run(lambda: worker, Pacer(Pace(fixed=interval)), stop=stop, began=0.0, on_checkpoint=send_another).run()
    assert min(worker.told[False]) > interval
    assert max(worker.told[True]) <= interval
