"""Membership in a consumer group by the broker's own protocol (KIP-848): who owns which partition, and no data."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place

from streamkit.errors import Fenced, LogError
from streamkit.log import client
from streamkit.log.base import GroupListener
from streamkit.log.kafka.cluster import Cluster
from streamkit.record import TopicPartition

logger = logging.getLogger(__name__)

STEP_SECONDS = 0.05
"""`Consumer.poll` does not return when it has called back, only when a record or its timeout comes: poll in steps."""


class KafkaMember:
    """A Member. librdkafka's thread sends the heartbeats; what the coordinator asks for is done inside `poll`.

    While the listener is in `revoked` the heartbeats say that the partitions are still owned, so the coordinator gives
    them to nobody else. If the session runs out all the same (the process was stopped), the coordinator knows this
    member no more and refuses its commits; librdkafka joins again only when the listener has heard `lost`.
    """

    def __init__(
        self, cluster: Cluster, group: str, topics: Collection[str], listener: GroupListener, name: str
    ) -> None:
        self.group = group
        self._cluster, self._listener = cluster, listener
        self._owned: set[TopicPartition] = set()
        self._failure: LogError | None = None
        self._leaving = self._left = self._changed = self._down = False
        required = {"group.id": group, "client.id": name, "error_cb": self._on_error, "on_commit": _on_commit}
        self._consumer: Consumer = cluster.client(Consumer, {}, {**client.MEMBER_REQUIRED, **required})
        self._consumer.subscribe(
            sorted(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    @property
    def id(self) -> str:
        return str(self._consumer.memberid())

    def poll(self, timeout: float = 0.0) -> None:
        """As `Member.poll`. Where the listener raises, nothing more is told in this poll."""
        if self._left:
            raise LogError(f"group {self.group}: this member has left; join again")
        deadline = time.monotonic() + timeout
        self._changed = False
        while True:
            left = deadline - time.monotonic()
            self._serve(lambda: self._consumer.poll(max(0.0, min(left, STEP_SECONDS))))  # noqa: B023 (called here)
            if self._failure is not None:
                raise self._failure
            if self._changed or left <= 0:
                return

    def owned(self) -> frozenset[TopicPartition]:
        return frozenset(self._owned)

    def leave(self) -> None:
        """As `Member.leave`; the group is left even where the listener raises."""
        if self._leaving:
            return
        self._leaving = True
        try:
            # Calls `_on_revoke`, or `_on_lost`, for all that is owned, and tells the coordinator afterwards.
            self._serve(self._consumer.close)
        finally:
            self._left = True

    def check(self, sources: Collection[TopicPartition]) -> None:
        """Raises Fenced unless these are this member's own, as far as it knows itself.

        The coordinator looks at the member, not at what it owns; and not even at the member where it never joined.
        """
        foreign = sorted(set(sources) - self._owned)
        if self._left or foreign:
            what = "this member has left" if self._left else f"{', '.join(map(str, foreign))} not this member's own"
            raise Fenced(f"group {self.group}: {what}: nothing of it can be committed")

    def metadata(self) -> Any:
        """Group, member id and epoch as they are now, by which the coordinator checks a transaction's offsets."""
        return self._consumer.consumer_group_metadata()

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Tell the broker the group's positions, without waiting; for lag tools only. Never raises."""
        try:
            self._consumer.commit(offsets=[Place(*s, offset) for s, offset in positions.items()], asynchronous=True)
        except (KafkaException, RuntimeError) as failure:  # RuntimeError: the consumer is closed
            logger.debug("group %s: positions not committed: %s", self.group, failure)

    def _serve(self, call: Callable[[], Any]) -> None:
        try:
            event = call()
        except KafkaException as failure:
            raise self._cluster.error(failure, f"group {self.group}") from failure
        # A record can come in the moment between assigning a partition and pausing it: it is nobody's.
        if event is not None and event.error() is not None:
            self._on_error(event.error())

    def _on_assign(self, consumer: Consumer, places: list[Place]) -> None:
        if not places:
            return
        # Any offset will do: it spares librdkafka asking the coordinator for the group's.
        consumer.incremental_assign([Place(place.topic, place.partition, 0) for place in places])
        consumer.pause(places)
        self._down, self._changed = False, True
        sources = _sources(places)
        self._owned |= sources
        self._listener.assigned(sources)

    def _on_revoke(self, _: Consumer, places: list[Place]) -> None:
        sources = _sources(places) & self._owned
        if not sources:
            return
        self._changed = True
        try:
            self._listener.revoked(sources)
        finally:
            # When this callback is over they are given back, even where the listener raised: what it had not committed
            # is void, and another member is waiting for them.
            self._owned -= sources

    def _on_lost(self, _: Consumer, places: list[Place]) -> None:
        sources = _sources(places) & self._owned
        if not sources:
            return
        self._changed = True
        self._owned -= sources
        self._listener.lost(sources)

    def _on_error(self, error: KafkaError) -> None:
        """librdkafka goes on by itself after most errors; those that nothing but a user can mend are raised."""
        if error.fatal() or error.name() in client.REFUSED | client.MISSING:
            self._failure = self._cluster.error(error, f"group {self.group}")
        elif error.code() == KafkaError._ALL_BROKERS_DOWN and not self._down:
            self._down = True
            brokers = self._cluster.connection.brokers
            logger.warning("group %s: no Kafka broker answers at %s; still trying", self.group, brokers)
        else:
            logger.debug("group %s: %s", self.group, error)


def _sources(places: Iterable[Place]) -> frozenset[TopicPartition]:
    return frozenset(TopicPartition(place.topic, place.partition) for place in places)


def _on_commit(error: KafkaError | None, places: list[Place]) -> None:
    if error is not None:
        logger.debug("positions not committed: %s %s", error, places)
