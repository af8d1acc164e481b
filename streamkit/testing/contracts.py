"""What every Log and every Store must do, as plain test methods: subclass a contract and give it yours.

    class TestMyLog(LogContract):
        def make_log(self) -> Log:
            return MyLog(...)

pytest collects the subclass; each test makes its own topic, and deletes it.
"""

from __future__ import annotations

import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager

from streamkit.errors import DeliveryFailed, OffsetOutOfRange, StreamkitError, TopicChanged, TopicMissing
from streamkit.log.base import Log, Look, Reader
from streamkit.packed import Packed, Strings
from streamkit.record import Headers, Record, TopicPartition
from streamkit.store.base import Store, StoreReader, Write
from streamkit.store.sortedfile import WORTH as MANY

PATIENCE = 20.0
"""Seconds after which what has not come will not come."""


@contextmanager
def expect(error: type[StreamkitError], *words: str) -> Iterator[None]:
    """The block must raise `error`, and its message must hold `words`."""
    message = None
    try:
        yield
    except error as raised:
        message = str(raised)
    assert message is not None, f"expected {error.__name__}, nothing was raised"
    missing = [word for word in words if word not in message]
    assert not missing, f"{error.__name__} does not say {missing}: {message}"


def read(reader: Reader, count: int, *, at_most: int = 1_000) -> list[Record]:
    """The next `count` records of a Reader, as they came; fails when they do not come."""
    records: list[Record] = []
    deadline = time.monotonic() + PATIENCE
    while len(records) < count:
        assert time.monotonic() < deadline, f"{len(records)} of {count} records came in {PATIENCE} s"
        for chunk in reader.poll(min(at_most, count - len(records)), 0.5):
            columns = zip(chunk.offsets, chunk.timestamps, chunk.keys, chunk.values, chunk.headers, strict=True)
            assert len(chunk) == len(chunk.offsets) > 0
            records += [Record(*chunk.source, o, t, key, value, tuple(items)) for o, t, key, value, items in columns]
    return records


def settle(reader: Reader, ends: Mapping[TopicPartition, int]) -> None:
    """Poll until the positions are `ends`; no records may come."""
    deadline = time.monotonic() + PATIENCE
    while reader.positions() != ends:
        assert time.monotonic() < deadline, f"positions {reader.positions()} did not become {ends}"
        assert reader.poll(1_000, 0.1) == []


def poll_until_raised(reader: Reader) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        reader.poll(1_000, 0.1)


