"""What librdkafka is told, and what its errors mean to us. Pure: no Kafka client is imported here.

Settings are named in librdkafka's CONFIGURATION.md. The first of each pair is tuning, which the user's own settings
override; the second is what correctness rests on, which nothing does.
"""

from __future__ import annotations

from typing import Any

from streamkit.errors import BrokerUnreachable, Fenced, LogError, OffsetOutOfRange, TopicMissing

READER: dict[str, Any] = {
    # A queue that runs empty starves the fetcher, and a full one stops it for 1 s by default. But what was fetched
    # should still be in the processor's cache when it is decoded: with 256 MB, 32 MB a partition, it took 20 % longer.
    "queued.min.messages": 1_000_000,
    "queued.max.messages.kbytes": 32_768,
    "fetch.queue.backoff.ms": 20,
    "fetch.max.bytes": 8_388_608,
    "max.partition.fetch.bytes": 2_097_152,
    "fetch.wait.max.ms": 100,
}
READER_REQUIRED: dict[str, Any] = {
    "isolation.level": "read_committed",
    # Nothing is ever committed to it, nobody joins it: librdkafka asks for a name.
    "group.id": "streamkit-reader",
    "enable.auto.commit": False,
    # Any other policy would jump over deleted records in silence.
    "auto.offset.reset": "error",
    # Control records at a partition's end are seen only by this event.
    "enable.partition.eof": True,
}
WRITER: dict[str, Any] = {
    "linger.ms": 10,
    "compression.type": "lz4",
    "queue.buffering.max.messages": 500_000,
    "queue.buffering.max.kbytes": 262_144,
    "message.timeout.ms": 60_000,
    # `create` returns a topic that is there, so one that is not was never made: do not wait 30 s for it.
    "topic.metadata.propagation.max.ms": 5_000,
}
WRITER_REQUIRED: dict[str, Any] = {
    "enable.idempotence": True,
    "partitioner": "murmur2_random",
    "delivery.report.only.error": True,
}
MEMBER_REQUIRED: dict[str, Any] = {
    # The broker shares the partitions out, and moves only those that must move (KIP-848).
    "group.protocol": "consumer",
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
    # Its partitions are paused, and its queue is never to hold a record.
    "queued.min.messages": 1,
}
TRANSACTION_TIMEOUT_MS = 15_000
"""The coordinator aborts a transaction that is open for longer, so a dead worker holds readers back no longer."""

MISSING = frozenset({"UNKNOWN_TOPIC_OR_PART", "UNKNOWN_TOPIC_ID", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION"})
OUT_OF_RANGE = frozenset({"OFFSET_OUT_OF_RANGE", "_AUTO_OFFSET_RESET"})
NO_LEADERS = "_NOENT"
"""librdkafka's word where no partition of a request has a leader: while brokers restart, and when they do not."""
UNREACHABLE = frozenset({"_ALL_BROKERS_DOWN", "_TRANSPORT", "_TIMED_OUT", "_RESOLVE", NO_LEADERS})
COORDINATOR = frozenset({"COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR"})
MOVING = COORDINATOR | {
    "NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE", "NOT_CONTROLLER", "UNKNOWN_LEADER_EPOCH", "FENCED_LEADER_EPOCH",
    "OFFSET_NOT_AVAILABLE", NO_LEADERS,
    # librdkafka has given up the broker that was asked, while it waited for the answer: seen after a restart.
    "_DESTROY_BROKER",
}  # fmt: skip
"""Answered while a partition's, the controller's or a coordinator's leadership is on its way to another broker."""
PASSING = UNREACHABLE | MOVING | {
    "_MSG_TIMED_OUT", "_TIMED_OUT_QUEUE", "_WAIT_COORD", "REQUEST_TIMED_OUT", "CONCURRENT_TRANSACTIONS",
    "NOT_ENOUGH_REPLICAS", "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
    # What follows a record that was given up: the ones after it have numbers that the broker does not expect.
    "OUT_OF_ORDER_SEQUENCE_NUMBER", "UNKNOWN_PRODUCER_ID",
}  # fmt: skip
"""What goes by while brokers restart: a transaction that failed by it is begun again."""
STALE = frozenset({"STALE_MEMBER_EPOCH", "ILLEGAL_GENERATION"})
"""A rebalance came between taking the member's epoch and the coordinator's look at it.

In transactions the coordinator calls it by the older name, which clients without KIP-848 know, too.
"""
FENCED = frozenset({
    "_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH", "INVALID_PRODUCER_ID_MAPPING", "INVALID_TXN_STATE",
    "UNKNOWN_MEMBER_ID", "FENCED_MEMBER_EPOCH", "FENCED_INSTANCE_ID", "GROUP_ID_NOT_FOUND",
})  # fmt: skip
"""Another process has the transactional id, the coordinator gave the transaction up, or the member is one no more."""
TIMED_OUT = "_MSG_TIMED_OUT"
"""A record was not on the log within `message.timeout.ms`: nobody was there to take it."""
PURGED = frozenset({"_PURGE_QUEUE", "_PURGE_INFLIGHT"})
REFUSED = frozenset({"_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED", "_SSL"})


def log_error(name: str, reason: str, about: str, brokers: str) -> LogError:
    """The error to raise for librdkafka's error `name` with text `reason`.

    >>> log_error("_TRANSPORT", "Connection refused", "topic clicks", "kafka:9092")
    ... # doctest: +ELLIPSIS
    BrokerUnreachable('topic clicks: no Kafka broker answers at kafka:9092 (Connection refused): is it running? ...')
    >>> log_error("POLICY_VIOLATION", "Broker: Policy violation", "topic clicks", "kafka:9092")
    LogError('topic clicks: Broker: Policy violation (POLICY_VIOLATION) at kafka:9092')
    """
    if name in UNREACHABLE:
        return BrokerUnreachable(
            f"{about}: no Kafka broker answers at {brokers} ({reason}): is it running? "
            "`streamkit broker start`, or name another with --brokers / STREAMKIT_BROKERS"
        )
    if name in REFUSED:
        return BrokerUnreachable(f"{about}: {brokers} refused this client ({reason}): check its SASL / TLS settings")
    if name in MISSING:
        return TopicMissing(f"{about}: does not exist at {brokers}; is it the right cluster, is the name right?")
    if name in OUT_OF_RANGE:
        return OffsetOutOfRange(f"{about}: {reason}")
    if name in FENCED | STALE:
        return Fenced(
            f"{about}: {reason} ({name}): another worker has taken over; start again from the last Checkpoint"
        )
    return LogError(f"{about}: {reason} ({name}) at {brokers}")
