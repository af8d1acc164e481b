"""The log itself: topics, their offsets, groups; and where its readers, writers and members come from."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaError, KafkaException, TopicCollection
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConsumerGroupDescription,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    TopicDescription,
)

from streamkit.errors import LogError, TopicChanged, TopicMissing
from streamkit.log import client
from streamkit.log.base import Committer, GroupListener, Look, TopicInfo
from streamkit.log.kafka.cluster import REQUEST_SECONDS, Cluster
from streamkit.log.kafka.committer import OrderedCommitter, TransactionalCommitter
from streamkit.log.kafka.member import KafkaMember
from streamkit.log.kafka.reader import KafkaReader
from streamkit.log.kafka.writer import KafkaWriter
from streamkit.record import TopicPartition
from streamkit.settings import Connection

_Futures = Mapping[Place, "Future[Any]"]


class KafkaLog:
    """A Log on the cluster at `connection`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.cluster = Cluster(connection)
        self._counts: dict[str, int] = {}

    @property
    def _admin(self) -> AdminClient:
        return self.cluster.admin

    def describe(self, topic: str) -> TopicInfo:
        return _info_of(self._describe(topic))

    def topics(self) -> list[str]:
        names = self.cluster.ask("topics", lambda: self._admin.list_topics(timeout=REQUEST_SECONDS)).topics
        return sorted(name for name in names if not name.startswith("__"))

    def create(self, topic: str, *, partitions: int, config: Mapping[str, str] | None = None) -> TopicInfo:
        if partitions < 1:
            raise LogError(f"topic {topic}: expected at least 1 partition, got {partitions}")
        # Replication factor -1 is the broker's own default.
        new = NewTopic(topic, num_partitions=partitions, replication_factor=-1, config=dict(config or {}))

        def request() -> None:
            try:
                self._admin.create_topics([new], request_timeout=REQUEST_SECONDS)[topic].result()
            except KafkaException as failure:
                if failure.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise

        self.cluster.ask(f"topic {topic}", request)
        self._wait(topic, at_least=1)
        return self.describe(topic)

    def grow(self, topic: str, partitions: int) -> TopicInfo:
        more = NewPartitions(topic, partitions)

        def request() -> None:
            if self.describe(topic).partitions < partitions:
                try:
                    self._admin.create_partitions([more], request_timeout=REQUEST_SECONDS)[topic].result()
                except KafkaException as failure:
                    # Two workers start at once: both see 3 of 8 partitions, both ask for 8; the second one's request
                    # is refused, for there are 8 already. Whether it was that is seen below.
                    if failure.args[0].code() != KafkaError.INVALID_PARTITIONS:
                        raise

        self.cluster.ask(f"topic {topic}", request)
        self._wait(topic, at_least=partitions)
        return self.describe(topic)

    def delete(self, topic: str) -> None:
        delete = partial(self._admin.delete_topics, [topic], request_timeout=REQUEST_SECONDS)
        self.cluster.ask(f"topic {topic}", lambda: delete()[topic].result())
        self._wait(topic, at_least=0)

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        self.describe(topic)
        for number, offset in before.items():
            request = partial(self._delete_below, Place(topic, number, offset))
            self.cluster.ask(f"{topic}/{number}: cannot delete records before {offset}", request)

    def starts(self, topic: str) -> dict[int, int]:
        return self._offsets(topic, OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    def ends(self, topic: str, *, committed: bool = True) -> dict[int, int]:
        return self._offsets(topic, OffsetSpec.latest(), committed=committed)  # type: ignore[no-untyped-call]

    def look(self, topics: Collection[str]) -> dict[str, Look]:
        return self.cluster.ask(f"topics {', '.join(topics)}", partial(self._look, topics)) if topics else {}

    def check(self, sources: Iterable[TopicPartition]) -> None:
        """Raises TopicMissing, TopicChanged (no such partition), BrokerUnreachable."""
        wanted = list(sources)
        counts = {topic: self.describe(topic).partitions for topic in {source.topic for source in wanted}}
        for source in wanted:
            if not 0 <= source.partition < counts[source.topic]:
                raise TopicChanged(f"{source}: the topic has {counts[source.topic]} partitions, numbered from 0")

    def reader(self, positions: Mapping[TopicPartition, int]) -> KafkaReader:
        """Raises TopicMissing, TopicChanged and BrokerUnreachable at once, not at the first poll."""
        self.check(positions)
        return KafkaReader(self, positions)

    def writer(self) -> KafkaWriter:
        """Raises BrokerUnreachable at once, so that records are not buffered for nobody."""
        self.cluster.reach("writer")
        return KafkaWriter(self.cluster)

    def join(
        self, group: str, topics: Collection[str], listener: GroupListener, *, name: str = "streamkit"
    ) -> KafkaMember:
        for topic in topics:
            self.describe(topic)
        return KafkaMember(self.cluster, group, topics, listener, name)

    def members(self, group: str) -> dict[str, frozenset[TopicPartition]]:
        description = self.cluster.ask(f"group {group}", partial(self._describe_group, group))
        members = () if description is None else description.members
        return {m.member_id: frozenset(map(_source, m.assignment.topic_partitions)) for m in members}

    def group_offsets(self, group: str) -> dict[TopicPartition, int]:
        about = f"group {group}"
        wanted = [ConsumerGroupTopicPartitions(group)]
        ask = partial(self._admin.list_consumer_group_offsets, wanted, request_timeout=REQUEST_SECONDS)
        found = self.cluster.ask(about, lambda: ask()[group].result()).topic_partitions or ()
        return {_source(place): place.offset for place in found if place.offset >= 0}

    def committer(self, transactional_id: str | None = None) -> Committer:
        about = "committer" if transactional_id is None else f"transactional id {transactional_id}"
        self.cluster.reach(about)
        if transactional_id is None:
            return OrderedCommitter(self.cluster)
        return TransactionalCommitter(self.cluster, transactional_id)

    def close(self) -> None:
        """Nothing to let go: librdkafka's handle goes with this object."""

    def _describe(self, topic: str) -> TopicDescription:
        wanted = TopicCollection([topic])
        describe = partial(self._admin.describe_topics, wanted, request_timeout=REQUEST_SECONDS)
        description: TopicDescription = self.cluster.ask(f"topic {topic}", lambda: describe()[topic].result())
        return description

    def _describe_group(self, group: str) -> ConsumerGroupDescription | None:
        describe = self._admin.describe_consumer_groups([group], request_timeout=REQUEST_SECONDS)
        try:
            description: ConsumerGroupDescription = describe[group].result()
        except KafkaException as failure:
            # librdkafka 2.16 describes it as a dead group without members instead; brokers since 4.0 can say this.
            if failure.args[0].name() == "GROUP_ID_NOT_FOUND":
                return None
            raise
        return description

    def _delete_below(self, place: Place) -> None:
        self._admin.delete_records([place], request_timeout=REQUEST_SECONDS)[place].result()

    def _offsets(self, topic: str, spec: OffsetSpec, *, committed: bool = True) -> dict[int, int]:
        counts = {topic: self.describe(topic).partitions}

        def request() -> dict[int, int]:
            futures = self._list_offsets(counts, spec, committed=committed)
            return {place.partition: future.result().offset for place, future in futures.items()}

        return self.cluster.ask(f"topic {topic}", request)

    def _list_offsets(self, counts: Mapping[str, int], spec: OffsetSpec, *, committed: bool) -> _Futures:
        places = {Place(topic, number): spec for topic, count in counts.items() for number in range(count)}
        isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        return self._admin.list_offsets(places, isolation_level=isolation, request_timeout=REQUEST_SECONDS)

    def _look(self, topics: Collection[str]) -> dict[str, Look]:
        """The ends are asked for before it is known how many partitions there are: as many as there were, most often.

        One after the other they would take four times as long.
        """
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        counts = {topic: self._counts[topic] for topic in topics if topic in self._counts}
        asked = self._list_offsets(counts, latest, committed=True) if counts else {}
        described = self._admin.describe_topics(TopicCollection(list(topics)), request_timeout=REQUEST_SECONDS)
        infos = {topic: info for topic, future in described.items() if (info := _info(future)) is not None}
        self._counts |= {topic: info.partitions for topic, info in infos.items()}
        if counts != (now := {topic: info.partitions for topic, info in infos.items()}):
            asked = self._list_offsets(now, latest, committed=True) if now else {}
        ends: dict[str, dict[int, int]] = {topic: {} for topic in now}
        for place, future in asked.items():
            ends[place.topic][place.partition] = future.result().offset
        return {topic: Look(info, ends[topic]) for topic, info in infos.items()}

    def _wait(self, topic: str, *, at_least: int) -> None:
        """Until the topic has that many partitions, or is gone (0): the controller answers before the brokers know."""
        deadline = time.monotonic() + REQUEST_SECONDS
        while (led := self._led(topic)) is None or led < at_least or (led > 0 and at_least == 0):
            if time.monotonic() > deadline:
                brokers = self.connection.brokers
                raise LogError(f"topic {topic}: the brokers at {brokers} do not agree on it after {REQUEST_SECONDS} s")
            time.sleep(0.02)

    def _led(self, topic: str) -> int | None:
        """How many partitions the topic has; None while one of them has no leader."""
        try:
            partitions = self._describe(topic).partitions
        except TopicMissing:
            return 0
        return len(partitions) if all(p.leader is not None and p.leader.id >= 0 for p in partitions) else None


def _info_of(description: TopicDescription) -> TopicInfo:
    return TopicInfo(description.name, str(description.topic_id), len(description.partitions))


def _info(future: Future[TopicDescription]) -> TopicInfo | None:
    """None where there is no such topic. Raises KafkaException."""
    try:
        return _info_of(future.result())
    except KafkaException as failure:
        if failure.args[0].name() in client.MISSING:
            return None
        raise


def _source(place: Place) -> TopicPartition:
    return TopicPartition(place.topic, place.partition)