class LogContract(ABC):
    """The log port's contract."""

    @abstractmethod
    def make_log(self) -> Log: ...

    @contextmanager
    def topic(self, partitions: int = 1) -> Iterator[tuple[Log, str]]:
        name = f"contract-{uuid.uuid4().hex[:12]}"
        with closing(self.make_log()) as log:
            log.create(name, partitions=partitions, config={"retention.ms": "-1"})
            try:
                yield log, name
            finally:
                if name in log.topics():
                    log.delete(name)

    def put(self, log: Log, topic: str, values: Iterable[bytes | None], *, partition: int = 0) -> None:
        with closing(log.writer()) as writer:
            for value in values:
                writer.send(topic, value, partition=partition)

    def open(self, log: Log, topic: str, offset: int = 0, partitions: int = 1) -> closing[Reader]:
        return closing(log.reader({TopicPartition(topic, number): offset for number in range(partitions)}))

    def test_a_topic_is_described_as_it_was_made(self) -> None:
        with self.topic(partitions=3) as (log, name):
            info = log.describe(name)
            assert (info.name, info.partitions) == (name, 3)
            assert name in log.topics()
            assert log.topics() == sorted(log.topics())
            assert log.starts(name) == log.ends(name) == {0: 0, 1: 0, 2: 0}

    def test_creating_a_topic_again_returns_it_as_it_is(self) -> None:
        with self.topic(partitions=3) as (log, name):
            self.put(log, name, [b"kept"])
            assert log.create(name, partitions=5) == log.describe(name)
            assert log.ends(name) == {0: 1, 1: 0, 2: 0}

    def test_a_topic_made_anew_has_another_id(self) -> None:
        with self.topic() as (log, name):
            first = log.describe(name)
            log.delete(name)
            assert name not in log.topics()
            second = log.create(name, partitions=1)
            assert second.id != first.id
            assert log.describe(name) == second

    def test_several_topics_at_one_look(self) -> None:
        """Each as it is now, whatever it was at the look before."""
        with self.topic(partitions=2) as (log, name), self.topic() as (_, other):
            missing = f"missing-{uuid.uuid4().hex[:12]}"

            def looked(*topics: str) -> None:
                there = [topic for topic in topics if topic != missing]
                assert log.look(topics) == {t: Look(log.describe(t), log.ends(t)) for t in there}

            looked()
            looked(name, missing)
            self.put(log, name, [b"a", b"b"], partition=1)
            looked(name, other)
            self.put(log, name, [b"c"])
            log.grow(name, 5)
            looked(other, name)
            log.delete(name)
            assert log.look([name, other]).keys() == {other}
            log.create(name, partitions=3)
            looked(name, other, missing)

    def test_a_missing_topic_is_named(self) -> None:
        with closing(self.make_log()) as log:
            name = f"missing-{uuid.uuid4().hex[:12]}"
            for call in (log.describe, log.delete, log.starts, log.ends):
                with expect(TopicMissing, name):
                    call(name)
            with expect(TopicMissing, name), self.open(log, name) as reader:
                poll_until_raised(reader)

    def test_a_partition_that_is_not_there_is_named(self) -> None:
        with (
            self.topic() as (log, name),
            expect(TopicChanged, f"{name}/1"),
            self.open(log, name, partitions=4) as reader,
        ):
            poll_until_raised(reader)

    def test_records_come_in_offset_order(self) -> None:
        with self.topic(partitions=3) as (log, name):
            for number in range(3):
                self.put(log, name, [b"%d-%d" % (number, i) for i in range(100)], partition=number)
            with self.open(log, name, partitions=3) as reader:
                records = read(reader, 300, at_most=70)
                assert set(reader.positions().values()) == {100}
            for number in range(3):
                mine = [(r.offset, r.value) for r in records if r.partition == number]
                assert mine == [(i, b"%d-%d" % (number, i)) for i in range(100)]
            assert log.ends(name) == {0: 100, 1: 100, 2: 100}
            assert log.starts(name) == {0: 0, 1: 0, 2: 0}

    def test_a_poll_returns_at_most_max_records(self) -> None:
        with self.topic(partitions=2) as (log, name):
            for number in range(2):
                self.put(log, name, [b"x"] * 50, partition=number)
            with self.open(log, name, partitions=2) as reader:
                total = 0
                deadline = time.monotonic() + PATIENCE
                while total < 100 and time.monotonic() < deadline:
                    size = sum(map(len, reader.poll(7, 0.5)))
                    assert size <= 7
                    total += size
                    assert sum(reader.positions().values()) == total
                assert total == 100

    def test_a_poll_does_not_wait_for_more_than_one_record(self) -> None:
        with self.topic() as (log, name), self.open(log, name) as reader:
            self.put(log, name, [b"one"])
            started = time.monotonic()
            assert [c.values for c in reader.poll(1_000, PATIENCE)] == [[b"one"]]
            assert time.monotonic() - started < PATIENCE / 2

    def test_a_poll_is_woken_by_a_record(self) -> None:
        with self.topic() as (log, name), self.open(log, name) as reader:
            later = threading.Timer(0.2, self.put, (log, name, [b"late"]))
            started = time.monotonic()
            later.start()
            assert [c.values for c in reader.poll(1_000, PATIENCE)] == [[b"late"]]
            assert time.monotonic() - started < PATIENCE / 2
            later.join()

    def test_a_poll_without_records_ends_at_its_timeout(self) -> None:
        with self.topic() as (log, name), self.open(log, name) as reader:
            started = time.monotonic()
            assert reader.poll(1_000, 0.3) == []
            assert reader.poll(1_000, 0) == []
            assert 0.25 <= time.monotonic() - started < 5
            assert reader.positions() == {TopicPartition(name, 0): 0}

    def test_a_record_comes_back_as_it_was_sent(self) -> None:
        """Empty is not null, neither for keys nor values nor headers; a header may come twice; times are kept."""
        headers: list[Headers] = [(), (("a", b"1"), ("a", None), ("b", b""), ("a", b"2"))]
        parts = (None, b"", b"\x00\xff")
        sent = [(k, v, h, t) for k in parts for v in parts for h in headers for t in (1, 1_600_000_000_123)]
        with self.topic() as (log, name):
            with closing(log.writer()) as writer:
                for key, value, items, time_ms in sent:
                    writer.send(name, value, key=key, headers=items, timestamp=time_ms, partition=0)
            with self.open(log, name) as reader:
                got = [(r.key, r.value, r.headers, r.timestamp) for r in read(reader, len(sent))]
        assert got == sent

    def test_a_record_without_a_timestamp_is_stamped_with_now(self) -> None:
        with self.topic() as (log, name):
            before = int(time.time() * 1_000)
            self.put(log, name, [b"now"])
            with self.open(log, name) as reader:
                assert before <= read(reader, 1)[0].timestamp <= time.time() * 1_000 + 1_000

    def test_a_large_record_is_kept(self) -> None:
        large = bytes(range(256)) * (900 * 4)
        with self.topic() as (log, name):
            self.put(log, name, [large, b"after"])
            with self.open(log, name) as reader:
                assert [r.value for r in read(reader, 2)] == [large, b"after"]

    def test_what_is_not_delivered_is_told_by_flush_once(self) -> None:
        with self.topic() as (log, name), closing(log.writer()) as writer:
            writer.send(name, b"x" * 2_000_000)
            writer.send(name, b"fine")
            with expect(DeliveryFailed, name):
                writer.flush()
            writer.flush()
            assert log.ends(name) == {0: 1}
            missing = f"missing-{uuid.uuid4().hex[:12]}"
            writer.send(missing, b"x")
            with expect(DeliveryFailed, missing):
                writer.flush()

    def test_seek_goes_back_and_forward(self) -> None:
        with self.topic() as (log, name):
            self.put(log, name, [b"%d" % i for i in range(500)])
            source = TopicPartition(name, 0)
            with self.open(log, name) as reader:
                assert read(reader, 10, at_most=3)[-1].offset == 9
                for offset in (3, 400, 0, 499):
                    reader.seek(source, offset)
                    assert reader.positions() == {source: offset}
                    assert [r.offset for r in read(reader, 1, at_most=1)] == [offset]
                settle(reader, {source: 500})
                reader.seek(source, 498)
                assert [r.value for r in read(reader, 2)] == [b"498", b"499"]

    def test_deleted_records_are_refused_not_jumped_over(self) -> None:
        with self.topic(partitions=2) as (log, name):
            self.put(log, name, [b"%d" % i for i in range(10)])
            log.delete_records(name, {0: 6})
            assert log.starts(name) == {0: 6, 1: 0}
            assert log.ends(name) == {0: 10, 1: 0}
            source = TopicPartition(name, 0)
            with self.open(log, name) as reader:
                for offset in (0, 11):
                    reader.seek(source, offset)
                    for _ in range(2):
                        with expect(OffsetOutOfRange, f"{name}/0", str(offset), "[6, 10)"):
                            poll_until_raised(reader)
                reader.seek(source, 6)
                assert [r.offset for r in read(reader, 4)] == [6, 7, 8, 9]
            with expect(OffsetOutOfRange, f"{name}/0", "11"):
                log.delete_records(name, {0: 11})

    def test_two_topics_are_read_at_once(self) -> None:
        with self.topic(partitions=2) as (log, left), self.topic(partitions=2) as (_, right):
            for name in (left, right):
                for number in range(2):
                    self.put(log, name, [f"{name}/{number}".encode()] * 50, partition=number)
            sources = {TopicPartition(name, number): 10 for name in (left, right) for number in range(2)}
            with closing(log.reader(sources)) as reader:
                records = read(reader, 160, at_most=90)
                assert reader.positions() == dict.fromkeys(sources, 50)
            assert all(r.value == f"{r.topic}/{r.partition}".encode() for r in records)

    def test_readers_do_not_disturb_each_other(self) -> None:
        with self.topic() as (log, name):
            self.put(log, name, [b"%d" % i for i in range(20)])
            with self.open(log, name) as first, self.open(log, name, offset=5) as second:
                assert read(first, 2, at_most=1)[-1].offset == 1
                assert read(second, 15)[0].offset == 5
                assert read(first, 18)[0].offset == 2


