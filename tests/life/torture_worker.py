"""`streamkit` in a process that kills, stops or slows itself at a named point.

    TORTURE="kill before committer.offsets 3" python -m tests.life.torture_worker worker app.py

kills it by SIGKILL just before the offsets of its third transaction are sent. `stop` is SIGSTOP, from which somebody
must wake it; `slow before store.write 200` makes it wait 200 ms each time.
"""

from __future__ import annotations

import faulthandler
import itertools
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import confluent_kafka

from streamkit import cli, fold
from streamkit.changelog import compaction
from streamkit.changelog.changelogs import Changelogs
from streamkit.changelog.follower import Follower
from streamkit.log.control import ControlTopic
from streamkit.log.kafka import sender
from streamkit.speed import ahead, views
from streamkit.speed.ahead import ReadAhead
from streamkit.speed.assignment import Assignment
from streamkit.speed.worker import Worker
from streamkit.store import sortedfile
from streamkit.store.rocksdb import RocksStore


class Producer(confluent_kafka.Producer):
    """librdkafka's calls as methods that can be replaced: those of an extension class cannot."""

    def init_transactions(self, *args: Any) -> None:
        super().init_transactions(*args)

    def begin_transaction(self) -> None:
        super().begin_transaction()

    def send_offsets_to_transaction(self, *args: Any) -> None:
        super().send_offsets_to_transaction(*args)

    def commit_transaction(self, *args: Any) -> None:
        super().commit_transaction(*args)


POINTS: dict[str, tuple[type, str]] = {
    "worker.open": (Worker, "_open"),
    "worker.open_tasks": (Worker, "open_tasks"),
    "worker.give_up": (Worker, "give_up"),
    "worker.settle": (Worker, "settle"),
    "worker.commit": (Worker, "commit"),
    "worker.write": (Worker, "write"),
    "worker.report": (Worker, "report"),
    "group.assigned": (Assignment, "assigned"),
    "group.revoked": (Assignment, "revoked"),
    "changelog.apply": (Follower, "_apply"),
    "changelog.cut": (Changelogs, "cut"),
    "committer.start": (Producer, "init_transactions"),
    "committer.begin": (Producer, "begin_transaction"),
    "committer.flush": (sender.Sender, "flush"),
    "committer.offsets": (Producer, "send_offsets_to_transaction"),
    "committer.commit": (Producer, "commit_transaction"),
    "ahead.begin": (ReadAhead, "begin"),
    "ahead.end": (ReadAhead, "end"),
    "store.begin": (RocksStore, "begin"),
    "store.take_in": (RocksStore, "_take_in"),
    "store.write": (RocksStore, "_finish"),
    "control.append": (ControlTopic, "append"),
}


def suffer(action: str, when: str, point: str, number: int) -> None:
    """Arrange that this process suffers `action` at a point's call `number`: a count for kill and stop, else ms."""
    owner, name = POINTS[point]
    inner: Callable[..., Any] = getattr(owner, name)
    calls = itertools.count(1)

    def act(call: int) -> None:
        if action == "slow":
            time.sleep(number / 1000)
        elif call == number:
            os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)

    def faulty(*args: Any, **options: Any) -> Any:
        call = next(calls)
        if when == "before":
            act(call)
        result = inner(*args, **options)
        if when == "after":
            act(call)
        return result

    setattr(owner, name, faulty)


def main() -> None:
    """SIGUSR1 makes it say where each of its threads is."""
    faulthandler.register(signal.SIGUSR1)
    # By the name that the sender finds it at; were it to find another, points of transactions would never be passed.
    assert vars(sender)["Producer"] is confluent_kafka.Producer
    vars(sender)["Producer"] = Producer
    # So that changelogs are cut every few seconds, not days.
    compaction.LEAST, compaction.PIECE = 20_000, 2_000
    # So that what is meant for a million events a second is done for some hundred: keys are packed, the store takes
    # them in as files, and records are read ahead.
    vars(fold)["MANY"] = vars(views)["MANY"] = 5
    sortedfile.WORTH, ahead.BULK = 20, 20
    told = os.environ.pop("TORTURE", "")
    if told:
        action, when, point, number = told.split()
        suffer(action, when, point, int(number))
    cli.main()


if __name__ == "__main__":
    main()
