"""Committers: a Checkpoint's records and offsets on the log, in one transaction or, at least once, in order."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place

from streamkit.errors import BrokerUnreachable, Fenced, LogError
from streamkit.log import client
from streamkit.log.base import Member
from streamkit.log.kafka.cluster import Cluster
from streamkit.log.kafka.member import KafkaMember
from streamkit.log.kafka.patience import in_time
from streamkit.log.kafka.sender import CALL_SECONDS, FAILED_BEFORE, Changes, HeldRecord, Sender
from streamkit.record import Headers, TopicPartition

logger = logging.getLogger(__name__)

Offsets = Mapping[TopicPartition, int]

START_SECONDS = 60.0
"""How long a transaction coordinator may take to load, and to abort what a dead process has left open."""
STALE_TRIES = 10
"""The answer with the new epoch is on its way when the old one is refused; after 5 s it is not."""


class OrderedCommitter:
    """A Committer at least once: idempotent, records are sent as they come, and what is behind comes last."""

    def __init__(self, cluster: Cluster) -> None:
        self._sender = Sender(cluster)

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        timestamp: int | None = None,
        headers: Headers = (),
        partition: int | None = None,
    ) -> None:
        try:
            self._sender.send(HeldRecord(topic, value, key, timestamp, headers, partition))
        except KafkaException as failure:
            logger.debug("told by the next commit: %s", failure)

    def held(self) -> int:
        return 0

    def commit(self, changes: Changes, offsets: Offsets, member: Member) -> dict[TopicPartition, int]:
        """The Changes go when everything that was sent is on the log, so a Checkpoint never claims what is not."""
        assert isinstance(member, KafkaMember)
        self._flush()
        try:
            self._sender.send_changes(changes)
        except KafkaException as failure:
            logger.debug("raised by the flush: %s", failure)
        self._flush()
        member.commit(offsets)
        return dict(self._sender.ends)

    def discard(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        self._sender.close()

    def _flush(self) -> None:
        try:
            self._sender.flush()
        except KafkaException as fatal:
            raise self._sender.cluster.error(fatal, "committer") from fatal
        failure = self._sender.take_failure()
        if failure is not None:
            raise self._sender.delivery_failed(*failure)


class TransactionalCommitter:
    """A Committer by Kafka's transactions (KIP-98), fenced by transactional id and by group membership (KIP-447)."""

    def __init__(self, cluster: Cluster, transactional_id: str) -> None:
        self._about = f"transactional id {transactional_id}"
        self._cluster = cluster
        self._lock = threading.Lock()
        self._held: list[HeldRecord] = []
        self._bytes = 0
        self._open = self._warned = self._stuck = False
        self._dead: LogError | None = None
        timeout = cluster.connection.client.get("transaction.timeout.ms", client.TRANSACTION_TIMEOUT_MS)
        self._seconds = int(timeout) / 1000
        # A record that is not on the log when its transaction has timed out is not waited for.
        limits = {"transaction.timeout.ms": timeout, "message.timeout.ms": timeout}
        # All records are there at once, and wait for the coordinator as it is: to linger makes no larger batches.
        own = {"transactional.id": transactional_id, "linger.ms": 0}
        self._sender = Sender(cluster, **own, **limits)
        self._producer = self._sender.producer
        self._start()

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        timestamp: int | None = None,
        headers: Headers = (),
        partition: int | None = None,
    ) -> None:
        record = HeldRecord(topic, value, key, timestamp, headers, partition)
        with self._lock:
            self._held.append(record)
            self._bytes += record.size()

    def held(self) -> int:
        return self._bytes

    def commit(self, changes: Changes, offsets: Offsets, member: Member) -> dict[TopicPartition, int]:
        """One transaction, begun again for as long as nothing but brokers that restart is in its way.

        A failure that librdkafka calls fatal is final: this Committer raises it again from then on. Where there are
        no offsets the coordinator is not asked about the member.
        """
        assert isinstance(member, KafkaMember)
        if self._dead is not None:
            raise self._dead
        member.check(offsets)
        with self._lock:
            records = list(self._held)  # what an agent sends from here on is of the next commit
        if not (records or offsets or any(changes.values())):
            return {}
        self._warned, stale = False, 0
        while True:
            failed = self._attempt(records, changes, offsets, member)
            if failed is None:
                break
            topic, error = failed
            if error.name() in client.STALE and stale < STALE_TRIES:
                stale += 1
                time.sleep(0.1 * stale)
            elif error.name() in client.PASSING:
                self._pause(error)
            elif topic is not None and error.name() not in client.FENCED | client.STALE:
                raise self._sender.delivery_failed(topic, error)
            else:
                raise self._cluster.error(error, self._about)
        self._drop(len(records))
        return dict(self._sender.ends)

    def discard(self) -> None:
        self._drop(len(self._held))

    def close(self) -> None:
        """As `Committer.close`; an open transaction would hold readers back until its timeout, so it is aborted."""
        if self._stuck:
            return  # a thread is in the producer, and would be in what is freed
        if self._open and self._dead is None:
            try:
                self._sender.purge()
                self._producer.abort_transaction(1.0)
            except KafkaException as failure:
                logger.debug("%s: transaction left open: %s", self._about, failure)
        self._sender.close()

    def _start(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._producer.init_transactions(CALL_SECONDS)
            except KafkaException as failure:
                error: KafkaError = failure.args[0]
                if not error.retriable() or time.monotonic() > deadline:
                    raise self._cluster.error(error, self._about) from failure
                self._pause(error)
            else:
                return

    def _attempt(
        self, records: Sequence[HeldRecord], changes: Changes, offsets: Offsets, member: KafkaMember
    ) -> tuple[str | None, KafkaError] | None:
        """One transaction: None, or what it failed by and the topic of the record that did; then it is aborted."""
        self._abort()  # what an interrupt has left open
        try:
            self._transaction(records, changes, offsets, member)
        except KafkaException as failure:
            error: KafkaError = failure.args[0]
            if error.fatal():
                self._die(error)
            self._abort()
            return self._sender.take_failure() or (None, error)
        return None

    def _transaction(
        self, records: Sequence[HeldRecord], changes: Changes, offsets: Offsets, member: KafkaMember
    ) -> None:
        """Records, flush, offsets, commit: in this order, on which taking a partition over rests.

        A worker whose membership has run out (a zombie) may be anywhere in here when another one is given its
        partitions. From then on its offsets are refused, and with them the transaction. If they got in before that,
        every record of the transaction was on the log by then, thanks to the flush: below the high watermark that the
        new owner reads after it was assigned; and it waits until the last stable offset has come to that high
        watermark, which is when this transaction is over. Either way it reads all of it, or nothing.

        Offsets first would let this happen: zombie: offsets taken; new owner: assigned, reads the high watermark, finds
        nothing open below it; zombie: records, commit; and the new owner goes on from a state without them.
        """
        self._sender.take_failure()
        self._producer.begin_transaction()
        self._open = True
        try:
            for record in records:
                self._sender.send(record)
            self._sender.send_changes(changes)
        except KafkaException as failure:
            if failure.args[0].code() in FAILED_BEFORE:
                # The transaction has failed already, so this cannot commit it: it raises why.
                self._producer.commit_transaction(CALL_SECONDS)
            raise
        self._sender.flush()
        if self._sender.failure is not None:
            raise KafkaException(self._sender.failure[1])
        places = [Place(*source, offset) for source, offset in offsets.items()]
        # Asked in this thread: it may be within the consumer's callback (partitions that are given back), and the
        # consumer answers no other thread before that is over.
        metadata = member.metadata()
        self._patiently(lambda: self._producer.send_offsets_to_transaction(places, metadata, CALL_SECONDS))
        self._patiently(lambda: self._producer.commit_transaction(CALL_SECONDS))
        self._open = False

    def _abort(self) -> None:
        if not self._open:
            return
        try:
            self._sender.purge()
            self._patiently(lambda: self._producer.abort_transaction(CALL_SECONDS))
        except KafkaException as failure:
            # The coordinator has aborted it by itself when it had been open for too long, and fenced it with that.
            self._die(failure.args[0])
        self._open = False

    def _patiently(self, call: Callable[[], None]) -> None:
        """Call again while the answer does not come: librdkafka goes on with the call that is under way.

        For as long as the coordinator keeps a transaction open, and no longer: then it has aborted it by itself, and a
        new producer, to which it is told at once, is the way on.
        """
        deadline = time.monotonic() + self._seconds
        while True:
            try:
                return in_time(call, max(1.0, deadline - time.monotonic()))
            except TimeoutError:
                self._stuck = True
                self._give_up()
            except KafkaException as failure:
                error: KafkaError = failure.args[0]
                if error.fatal() or error.txn_requires_abort() or not error.retriable():
                    raise
                if time.monotonic() > deadline:
                    self._give_up()
                self._pause(error)

    def _pause(self, error: KafkaError) -> None:
        """Before another try. Raises BrokerUnreachable where trying is of no use."""
        try:
            self._producer.poll(0)
        except KafkaException as failure:  # a fatal error is raised by whatever call comes next
            self._die(failure.args[0])
        if self._sender.refused is not None:
            raise self._cluster.error(self._sender.refused, self._about)
        if not self._warned:
            self._warned = True
            logger.warning("%s: %s (%s); still trying", self._about, error.str(), error.name())
        time.sleep(0.1)

    def _give_up(self) -> NoReturn:
        brokers = self._cluster.connection.brokers
        self._dead = BrokerUnreachable(
            f"{self._about}: no answer from {brokers} for {self._seconds:g} s; begin again at the last Checkpoint"
        )
        raise self._dead

    def _die(self, error: KafkaError) -> NoReturn:
        """The producer is done for, not its user: with another one it can begin again, whatever was sent meanwhile."""
        dead = self._cluster.error(error, self._about)
        if not isinstance(dead, Fenced | BrokerUnreachable):
            dead = Fenced(f"{dead}: its producer can go on no more; begin again at the last Checkpoint")
        self._dead = dead
        raise dead

    def _drop(self, count: int) -> None:
        with self._lock:
            self._bytes -= sum(record.size() for record in self._held[:count])
            del self._held[:count]
