"""The columnar path on a real Kafka: taken up under load, without a record lost or doubled; and where it cannot be."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from contextlib import closing

import pytest

from streamkit.errors import BrokerUnreachable
from streamkit.log.kafka import KafkaLog
from streamkit.log.kafka.flat import FlatPlane
from streamkit.log.kafka.librdkafka import Unusable
from streamkit.log.kafka.reader import BULK, BULKS, DIRECT
from streamkit.native.loader import SWITCH, Loader, loader
from streamkit.record import FlatChunk, TopicPartition
from streamkit.settings import Connection
from streamkit.topic import REPLAYABLE
from tests.kafka.site import Site, wait_for
from tests.kafka.test_worker import due

RECORDS = 3 * BULK * BULKS


def filled(brokers: str, name: str) -> KafkaLog:
    log = KafkaLog(Connection(brokers))
    log.create(name, partitions=2, config=REPLAYABLE)
    with closing(log.writer()) as writer:
        for i in range(RECORDS):
            writer.send(
                name, b"%d" % i, key=b"k" if i % 3 else None, partition=i % 2, headers=[("n", b"%d" % i)] * (i % 2)
            )
        writer.flush()
    return log


def test_a_reader_goes_over_under_load_and_nothing_is_lost_or_doubled(
    brokers: str, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamkit.log.kafka.reader.loader", fresh := Loader())
    monkeypatch.setenv(SWITCH, "auto")
    log = filled(brokers, name := unique("bulk"))
    sources = [TopicPartition(name, 0), TopicPartition(name, 1)]
    seen: dict[TopicPartition, list[tuple[int, bytes | None, bytes | None, int]]] = {s: [] for s in sources}
    kinds = []
    with closing(log.reader(dict.fromkeys(sources, 0))) as reader:
        while any(len(found) < RECORDS // 2 for found in seen.values()):
            for chunk in reader.poll(BULK, 10.0):
                kinds.append(isinstance(chunk, FlatChunk))
                columns = (chunk.offsets, chunk.values, chunk.keys, map(len, chunk.headers))
                seen[chunk.source] += zip(*columns, strict=True)
            if kinds.count(False) >= BULKS:
                fresh.load()  # else a quick broker would be through before they are
        assert reader.positions() == dict.fromkeys(sources, RECORDS // 2)
    assert not kinds[0]
    assert kinds[-1]
    for source in sources:
        numbers = range(source.partition, RECORDS, 2)
        wanted = [(n, b"%d" % i, b"k" if i % 3 else None, i % 2) for n, i in enumerate(numbers)]
        assert seen[source] == wanted


def test_a_worker_by_columns_gives_the_plain_loops_answers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "on")
    for _ in range(2):
        site.send(20_000, rubbish=300)
        before = site.checkpointed()
        with site.worker("--checkpoint", "50ms", "--quiet") as worker:
            wait_for(lambda before=before: site.checkpointed() > before, worker)  # type: ignore[misc]
            worker.send_signal(signal.SIGKILL)
    site.command("worker", "--until-caught-up")
    with site.serving() as serving:
        assert site.check(serving, offsets=site.log.ends(site.topic)) > 100
    assert site.alerts() == due(site)


@pytest.mark.parametrize("reason", ["another librdkafka", "no numba"])
def test_where_it_cannot_be_that_is_told_once_and_records_come_as_ever(
    brokers: str,
    unique: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    reason: str,
) -> None:
    monkeypatch.setenv(SWITCH, "on")
    monkeypatch.setattr("streamkit.log.kafka.reader.loader", Loader())
    if reason == "no numba":

        def missing(name: str) -> None:
            raise ModuleNotFoundError(f"No module named 'numba' ({name}: {reason})")

        monkeypatch.setattr("streamkit.native.loader.importlib.import_module", missing)
    else:

        def other() -> None:
            raise Unusable(reason)

        monkeypatch.setenv(DIRECT, "off")  # which does without librdkafka
        monkeypatch.setattr("streamkit.log.kafka.flat.library", other)
    log = KafkaLog(Connection(brokers))
    log.create(name := unique("plain"), partitions=1, config=REPLAYABLE)
    with closing(log.writer()) as writer:
        writer.send(name, b"here")
        writer.flush()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with closing(log.reader({TopicPartition(name, 0): 0})) as reader:
                [chunk] = reader.poll(10, 10.0)
                assert (isinstance(chunk, FlatChunk), list(chunk.values)) == (False, [b"here"])
    assert [reason in record.message for record in caplog.records] == [True]


def test_a_broker_that_nobody_can_reach_is_an_error_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "on")
    with pytest.raises(BrokerUnreachable, match="is it running"):
        KafkaLog(Connection("127.0.0.1:1")).reader({TopicPartition("nowhere", 0): 0})


def test_a_setting_that_c_cannot_be_given_is_unusable() -> None:
    loops = loader.load()
    assert loops is not None, loader.failure
    for settings in ({"group.id": "g", "no.such.setting": "1"}, {"group.id": "g", "error_cb": print}):
        with pytest.raises(Unusable, match=r"no\.such\.setting|error_cb"):
            FlatPlane(settings, loops, lambda _: None)
