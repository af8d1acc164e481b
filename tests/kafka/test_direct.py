"""Asking brokers directly, beside librdkafka on a real Kafka: the same records, and back to it when trouble comes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

import pytest
from confluent_kafka import Producer

from streamkit.errors import BrokerUnreachable, OffsetOutOfRange
from streamkit.log.kafka import KafkaLog
from streamkit.log.kafka.direct import DirectPlane
from streamkit.log.kafka.librdkafka import Unusable
from streamkit.log.kafka.reader import DIRECT, KafkaReader
from streamkit.log.kafka.wire import Wire
from streamkit.native.loader import SWITCH, loader
from streamkit.record import Chunk, TopicPartition
from streamkit.settings import Connection

Row = tuple[Any, ...]


@pytest.fixture(autouse=True)
def _columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "on")


def read(log: KafkaLog, topic: str, *, at_most: int = 700) -> dict[TopicPartition, list[Row]]:
    """All committed records of a topic."""
    ends = {TopicPartition(topic, number): end for number, end in log.ends(topic).items()}
    found: dict[TopicPartition, list[Row]] = {source: [] for source in ends}
    with closing(log.reader(dict.fromkeys(ends, 0))) as reader:
        while reader.positions() != ends:
            for chunk in reader.poll(at_most, 10.0):
                found[chunk.source] += rows(chunk)
    return found


def rows(chunk: Chunk) -> Iterable[Row]:
    headers = [[*map(tuple, found)] for found in chunk.headers]
    return zip(chunk.offsets, chunk.timestamps, chunk.keys, chunk.values, headers, strict=True)


def is_direct(reader: KafkaReader) -> bool:
    return isinstance(reader._plane, DirectPlane)


def value(random: random.Random) -> bytes | None:
    kind = random.random()
    if kind < 0.05:
        return None
    return random.randbytes(random.choice([0, 1, 127, 128, 300])) + b"x" * random.choice([0, 3, 20_000 * (kind > 0.99)])


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_what_librdkafka_reads_is_read(
    brokers: str, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    chance = random.Random(codec)
    log = KafkaLog(Connection(brokers))
    config = {"message.timestamp.type": "LogAppendTime"} if codec == "zstd" else {}
    log.create(name := unique("direct"), partitions=3, config=config)
    settings = {"bootstrap.servers": brokers, "compression.type": codec, "linger.ms": "2"}
    producers = [Producer({**settings, "transactional.id": f"{name}-{i}"}) for i in range(3)]
    for producer in producers:
        producer.init_transactions(30)
    for _ in range(12):
        some = chance.sample(producers, 2)  # transactions that lie within each other
        for producer in some:
            producer.begin_transaction()
        for _ in range(200):
            headers: Any = [("a", b"1"), ("b", None)] if chance.random() < 0.1 else None
            key = chance.choice([None, b"", b"key"])
            chance.choice(some).produce(name, value(chance), key, chance.randrange(3), headers=headers)
        for producer in some:
            producer.flush()
            chance.choice([producer.commit_transaction, producer.abort_transaction])(30)
    # A coordinator answers before its markers are in the partitions.
    while log.ends(name) != log.ends(name, committed=False):
        continue
    direct = read(log, name)
    with closing(log.reader({TopicPartition(name, 0): 0})) as reader:
        reader.poll(1, 10.0)
        assert is_direct(reader)
    monkeypatch.setenv(SWITCH, "off")
    assert direct == read(log, name)
    assert sum(map(len, direct.values())) > 500


def test_a_message_larger_than_an_answer_is_read(brokers: str, unique: Callable[[str], str]) -> None:
    small = {"fetch.max.bytes": "20000", "max.partition.fetch.bytes": "10000", "message.max.bytes": "10000"}
    log = KafkaLog(Connection(brokers))
    log.create(name := unique("large"), partitions=2)
    with closing(log.writer()) as writer:
        for number in range(2):
            for _ in range(3):
                writer.send(name, bytes(900_000), partition=number)
        writer.flush()
    assert {
        len(row[3]) for found in read(KafkaLog(Connection(brokers, small)), name).values() for row in found
    } == {900_000}  # fmt: skip


def test_a_partition_that_is_full_does_not_starve_the_others(brokers: str, unique: Callable[[str], str]) -> None:
    small = {"fetch.max.bytes": "50000", "max.partition.fetch.bytes": "50000", "message.max.bytes": "50000"}
    log = KafkaLog(Connection(brokers, small))
    log.create(name := unique("starved"), partitions=3)
    with closing(log.writer()) as writer:
        for i in range(30_000):
            writer.send(name, random.randbytes(100), partition=i % 3)
        writer.flush()
    sources = [TopicPartition(name, number) for number in range(3)]
    with closing(log.reader(dict.fromkeys(sources, 0))) as reader:
        while min(positions := reader.positions().values()) == 0:
            reader.poll(500, 10.0)
        assert max(positions) < 5_000


def test_a_connection_that_ends_is_gone_on_without_and_taken_up_again(
    brokers: str, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wires: list[Wire] = []

    class Watched(Wire):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            wires.append(self)

    monkeypatch.setattr("streamkit.log.kafka.direct.Wire", Watched)
    monkeypatch.setattr("streamkit.log.kafka.reader.BULK", 1_000)
    small = {"max.partition.fetch.bytes": "50000", "queued.max.messages.kbytes": "100"}
    log = KafkaLog(Connection(brokers, small))
    log.create(name := unique("cut"), partitions=2)
    with closing(log.writer()) as writer:
        for i in range(200_000):
            writer.send(name, b"%d" % i, partition=i % 2)
        writer.flush()
    sources = [TopicPartition(name, number) for number in range(2)]
    found: dict[TopicPartition, list[bytes | None]] = {source: [] for source in sources}
    kinds = []
    with closing(log.reader(dict.fromkeys(sources, 0))) as reader:
        while sum(map(len, found.values())) < 200_000:
            for chunk in reader.poll(1_000, 10.0):
                found[chunk.source] += chunk.values
            kinds.append(is_direct(reader))
            if len(kinds) == 5:
                wires[-1].close()
    assert found == {source: [b"%d" % i for i in range(source.partition, 200_000, 2)] for source in sources}
    changes = [kind for i, kind in enumerate(kinds) if i == 0 or kind != kinds[i - 1]]
    assert changes == [True, False, True]
    assert len(wires) == 2


@pytest.mark.parametrize("trouble", ["nobody says who leads", "a broker does not answer"])
def test_where_going_over_fails_nothing_is_lost(
    brokers: str, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setenv(SWITCH, "auto")
    monkeypatch.setattr("streamkit.log.kafka.reader.BULK", 100)
    assert loader.load() is not None, loader.failure
    log = KafkaLog(Connection(brokers))
    log.create(name := unique("over"), partitions=1)
    source = TopicPartition(name, 0)
    with closing(log.writer()) as writer:
        for i in range(20_000):
            writer.send(name, b"%d" % i)
        writer.flush()
    with monkeypatch.context() as at_first:
        at_first.setenv(DIRECT, "off")
        reader = log.reader({source: 0})
    tried = 0

    def refused(*_: Any) -> Any:
        nonlocal tried
        tried += 1
        raise BrokerUnreachable("gone") if trouble == "nobody says who leads" else OSError("refused")

    if trouble == "nobody says who leads":
        monkeypatch.setattr(log.cluster, "ask", refused)
    else:
        monkeypatch.setattr("streamkit.log.kafka.direct.Wire", refused)
    with closing(reader):
        values: list[bytes | None] = []
        while len(values) < 20_000:
            values += [value for chunk in reader.poll(200, 10.0) for value in chunk.values]
    assert values == [b"%d" % i for i in range(20_000)]
    assert 1 <= tried < 6


def test_a_broker_that_fails_stops_the_others(
    brokers: str, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one's records would come for ever, and those of the one that failed never."""
    log = KafkaLog(Connection(brokers, {"max.partition.fetch.bytes": "20000", "queued.max.messages.kbytes": "100"}))
    log.create(name := unique("two"), partitions=2)
    with closing(log.writer()) as writer:
        for i in range(100_000):
            writer.send(name, b"%d" % i, partition=i % 2)
        writer.flush()
    sources = [TopicPartition(name, number) for number in range(2)]
    leaders = DirectPlane._leaders

    def of_two(plane: DirectPlane, topics: Any) -> dict[TopicPartition, Any]:
        return {**leaders(plane, topics), sources[1]: ("127.0.0.1", 1)}

    monkeypatch.setattr(DirectPlane, "_leaders", of_two)
    with closing(log.reader(dict.fromkeys(sources, 0))) as reader:
        plane = reader._plane
        assert isinstance(plane, DirectPlane)
        for fetcher in plane._fetchers.values():
            fetcher._thread.join(30)
            assert not fetcher._thread.is_alive()
        while is_direct(reader):
            reader.poll(100, 10.0)
        assert reader.positions()[sources[0]] < 50_000


