"""A group's progress as the broker tells it: the same for whatever works in the group."""

from __future__ import annotations

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

TIMEOUT_SECONDS = 30.0


class Watch:
    """Offsets of one topic: what a group has committed, and where the topic ends; both summed over the partitions.

    The topic has no transactions' markers, so that offsets are numbers of events.
    """

    def __init__(self, brokers: str, group: str, topic: str, partitions: int) -> None:
        self._admin = AdminClient({"bootstrap.servers": brokers})
        self._group = group
        self._partitions = [TopicPartition(topic, partition) for partition in range(partitions)]

    def committed(self) -> int:
        """Events committed. A commit inside a transaction counts when the transaction is committed."""
        asked = ConsumerGroupTopicPartitions(self._group, self._partitions)
        answer = self._admin.list_consumer_group_offsets([asked], request_timeout=TIMEOUT_SECONDS)[self._group].result()
        return sum(max(each.offset, 0) for each in answer.topic_partitions)

    def ends(self) -> int:
        """Events on the topic."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = dict.fromkeys(self._partitions, latest)
        answers = self._admin.list_offsets(asked, request_timeout=TIMEOUT_SECONDS)
        return sum(answer.result().offset for answer in answers.values())

    def lag(self) -> int:
        """Events that are not committed; rather more than fewer, since the end is asked for last."""
        committed = self.committed()
        return self.ends() - committed
