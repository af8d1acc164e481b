"""What is opened for serving: a store that may not be there yet, or no longer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path

import pytest

from streamkit.control import control_topic
from streamkit.errors import StateMissing, TopicChanged, TopicMissing
from streamkit.folder import DataFolder
from streamkit.log.base import Look, TopicInfo
from streamkit.log.memory import MemoryLog
from streamkit.serving.connect import open_serving
from streamkit.speed.worker import Worker
from streamkit.store.rocksdb import RocksStore
from streamkit.topology import Topology
from tests.life.app import Click, topology

Work = Callable[[], None]


@pytest.fixture
def app() -> Topology:
    return topology()


@pytest.fixture
def log(app: Topology) -> Counting:
    log = Counting()
    for topic in app.topics.values():
        log.create(topic.name, partitions=topic.partitions)
    return log


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder("life", tmp_path)


@pytest.fixture
def work(app: Topology, log: MemoryLog, folder: DataFolder) -> Work:
    """Send one click, and have a worker count all that are there."""

    def work() -> None:
        with closing(log.writer()) as writer:
            writer.send("clicks", app.topics["clicks"].encode(Click("c1", "u1", 1, 0)))
            writer.flush()
        with closing(RocksStore.open(folder.slot(0).state)) as store, closing(Worker(app, log, store)) as worker:
            worker.step(100)
            worker.checkpoint()

    return work


def test_a_server_that_was_there_first_sees_the_worker(
    app: Topology, log: MemoryLog, folder: DataFolder, work: Work
) -> None:
    view = app.views["total"]
    with open_serving(app, log, folder):
        with pytest.raises(StateMissing, match="neither Segments nor a BatchView yet: run `streamkit worker"):
            view.get("c1")
        for clicks in (1, 2):
            work()
            assert view.get("c1").value["clicks"] == clicks


def test_state_that_was_removed_is_missed_until_it_is_there_again(
    app: Topology, log: MemoryLog, folder: DataFolder, work: Work
) -> None:
    view = app.views["total"]
    work()
    with open_serving(app, log, folder):
        assert view.get("c1").value["clicks"] == 1
        shutil.rmtree(folder.slot(0).state)
        with pytest.raises(StateMissing):
            view.get("c1")
        work()
        assert view.get("c1").value["clicks"] == 2


class Counting(MemoryLog):
    """Counts what a reader asks about the topics of Views and the control topic."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self._looking = False

    def describe(self, topic: str) -> TopicInfo:
        self._count("describe", topic)
        return super().describe(topic)

    def ends(self, topic: str, *, committed: bool = True) -> dict[int, int]:
        self._count("ends", topic)
        return super().ends(topic, committed=committed)

    def look(self, topics: Collection[str]) -> dict[str, Look]:
        self.asked.append("look")
        self._looking = True
        try:
            return super().look(topics)
        finally:
            self._looking = False

    def _count(self, what: str, topic: str) -> None:
        if topic in ("clicks", control_topic("life")) and not self._looking:
            self.asked.append(f"{what} {topic}")


def test_a_look_is_one_question_to_the_broker(app: Topology, folder: DataFolder, work: Work, log: Counting) -> None:
    view = app.views["total"]
    work()
    with open_serving(app, log, folder):
        view.get("c1")
        for clicks in (2, 3):
            work()
            log.asked.clear()
            answer = view.get("c1")
            assert log.asked == ["look"]
            assert answer.value["clicks"] == clicks
            assert answer.lag == 0
        with closing(log.writer()) as writer:
            writer.send("clicks", app.topics["clicks"].encode(Click("c1", "u1", 1, 0)))
        assert view.get("c1").lag == 1


def test_a_topic_made_anew_is_told_at_the_next_look(
    app: Topology, folder: DataFolder, work: Work, log: Counting
) -> None:
    view = app.views["total"]
    work()
    with open_serving(app, log, folder):
        view.get("c1")
        log.delete("clicks")
        with pytest.raises(TopicMissing):
            view.get("c1")
        log.create("clicks", partitions=3)
        with pytest.raises(TopicChanged):
            view.get("c1")
