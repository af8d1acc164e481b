"""The log on Apache Kafka, by confluent-kafka (librdkafka). The only package that imports it."""

from streamkit.log.kafka.committer import OrderedCommitter, TransactionalCommitter
from streamkit.log.kafka.log import KafkaLog
from streamkit.log.kafka.member import KafkaMember
from streamkit.log.kafka.reader import KafkaReader
from streamkit.log.kafka.writer import KafkaWriter

__all__ = [
    "KafkaLog",
    "KafkaMember",
    "KafkaReader",
    "KafkaWriter",
    "OrderedCommitter",
    "TransactionalCommitter",
]
