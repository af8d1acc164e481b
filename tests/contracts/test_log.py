"""Both logs pass the log port's contract; and what only a real broker can show."""

from __future__ import annotations

import time
from contextlib import closing
from typing import ClassVar

import pytest
from confluent_kafka import Producer, murmur2
from hypothesis import given
from hypothesis import strategies as st

from streamkit.errors import BrokerUnreachable, LogError
from streamkit.log.base import Log
from streamkit.log.kafka import KafkaLog
from streamkit.log.kafka.batches import LazyHeaders
from streamkit.log.kafka.reader import DIRECT
from streamkit.log.memory import MemoryLog, partition_of
from streamkit.native.loader import SWITCH, loader
from streamkit.record import FlatChunk, TopicPartition
from streamkit.settings import Connection
from streamkit.testing.contracts import LogContract, expect, read, settle


class TestMemoryLog(LogContract):
    @pytest.fixture(autouse=True)
    def _log(self) -> None:
        self.log = MemoryLog()

    def make_log(self) -> Log:
        return self.log

    def test_positions_pass_gaps_at_the_end_of_a_partition(self) -> None:
        with self.topic() as (_, name), self.open(self.log, name) as reader:
            source = TopicPartition(name, 0)
            assert self.log.gap(name, 0) == 0
            settle(reader, {source: 1})
            self.put(self.log, name, [b"a"])
            self.log.gap(name, 0)
            self.put(self.log, name, [b"b"])
            self.log.gap(name, 0)
            assert [r.offset for r in read(reader, 2, at_most=1)] == [1, 3]
            assert reader.positions() == {source: 5}
            assert self.log.ends(name) == {0: 5}

    def test_the_clock_stamps_records(self) -> None:
        self.log = MemoryLog(clock=lambda: 12.5)
        with self.topic() as (log, name), self.open(log, name) as reader:
            self.put(log, name, [b"a"])
            assert read(reader, 1)[0].timestamp == 12_500

    def test_a_busy_partition_does_not_starve_another(self) -> None:
        with self.topic(partitions=2) as (log, name), self.open(log, name, partitions=2) as reader:
            for number in range(2):
                self.put(log, name, [b"x"] * 10, partition=number)
            assert {chunk.source.partition for _ in range(2) for chunk in reader.poll(5, 0)} == {0, 1}


@given(key=st.binary(max_size=40), partitions=st.integers(1, 1_000))
def test_the_memory_log_partitions_as_librdkafka_does(key: bytes, partitions: int) -> None:
    assert partition_of(key, partitions) == murmur2(key, partitions)


class KafkaLogContract(LogContract):
    switch: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _brokers(self, brokers: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.brokers = brokers
        monkeypatch.setenv(SWITCH, self.switch)

    def make_log(self) -> Log:
        return KafkaLog(Connection(self.brokers))

    def test_a_key_goes_to_the_partition_it_has_in_memory(self) -> None:
        keys = [b"", b"\x00", "schlüssel".encode(), *(b"campaign-%d" % i for i in range(50))]
        with self.topic(partitions=7) as (log, name), self.open(log, name, partitions=7) as reader:
            with closing(log.writer()) as writer:
                for key in keys:
                    writer.send(name, b"", key=key)
            assert {r.key: r.partition for r in read(reader, len(keys))} == {k: partition_of(k, 7) for k in keys}

    def test_control_and_aborted_records_are_passed_over(self) -> None:
        with self.topic() as (log, name), self.open(log, name) as reader:
            source = TopicPartition(name, 0)
            producer = Producer({"bootstrap.servers": self.brokers, "transactional.id": name})
            producer.init_transactions(30)
            turns = [(0, b"yes", producer.commit_transaction), (2, b"no", producer.abort_transaction)]
            for offset, value, finish in turns:
                producer.begin_transaction()
                producer.produce(name, value)
                producer.flush()
                assert reader.poll(10, 0.2) == [], "an open transaction was seen"
                assert (log.ends(name), reader.positions()) == ({0: offset}, {source: offset})
                finish(30)
                if value == b"yes":
                    assert [(r.offset, r.value) for r in read(reader, 1)] == [(offset, value)]
                # The marker is written after the coordinator has answered: the end moves when it is there.
                settle(reader, {source: offset + 2})
                assert log.ends(name) == {0: offset + 2}
            producer.begin_transaction()
            producer.produce(name, b"again")
            producer.commit_transaction(30)
            assert [(r.offset, r.value) for r in read(reader, 1)] == [(4, b"again")]
            producer.close()

    def test_a_full_buffer_holds_the_sender_back(self) -> None:
        small = KafkaLog(Connection(self.brokers, {"queue.buffering.max.messages": "100", "linger.ms": "5"}))
        with self.topic() as (log, name), closing(small.writer()) as writer:
            for i in range(2_000):
                writer.send(name, b"%d" % i, partition=0)
            writer.flush()
            with self.open(log, name) as reader:
                assert [r.value for r in read(reader, 2_000)] == [b"%d" % i for i in range(2_000)]

    def test_settings_the_client_does_not_know_are_named(self) -> None:
        with expect(LogError, "no.such.setting"):
            KafkaLog(Connection(self.brokers, {"no.such.setting": "1"}))


@pytest.mark.kafka
class TestKafkaLogByMessage(KafkaLogContract):
    switch = "off"


@pytest.mark.kafka
class TestKafkaLogByQueue(KafkaLogContract):
    switch = "on"

    @pytest.fixture(autouse=True)
    def _by_librdkafka(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(DIRECT, "off")

    def test_it_is_what_is_read_with(self) -> None:
        with self.topic() as (log, name), self.open(log, name) as reader:
            self.put(log, name, [b"a"])
            [chunk] = reader.poll(10, 10)
            assert isinstance(chunk, FlatChunk), loader.failure
            assert not isinstance(chunk.headers_of, LazyHeaders)


@pytest.mark.kafka
class TestKafkaLogDirectly(KafkaLogContract):
    switch = "on"

    def test_it_is_what_is_read_with(self) -> None:
        with self.topic() as (log, name):
            # First: a broker names itself leader of a new partition a moment before it answers fetches of it, and then
            # the reader goes back to librdkafka.
            self.put(log, name, [b"a"])
            with self.open(log, name) as reader:
                [chunk] = reader.poll(10, 10)
            assert isinstance(chunk, FlatChunk), loader.failure
            assert isinstance(chunk.headers_of, LazyHeaders)


def test_an_absent_broker_is_reported_in_time_and_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    log = KafkaLog(Connection("localhost:1"))
    started = time.monotonic()
    with expect(BrokerUnreachable, "localhost:1", "streamkit broker start", "STREAMKIT_BROKERS"):
        log.describe("clicks")
    assert time.monotonic() - started < 12
    assert capfd.readouterr().err == ""
