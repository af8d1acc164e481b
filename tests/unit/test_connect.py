"""What is opened for serving: a store that may not be there yet, or no longer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from streamkit.errors import StateMissing
from streamkit.folder import DataFolder
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
def log(app: Topology) -> MemoryLog:
    log = MemoryLog()
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
