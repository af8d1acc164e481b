"""Both logs pass the contracts of groups and commits; and what only a real broker can show."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions

from streamkit.log.base import Log, Member
from streamkit.log.kafka import KafkaLog, KafkaMember
from streamkit.log.memory import MemoryLog
from streamkit.log.memory_group import MemoryMember
from streamkit.record import TopicPartition
from streamkit.settings import Connection
from streamkit.testing.commit_contracts import CommitContract


class TestMemoryGroups(CommitContract):
    @pytest.fixture(autouse=True)
    def _log(self) -> None:
        self.log = MemoryLog()

    def make_log(self) -> Log:
        return self.log

    def expire(self, member: Member) -> None:
        assert isinstance(member, MemoryMember)
        self.log.expire(member)

    def committed(self, log: Log, group: str) -> Mapping[TopicPartition, int]:
        assert log is self.log
        return self.log.committed.get(group, {})


@pytest.mark.kafka
class TestKafkaGroups(CommitContract):
    @pytest.fixture(autouse=True)
    def _brokers(self, brokers: str) -> None:
        self.brokers = brokers

    def make_log(self) -> Log:
        return KafkaLog(Connection(self.brokers))

    def expire(self, member: Member) -> None:
        """It leaves without its listener hearing of it, and goes on with the identity that it had."""
        assert isinstance(member, KafkaMember)
        owned, identity = member._owned, member.metadata()
        member._owned = set()
        member._consumer.close()
        member._owned = owned
        member.metadata = lambda: identity  # type: ignore[method-assign]

    def committed(self, log: Log, group: str) -> Mapping[TopicPartition, int]:
        assert isinstance(log, KafkaLog)
        asked = [ConsumerGroupTopicPartitions(group)]
        found = log.cluster.admin.list_consumer_group_offsets(asked)[group].result(20)
        return {TopicPartition(place.topic, place.partition): place.offset for place in found.topic_partitions}
