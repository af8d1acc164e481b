"""Changelogs on a real broker: compacted and cut while work goes on, and restored from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

import streamkit as sk
from streamkit.changelog import compaction
from streamkit.checkpoint import changelog_topic, task_range
from streamkit.log.kafka import KafkaLog
from streamkit.record import TopicPartition
from streamkit.settings import Connection
from streamkit.speed.run import ends_of
from streamkit.speed.worker import Worker, caught_up
from streamkit.store.base import Store
from streamkit.store.rocksdb import RocksStore
from streamkit.topic import REPLAYABLE

KEYS, ROUNDS = 40, 30


class Tick(msgspec.Struct):
    key: str
    at: int


def topology(name: str) -> sk.Topology:
    app = sk.Topology(name)
    ticks = app.topic(f"{name}.ticks", value=Tick, timestamp="at", key="key", partitions=1)
    app.view("ticks", ticks, key="key", aggregates={"n": sk.Count(), "last": sk.Max("at")})
    return app


def catch_up(worker: Worker, ends: dict[TopicPartition, int]) -> None:
    while not (worker.tasks() and caught_up(worker.positions(), ends)):
        worker.step(timeout=0.1)
    worker.checkpoint()


def state(store: Store, app: sk.Topology) -> dict[bytes, bytes]:
    return dict(store.scan(*task_range(TopicPartition(f"{app.name}.ticks", 0))))


def test_a_changelog_is_cut_and_what_is_left_makes_the_state(
    brokers: str, unique: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "LEAST", 4_000)
    monkeypatch.setattr(compaction, "PIECE", 500)
    app = topology(unique("compacted"))
    [topic] = app.sources().values()
    with closing(KafkaLog(Connection(brokers))) as log:
        log.create(topic.name, partitions=1, config=REPLAYABLE)
        changelog = changelog_topic(app.name, topic.name)
        with closing(RocksStore.open(tmp_path / "one")) as store, closing(Worker(app, log, store)) as worker:
            with closing(log.writer()) as writer:
                for turn in range(ROUNDS):
                    for key in range(KEYS):
                        writer.send(topic.name, topic.encode(Tick(f"k{key}", turn)), key=b"%d" % key)
                    writer.flush()
                    catch_up(worker, ends_of(app, log))
            assert log.starts(changelog)[0] > 0, "it was never cut: this test tests nothing"
            before = state(store, app)
        with closing(RocksStore.open(tmp_path / "other")) as other, closing(Worker(app, log, other)) as taker:
            catch_up(taker, ends_of(app, log))
            assert state(other, app) == before
        assert len(before) > KEYS
        log.delete(topic.name)
        log.delete(changelog)
