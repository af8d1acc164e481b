"""Changelog records that go to the producer by one call for many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest

from streamkit.log.base import Change
from streamkit.log.kafka import KafkaLog, bulk
from streamkit.log.kafka.committer import TransactionalCommitter
from streamkit.log.kafka.librdkafka import Unusable
from streamkit.record import TopicPartition
from streamkit.settings import Connection
from streamkit.testing.contracts import read
from streamkit.testing.group_contracts import Hearer


@contextmanager
def committing(
    brokers: str, name: str, settings: Mapping[str, Any]
) -> Iterator[Callable[[list[Change]], list[Change]]]:
    """Commits changes to a changelog; returns what a reader then has of it."""
    source = TopicPartition(name, 1)
    with ExitStack() as stack:
        log = stack.enter_context(closing(KafkaLog(Connection(brokers, client=settings))))
        log.create(name, partitions=2)
        stack.callback(log.delete, name)
        member = log.join(f"{name}-group", [name], Hearer())
        stack.callback(member.leave)
        committer = log.committer(f"{name}-id")
        stack.callback(committer.close)
        assert isinstance(committer, TransactionalCommitter)

        def commit(changes: list[Change]) -> list[Change]:
            ends = committer.commit({source: changes}, {}, member)
            with closing(log.reader({source: 0})) as reader:
                got = [(record.key or b"", record.value) for record in read(reader, len(changes))]
            assert ends == {source: len(changes)}
            return got

        yield commit


CHANGES: list[Change] = [(b"key-%d" % n, None if n % 3 == 0 else b"x" * (n % 5)) for n in range(30_000)]


def test_records_arrive_as_they_were_and_in_their_order(brokers: str, unique: Callable[[str], str]) -> None:
    with committing(brokers, unique("bulk"), {}) as commit:
        assert commit(CHANGES) == CHANGES


def test_what_the_queue_does_not_take_is_sent_one_by_one(brokers: str, unique: Callable[[str], str]) -> None:
    with committing(brokers, unique("bulk"), {"queue.buffering.max.messages": 700}) as commit:
        assert commit(CHANGES[:5_000]) == CHANGES[:5_000]


def test_the_last_change_of_a_key_stays_the_last(brokers: str, unique: Callable[[str], str]) -> None:
    """The queue has no room for the first one, then it has for the second: the first must not come behind it."""
    others: list[Change] = [(b"other-%d" % n, b"x" * 900) for n in range(100)]
    twice: list[Change] = [(b"key", b"x" * 50_000), (b"key", b"the last")]
    with committing(brokers, unique("bulk"), {"queue.buffering.max.kbytes": 100}) as commit:
        changes = [*others, *twice, (b"mark", b"")]
        assert commit(changes) == changes


def test_without_the_client_records_go_one_by_one(
    brokers: str, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(client: object) -> int:
        raise Unusable(f"the client of {client} is elsewhere")

    monkeypatch.setattr(bulk, "client_of", elsewhere)
    with committing(brokers, unique("bulk"), {}) as commit:
        assert commit(CHANGES[:500]) == CHANGES[:500]