def test_seek_drops_what_was_fetched_for_another_place(brokers: str, unique: Callable[[str], str]) -> None:
    log = KafkaLog(Connection(brokers))
    log.create(name := unique("seek"), partitions=1)
    source = TopicPartition(name, 0)
    with closing(log.writer()) as writer:
        for i in range(20_000):
            writer.send(name, b"%d" % i)
        writer.flush()
    with closing(log.reader({source: 0})) as reader:
        chance = random.Random(1)
        for _ in range(30):
            at = chance.randrange(20_000)
            reader.seek(source, at)
            assert reader.positions() == {source: at}
            [chunk, *_] = reader.poll(chance.randrange(1, 5_000), 10.0)
            assert chunk.values[0] == b"%d" % at
            assert is_direct(reader)


def test_an_answer_that_comes_after_a_seek_is_nobodys(
    brokers: str, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    came, go = threading.Event(), threading.Event()

    class Held(Wire):
        def answer(self) -> Any:
            answer = super().answer()
            came.set()
            assert go.wait(30)
            return answer

    monkeypatch.setattr("streamkit.log.kafka.direct.Wire", Held)
    log = KafkaLog(Connection(brokers))
    log.create(name := unique("held"), partitions=1)
    source = TopicPartition(name, 0)
    with closing(log.writer()) as writer:
        for i in range(1_000):
            writer.send(name, b"%d" % i)
        writer.flush()
    with closing(log.reader({source: 0})) as reader:
        assert came.wait(30)
        reader.seek(source, 700)
        go.set()
        values = [value for chunk in reader.poll(1_000, 10.0) for value in chunk.values]
        assert values[0] == b"700"
        assert is_direct(reader)


def test_an_offset_that_is_gone_is_told_by_librdkafka(brokers: str, unique: Callable[[str], str]) -> None:
    log = KafkaLog(Connection(brokers))
    log.create(name := unique("gone"), partitions=1)
    with closing(log.reader({TopicPartition(name, 0): 7})) as reader, pytest.raises(OffsetOutOfRange, match="offset 7"):
        reader.poll(1, 10.0)


def test_it_is_not_taken_where_it_is_not_meant_or_cannot_be(
    brokers: str, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = loader.load()
    assert loops is not None, loader.failure
    with pytest.raises(Unusable, match="TLS"):
        DirectPlane(KafkaLog(Connection(brokers, {"security.protocol": "SSL"})).cluster, loops)
    for setting in ({"client.rack": "a"}, {"check.crcs": "true"}):
        with pytest.raises(Unusable, match=next(iter(setting))):
            DirectPlane(KafkaLog(Connection(brokers, setting)).cluster, loops)
    monkeypatch.setenv(DIRECT, "off")
    log = KafkaLog(Connection(brokers))
    log.create(name := unique("off"), partitions=1)
    with closing(log.reader({TopicPartition(name, 0): 0})) as reader:
        assert not is_direct(reader)