class StoreContract(ABC):
    """The store port's contract. `make_reader` is asked after the store was opened."""

    @abstractmethod
    def make_store(self) -> Store: ...

    @abstractmethod
    def make_reader(self, store: Store) -> StoreReader: ...

    def test_what_is_written_is_there(self) -> None:
        with closing(self.make_store()) as store:
            store.write(Write(puts=[(b"b", b"2"), (b"a", b"1"), (b"", b"empty key"), (b"empty value", b"")]))
            assert store.get([b"a", b"nope", b"b", b"a", b"", b"empty value"]) == [
                b"1", None, b"2", b"1", b"empty key", b"",
            ]  # fmt: skip
            assert store.get([]) == []
        store.close()

    def test_a_scan_is_in_key_order_and_ends_before_its_end(self) -> None:
        keys = [b"", b"\x00", b"a", b"a\x00", b"a\xff", b"b", b"\xff", b"\xff\xff"]
        with closing(self.make_store()) as store:
            store.write(Write(puts=[(key, key[::-1]) for key in reversed(keys)]))
            for start in keys:
                for end in [*keys, b"\xff\xff\xff"]:
                    expected = [(key, key[::-1]) for key in keys if start <= key < end]
                    assert list(store.scan(start, end)) == expected, (start, end)

    def test_ranges_go_first_then_deletes_then_puts_come(self) -> None:
        with closing(self.make_store()) as store:
            store.write(Write(puts=[(b"%d" % i, b"old") for i in range(8)]))
            store.write(
                Write(
                    puts=[(b"2", b"new"), (b"6", b"new"), (b"6", b"newer")],
                    deletes=[b"6", b"7", b"8"],
                    ranges=[(b"1", b"4")],
                )
            )
            assert list(store.scan(b"", b"9")) == [
                (b"0", b"old"), (b"2", b"new"), (b"4", b"old"), (b"5", b"old"), (b"6", b"newer"),
            ]  # fmt: skip

    def test_what_is_packed_comes_last_and_goes_with_the_rest(self) -> None:
        def packed(first: int, value: bytes) -> Packed:
            keys = [b"many-%06d" % n for n in range(first, first + MANY)]
            return Packed(Strings.of(keys), Strings.of([value] * MANY))

        with closing(self.make_store()) as store:
            store.write(Write(puts=[(b"a", b"0"), (b"many-000007", b"0"), (b"z", b"0")]))
            with closing(self.make_reader(store)) as reader:
                for turn in (b"1", b"2"):
                    store.write(
                        Write(
                            puts=[(b"a", turn), (b"many-000003", b"row"), (b"many-000003 ", turn), (b"zz", turn)],
                            deletes=[b"z", b"zz", b"many-000004", b"nothing"],
                            packed=[packed(MANY, turn), packed(0, turn)],
                        )
                    )
                    right = {b"a": turn, **{b"many-%06d" % n: turn for n in range(2 * MANY)}, b"zz": turn}
                    right[b"many-000003 "] = turn
                    assert dict(store.scan(b"", b"\xff")) == right
                    assert [key for key, _ in store.scan(b"many", b"many-000005")] == sorted(right)[1:7]
                    reader.refresh()
                    assert dict(reader.scan(b"", b"\xff")) == right
                    assert reader.get([b"z", b"a", b"many-000004"]) == [None, turn, turn]
                begun = store.begin(Write(puts=[(b"a", b"7")], packed=[packed(0, b"7"), packed(MANY, b"7")]))
                assert store.get([b"a", b"many-000000"]) == [b"2", b"2"], "it shows before it is finished"
                store.begin(Write(puts=[(b"a", b"8")], packed=[packed(0, b"8")]))  # never finished
                begun.finish([(b"0", b"7"), (b"1", b"7")])
                store.begin(Write(puts=[(b"b", b"7")], packed=[packed(0, b"7")])).finish([(b"zz", b"9")])
                store.begin(Write(puts=[(b"c", b"7")])).finish([(b"c", b"9")])
                keys = [b"0", b"1", b"a", b"b", b"c", b"many-000000", b"zz"]
                reader.refresh()
                for shown in (store, reader):
                    assert shown.get(keys) == [b"7", b"7", b"7", b"7", b"9", b"7", b"9"]
                store.write(Write(deletes=[b"0", b"1", b"b", b"c"]))
                # What overlaps, what is few and what comes with ranges goes another way, and comes to the same.
                store.write(Write(packed=[packed(0, b"3"), packed(MANY - 1, b"4")]))
                store.write(Write(ranges=[(b"a", b"b")], packed=[packed(2 * MANY, b"5")]))
                store.write(Write(puts=[(b"many-000000", b"6")]))
                reader.refresh()
                keys = [b"a", b"many-000000", b"many-000001", b"many-%06d" % (MANY - 1), b"many-%06d" % (2 * MANY)]
                for shown in (store, reader):
                    assert shown.get(keys) == [None, b"6", b"3", b"4", b"5"]

    def test_an_empty_or_reversed_range_is_nothing(self) -> None:
        with closing(self.make_store()) as store:
            store.write(Write(puts=[(b"a", b"1"), (b"b", b"2")]))
            store.write(Write(ranges=[(b"b", b"a"), (b"a", b"a")]))
            store.write(Write(puts=[(b"c", b"3")], deletes=[b"a"]))
            store.write(Write())
            assert list(store.scan(b"a", b"z")) == [(b"b", b"2"), (b"c", b"3")]

    def test_a_scan_keeps_its_own_bounds(self) -> None:
        """The memory of a scan's upper bound must not be used again while the scan is under way."""
        with closing(self.make_store()) as store:
            for name in (b"a", b"campaign", b"y" * 40):
                keys = [name + b"\0\0\0\0%c" % i for i in range(8)]
                store.write(Write(puts=[(key, b"value") for key in keys]))
                store.write(Write(puts=[(name + b"\2", b"beyond")]))
                scan = store.scan(name + b"\0", name + b"\1")
                assert store.get(keys) == [b"value"] * 8
                assert [key for key, _ in scan] == keys

    def test_a_scan_shows_what_was_there_when_it_began(self) -> None:
        with closing(self.make_store()) as store:
            store.write(Write(puts=[(b"%03d" % i, b"old") for i in range(100)]))
            scan = store.scan(b"", b"\xff")
            store.write(Write(puts=[(b"0505", b"new"), (b"050", b"new")], ranges=[(b"060", b"070")]))
            assert list(scan) == [(b"%03d" % i, b"old") for i in range(100)]
            assert len(list(store.scan(b"", b"\xff"))) == 91

    def test_a_reader_changes_only_by_refresh(self) -> None:
        with closing(self.make_store()) as store:
            store.write(Write(puts=[(b"a", b"1"), (b"b", b"1")]))
            with closing(self.make_reader(store)) as reader:
                assert reader.get([b"b", b"a", b"c"]) == [b"1", b"1", None]
                scan = reader.scan(b"a", b"z")
                store.write(Write(puts=[(b"b", b"2"), (b"c", b"2")], deletes=[b"a"]))
                store.write(Write(puts=[(b"range", b"2")], ranges=[(b"a", b"b")]))
                assert list(reader.scan(b"a", b"z")) == [(b"a", b"1"), (b"b", b"1")]
                reader.refresh()
                assert list(scan) == [(b"a", b"1"), (b"b", b"1")]
                assert list(reader.scan(b"a", b"z")) == [(b"b", b"2"), (b"c", b"2"), (b"range", b"2")]
                assert reader.get([b"a", b"b"]) == [None, b"2"]

    def test_readers_are_refreshed_one_by_one(self) -> None:
        with closing(self.make_store()) as store:
            store.write(Write(puts=[(b"a", b"1")]))
            with closing(self.make_reader(store)) as left, closing(self.make_reader(store)) as right:
                store.write(Write(puts=[(b"a", b"2")]))
                left.refresh()
                assert (left.get([b"a"]), right.get([b"a"])) == ([b"2"], [b"1"])
