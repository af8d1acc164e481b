"""Membership and transactions where processes are stopped and killed, and brokers go away."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from streamkit.broker import BrokerSettings, EmbeddedBroker
from streamkit.errors import Fenced
from streamkit.log.kafka import KafkaLog, KafkaMember, TransactionalCommitter
from streamkit.record import TopicPartition
from streamkit.settings import Connection
from streamkit.testing.contracts import PATIENCE, expect, read
from streamkit.testing.group_contracts import Hearer, share, wait
from tests.kafka import group_process

ROOT = Path(__file__).parents[2]


class Place:
    """One topic of 4 partitions, its changelog, and a group."""

    def __init__(self, brokers: str, name: str, client: dict[str, str] | None = None) -> None:
        self.brokers, self.name, self.group = brokers, name, f"{name}-group"
        self.topic, self.changelog = f"{name}-in", f"{name}-changelog"
        self.log = KafkaLog(Connection(brokers, client or {}))
        for topic in (self.topic, self.changelog):
            self.log.create(topic, partitions=4)
        self.sources = {TopicPartition(self.topic, number) for number in range(4)}
        self.changes = TopicPartition(self.changelog, 0)

    def join(self) -> KafkaMember:
        return self.log.join(self.group, [self.topic], Hearer())

    def owner(self) -> KafkaMember:
        member = self.join()
        share(self.sources, member)
        return member

    def committer(self, transactional_id: str) -> TransactionalCommitter:
        committer = self.log.committer(transactional_id)
        assert isinstance(committer, TransactionalCommitter)
        return committer

    def values(self, count: int) -> list[bytes | None]:
        with closing(self.log.reader({self.changes: 0})) as reader:
            return [record.value for record in read(reader, count)]

    def wait_for_end(self, offset: int) -> None:
        wait(lambda: self.log.ends(self.changelog)[0] == self.log.ends(self.changelog, committed=False)[0] == offset)

    @contextmanager
    def process(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A worker of its own that says what it does, line by line (`group_process.py`)."""
        command = [sys.executable, group_process.__file__, self.brokers, self.name, *arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def place(brokers: str, unique: Callable[[str], str]) -> Place:
    return Place(brokers, unique("groups"))


def hear(process: subprocess.Popen[str], word: str) -> None:
    """Read what the process says until it says the word."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line.strip())
        if said[-1] == word:
            return
    raise AssertionError(f"the process ended without {word!r}; it said {said}")


def tell(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()


def between_flush_and_offsets(member: KafkaMember, then: Callable[[], None]) -> None:
    """Have a commit stop in the middle: its records are on the log, and it is about to send the offsets."""
    ask = member.metadata

    def asked() -> object:
        then()
        return ask()

    member.metadata = asked  # type: ignore[method-assign]


def test_an_open_transaction_is_on_the_log_and_not_to_be_seen(place: Place) -> None:
    member, committer, looks = place.owner(), place.committer(place.name), []
    reader = place.log.reader({place.changes: 0})
    count = 50_000

    def look() -> None:
        assert len(committer._producer) == 0, "not all is acknowledged"
        looks.append((place.log.ends(place.changelog, committed=False)[0], place.log.ends(place.changelog)[0]))
        assert reader.poll(10, 0.2) == []
        committer.send(place.changelog, b"next", partition=1)

    between_flush_and_offsets(member, look)
    changes = {place.changes: [(b"key-%d" % i, b"value" * 20) for i in range(count)]}
    assert committer.commit(changes, {min(place.sources): 1}, member) == {place.changes: count}
    assert looks == [(count, 0)]
    assert committer.held() == 4, "what was sent during a commit is of the next one"
    assert [r.key for r in read(reader, count)] == [key for key, _ in changes[place.changes]]
    for part in (reader, committer):
        part.close()
    member.leave()


def test_a_stopped_worker_is_replaced_and_commits_nothing_when_it_goes_on(place: Place) -> None:
    with place.process("zombie") as zombie:
        hear(zombie, "has all")
        hear(zombie, "flushed")
        zombie.send_signal(signal.SIGSTOP)
        member = place.join()
        share(place.sources, member)
        # Its transaction is open, and holds readers back, until its timeout or until it is back and refused.
        assert place.log.ends(place.changelog, committed=False)[0] == 3
        zombie.send_signal(signal.SIGCONT)
        tell(zombie, "go on")
        hear(zombie, "fenced")
        place.wait_for_end(4)  # aborted
        with closing(place.committer(f"{place.name}-other")) as committer:
            committer.commit({place.changes: [(b"k", b"alive")]}, dict.fromkeys(place.sources, 7), member)
        # However long it goes without a poll, it is not a member again before it has heard of what it lost.
        for _ in range(3):
            tell(zombie, "again")
            hear(zombie, "fenced")
        assert place.values(1) == [b"alive"]
        tell(zombie, "poll")
        hear(zombie, "lost 4")
        member.leave()


def test_a_killed_workers_transaction_is_aborted_by_the_next_with_its_id(place: Place) -> None:
    with place.process("zombie") as victim:
        hear(victim, "flushed")
        victim.kill()
        victim.wait()
    assert place.log.ends(place.changelog, committed=False)[0] == 3
    started = time.monotonic()
    with closing(place.committer(place.name)) as committer:
        place.wait_for_end(4)
        assert time.monotonic() - started < 10, "that was the transaction's timeout"
        member = place.owner()
        committer.commit({place.changes: [(b"k", b"alive")]}, {min(place.sources): 1}, member)
        member.leave()
    assert place.values(1) == [b"alive"]


def test_a_member_whose_epoch_was_raised_meanwhile_commits_with_the_new_one(place: Place) -> None:
    """The broker takes an old epoch for partitions that were owned ever since, not for those that went and came."""
    first = place.owner()
    old = first.metadata()
    second = place.join()
    share(place.sources, first, second)
    second.leave()
    share(place.sources, first)
    current, given = first.metadata, list[object]()

    def stale_once() -> object:
        given.append(current() if given else old)
        return given[-1]

    first.metadata = stale_once  # type: ignore[method-assign]
    with closing(place.committer(place.name)) as committer:
        committer.commit({place.changes: [(b"k", b"v")]}, dict.fromkeys(first.owned(), 5), first)
    assert len(given) == 2, "the old epoch was good enough"
    assert place.values(1) == [b"v"]
    first.leave()


def test_a_commit_larger_than_the_clients_queue_goes_through(brokers: str, unique: Callable[[str], str]) -> None:
    place = Place(brokers, unique("groups"), {"queue.buffering.max.messages": "100"})
    member = place.owner()
    with closing(place.committer(place.name)) as committer:
        for i in range(500):
            committer.send(place.changelog, b"%d" % i, partition=1)
        changes = [(b"%d" % i, b"v") for i in range(2_000)]
        assert committer.commit({place.changes: changes}, {min(place.sources): 1}, member) == {place.changes: 2_000}
    with closing(place.log.reader({place.changes: 0, TopicPartition(place.changelog, 1): 0})) as reader:
        got = read(reader, 2_500)
    assert [r.key for r in got if r.partition == 0] == [key for key, _ in changes]
    assert [r.value for r in got if r.partition == 1] == [b"%d" % i for i in range(500)]
    member.leave()


def test_a_broker_that_restarts_during_a_commit_costs_nothing_but_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = EmbeddedBroker(BrokerSettings(tmp_path, port=0, heap="512m"))
    try:
        place = Place(broker.start(), "groups")
        member, committer = place.owner(), place.committer("groups")
        restart: list[threading.Thread] = []

        def stop() -> None:
            if not restart:
                broker.stop()
                restart.append(threading.Thread(target=broker.start))
                restart[0].start()

        between_flush_and_offsets(member, stop)
        committer.send(place.changelog, b"sent", partition=1)
        with caplog.at_level(logging.WARNING, "streamkit.log"):
            ends = committer.commit({place.changes: [(b"k", b"v")]}, {min(place.sources): 1}, member)
        restart[0].join()
        assert committer.held() == 0
        with closing(place.log.reader({place.changes: 0, TopicPartition(place.changelog, 1): 0})) as reader:
            got = {r.value: r.offset for r in read(reader, 2)}
        assert set(got) == {b"v", b"sent"}
        assert ends == {place.changes: got[b"v"] + 1}
        member.poll(0.5)
        assert member.owned() == place.sources
        committer.close()
        member.leave()
    finally:
        broker.stop()


def test_a_transaction_that_was_open_for_too_long_is_given_up(brokers: str, unique: Callable[[str], str]) -> None:
    place = Place(brokers, unique("groups"), {"transaction.timeout.ms": "1000"})
    member, committer = place.owner(), place.committer(place.name)
    between_flush_and_offsets(member, lambda: place.wait_for_end(2))  # aborted by the coordinator
    for _ in range(2):
        started = time.monotonic()
        with expect(Fenced, place.name):
            committer.commit({place.changes: [(b"k", b"late")]}, {min(place.sources): 1}, member)
        assert time.monotonic() - started < PATIENCE
    committer.close()
    with closing(place.committer(place.name)) as fresh:
        member.metadata = KafkaMember.metadata.__get__(member)  # type: ignore[method-assign]
        fresh.commit({place.changes: [(b"k", b"again")]}, {min(place.sources): 1}, member)
    assert place.values(1) == [b"again"]
    member.leave()
