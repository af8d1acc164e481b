"""The log on Apache Kafka, by confluent-kafka (librdkafka). The only module that imports it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import cached_property, partial
from itertools import groupby
from typing import Any, TypeVar

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, Producer, TopicCollection
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec, TopicDescription  # type: ignore[attr-defined]

from streamkit.errors import DeliveryFailed, LogError, OffsetOutOfRange, TopicChanged, TopicMissing
from streamkit.log import client
from streamkit.log.base import TopicInfo
from streamkit.record import Chunk, Headers, TopicPartition
from streamkit.settings import Connection

logger = logging.getLogger(__name__)
T = TypeVar("T")

REQUEST_SECONDS = 8.0
"""How long a broker may take to answer before it counts as unreachable."""


class _ClientLog:
    """librdkafka's own lines, to `logging` at DEBUG: 20 a second while a broker restarts. What matters is raised."""

    def log(self, level: int, message: str, *args: object) -> None:
        del level
        logger.debug(message, *args)


class KafkaLog:
    """A Log on the cluster at `connection`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._admin: AdminClient = self._client(AdminClient, {}, {})

    def describe(self, topic: str) -> TopicInfo:
        description = self._describe(topic)
        return TopicInfo(description.name, str(description.topic_id), len(description.partitions))

    def topics(self) -> list[str]:
        names = self._ask("topics", lambda: self._admin.list_topics(timeout=REQUEST_SECONDS)).topics
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

        self._ask(f"topic {topic}", request)
        self._wait(topic, there=True)
        return self.describe(topic)

    def delete(self, topic: str) -> None:
        delete = partial(self._admin.delete_topics, [topic], request_timeout=REQUEST_SECONDS)
        self._ask(f"topic {topic}", lambda: delete()[topic].result())
        self._wait(topic, there=False)

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        for number, offset in before.items():
            request = partial(self._delete_below, Place(topic, number, offset))
            self._ask(f"{topic}/{number}: cannot delete records before {offset}", request)

    def starts(self, topic: str) -> dict[int, int]:
        return self._offsets(topic, OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    def ends(self, topic: str) -> dict[int, int]:
        return self._offsets(topic, OffsetSpec.latest())  # type: ignore[no-untyped-call]

    def reader(self, positions: Mapping[TopicPartition, int], *, group: str | None = None) -> KafkaReader:
        """Raises TopicMissing, TopicChanged and BrokerUnreachable at once, not at the first poll."""
        counts = {topic: self.describe(topic).partitions for topic in {source.topic for source in positions}}
        for source in positions:
            if not 0 <= source.partition < counts[source.topic]:
                raise TopicChanged(f"{source}: the topic has {counts[source.topic]} partitions, numbered from 0")
        return KafkaReader(self, positions, group)

    def writer(self) -> KafkaWriter:
        """Raises BrokerUnreachable at once, so that records are not buffered for nobody."""
        self._ask("writer", lambda: self._admin.cluster_id(timeout=REQUEST_SECONDS))
        return KafkaWriter(self)

    def close(self) -> None:
        """Nothing to let go: librdkafka's handle goes with this object."""

    def _client(self, kind: Callable[..., T], defaults: Mapping[str, Any], required: Mapping[str, Any]) -> T:
        """A librdkafka client: our defaults, over them the user's settings, over them what correctness rests on."""
        settings = {**defaults, **self.connection.client, **required, "bootstrap.servers": self.connection.brokers}
        try:
            return kind(settings, logger=_ClientLog())
        except KafkaException as failure:
            reason = failure.args[0].str()
            raise LogError(f"Kafka client settings: {reason}; see librdkafka's CONFIGURATION.md") from failure

    def _ask(self, about: str, request: Callable[[], T]) -> T:
        """Ask again while leadership moves, as it does for some milliseconds after a topic was made."""
        deadline = time.monotonic() + REQUEST_SECONDS
        while True:
            try:
                return request()
            except KafkaException as failure:
                if failure.args[0].name() not in client.MOVING or time.monotonic() > deadline:
                    raise self._error(failure, about) from failure
                time.sleep(0.02)
            finally:
                # Hands librdkafka's log lines on; they pile up in its queue otherwise.
                self._admin.poll(0)

    def _error(self, failure: KafkaException | KafkaError, about: str) -> LogError:
        error: KafkaError = failure.args[0] if isinstance(failure, KafkaException) else failure
        return client.log_error(error.name(), error.str(), about, self.connection.brokers)

    def _describe(self, topic: str) -> TopicDescription:
        wanted = TopicCollection([topic])
        describe = partial(self._admin.describe_topics, wanted, request_timeout=REQUEST_SECONDS)
        description: TopicDescription = self._ask(f"topic {topic}", lambda: describe()[topic].result())
        return description

    def _delete_below(self, place: Place) -> None:
        self._admin.delete_records([place], request_timeout=REQUEST_SECONDS)[place].result()

    def _offsets(self, topic: str, spec: OffsetSpec) -> dict[int, int]:
        places = {Place(topic, number): spec for number in range(self.describe(topic).partitions)}

        def request() -> dict[int, int]:
            futures: Mapping[Place, Future[Any]] = self._admin.list_offsets(
                places, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_SECONDS
            )
            return {place.partition: future.result().offset for place, future in futures.items()}

        return self._ask(f"topic {topic}", request)

    def _wait(self, topic: str, *, there: bool) -> None:
        """The controller acknowledges a topic before the brokers know of it."""
        deadline = time.monotonic() + REQUEST_SECONDS
        while self._is_led(topic) is not there:
            if time.monotonic() > deadline:
                brokers = self.connection.brokers
                raise LogError(f"topic {topic}: the brokers at {brokers} do not agree on it after {REQUEST_SECONDS} s")
            time.sleep(0.02)

    def _is_led(self, topic: str) -> bool:
        try:
            partitions = self._describe(topic).partitions
        except TopicMissing:
            return False
        return all(p.leader is not None and p.leader.id >= 0 for p in partitions)


class MessageChunk:
    """A Chunk over librdkafka's Message objects; a column is made when it is first asked for."""

    def __init__(self, source: TopicPartition, messages: list[Message]) -> None:
        self.source = source
        self._messages = messages

    # map() over the unbound C method takes half the time of a comprehension that looks it up per message.
    @cached_property
    def offsets(self) -> list[int]:
        return list(map(Message.offset, self._messages))  # type: ignore[arg-type]

    @cached_property
    def values(self) -> list[bytes | None]:
        return list(map(Message.value, self._messages))

    @cached_property
    def keys(self) -> list[bytes | None]:
        return list(map(Message.key, self._messages))

    @cached_property
    def timestamps(self) -> list[int]:
        return [message.timestamp()[1] for message in self._messages]

    @cached_property
    def headers(self) -> list[Headers]:
        return [message.headers() or () for message in self._messages]  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._messages)


class KafkaReader:
    """A Reader by `assign` at given offsets: no group membership, so no rebalance can move it."""

    def __init__(self, log: KafkaLog, positions: Mapping[TopicPartition, int], group: str | None) -> None:
        self._log, self._positions, self._group = log, dict(positions), group
        self._one_topic = len({source.topic for source in positions}) == 1
        self._failures: dict[TopicPartition | None, LogError] = {}
        self._down = False
        callbacks = {"error_cb": self._on_error, "on_commit": _on_commit}
        required = {**client.READER_REQUIRED, **callbacks, "group.id": group or "streamkit-reader"}
        self._consumer: Consumer = log._client(Consumer, client.READER, required)
        self._consumer.assign([Place(s.topic, s.partition, offset) for s, offset in positions.items()])

    def poll(self, max_records: int, timeout: float) -> list[Chunk]:
        """As `Reader.poll`. While brokers restart it waits, as for records: librdkafka reconnects."""
        deadline = time.monotonic() + timeout
        while True:
            if self._failures:
                raise next(iter(self._failures.values()))
            messages = self._fetch(max_records, max(0.0, deadline - time.monotonic()))
            before = None
            # A Message is false when its value is empty and an error is true: test the errors, never the messages.
            if any(map(Message.error, messages)):
                before = dict(self._positions)
                messages = self._note_events(messages)
            if messages:
                self._down = False
                return self._chunks(messages)
            moved = before is not None and before != self._positions
            if moved or (not self._failures and time.monotonic() >= deadline):
                return []

    def positions(self) -> dict[TopicPartition, int]:
        return dict(self._positions)

    def seek(self, source: TopicPartition, offset: int) -> None:
        if source not in self._positions:
            raise LogError(f"{source}: not read by this reader, which reads {', '.join(map(str, self._positions))}")
        # Taken away and given back: `Consumer.seek` is refused once an error has stopped the partition's fetch.
        place = Place(source.topic, source.partition, offset)
        self._consumer.incremental_unassign([place])
        self._consumer.incremental_assign([place])
        self._positions[source] = offset
        self._failures.pop(source, None)

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Without a group there is nobody to tell. Never raises: the truth is in the Store."""
        if self._group is None or not positions:
            return
        places = [Place(s.topic, s.partition, offset) for s, offset in positions.items()]
        try:
            self._consumer.commit(offsets=places, asynchronous=True)
        except KafkaException as failure:
            logger.debug("group %s: positions not committed: %s", self._group, failure)

    def close(self) -> None:
        self._consumer.close()

    def _fetch(self, max_records: int, wait: float) -> list[Message]:
        """`consume(n, t)` waits all of t unless n arrive, so only `poll` may wait."""
        try:
            messages: list[Message] = self._consumer.consume(max_records, 0)
            if not messages and wait > 0:
                first = self._consumer.poll(wait)
                if first is not None:
                    messages = [first]
                    if max_records > 1:
                        messages += self._consumer.consume(max_records - 1, 0)
        except KafkaException as failure:
            raise self._log._error(failure, "reader") from failure
        return messages

    def _chunks(self, messages: list[Message]) -> list[Chunk]:
        """Group by partition. A fetch comes as long runs of one partition: cut runs, do not sort records."""
        numbers = map(Message.partition, messages)
        marks: list[Any] = list(numbers if self._one_topic else zip(map(Message.topic, messages), numbers, strict=True))
        groups: dict[Any, list[Message]] = {}
        if marks.count(marks[0]) == len(marks):
            groups[marks[0]] = messages
        else:
            start = 0
            for mark, same in groupby(marks):
                end = start + sum(1 for _ in same)
                groups.setdefault(mark, []).extend(messages[start:end])
                start = end
        chunks: list[Chunk] = []
        for run in groups.values():
            source = self._source(run[-1])
            self._advance(source, run[-1].offset() + 1)  # type: ignore[operator]
            chunks.append(MessageChunk(source, run))
        return chunks

    def _note_events(self, messages: list[Message]) -> list[Message]:
        """Take events out from between the records: ends of partitions, and errors."""
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._advance(self._source(message), message.offset())
            else:
                self._fail(error, self._source(message), message.offset())
        return records

    def _advance(self, source: TopicPartition, offset: int | None) -> None:
        # An end of partition may come in the same batch as records that were written after it.
        self._positions[source] = max(self._positions[source], offset or 0)

    def _fail(self, error: KafkaError, source: TopicPartition, offset: int | None) -> None:
        """Remember the failure for the next poll: records of this one must still be returned."""
        if error.name() in client.UNREACHABLE or error.retriable():
            self._on_error(error)
        elif error.name() in client.OUT_OF_RANGE:
            there = self._range(source)
            self._failures[source] = OffsetOutOfRange(
                f"{source}: offset {offset} is not on the log, which has {there}: has retention deleted it?"
            )
        else:
            self._failures[source] = self._log._error(error, str(source))

    def _range(self, source: TopicPartition) -> str:
        try:
            start, end = (ask(source.topic).get(source.partition) for ask in (self._log.starts, self._log.ends))
        except LogError as unknown:
            return f"a range that cannot be told ({unknown})"
        return f"[{start}, {end})"

    def _source(self, message: Message) -> TopicPartition:
        return TopicPartition(message.topic(), message.partition())  # type: ignore[arg-type]

    def _on_error(self, error: KafkaError) -> None:
        if error.name() in client.REFUSED or error.fatal():
            self._failures[None] = self._log._error(error, "reader")
        elif error.code() == KafkaError._ALL_BROKERS_DOWN and not self._down:
            self._down = True
            logger.warning("no Kafka broker answers at %s; still trying", self._log.connection.brokers)
        else:
            logger.debug("reader: %s", error)


def _on_commit(error: KafkaError | None, places: list[Place]) -> None:
    if error is not None:
        logger.debug("positions not committed: %s %s", error, places)


class KafkaWriter:
    """An idempotent Writer. A timestamp of None or 0 is stamped with the time of sending."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log
        self._failure: DeliveryFailed | None = None
        required = {**client.WRITER_REQUIRED, "on_delivery": self._on_failure}
        self._producer: Producer = log._client(Producer, client.WRITER, required)

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
        number = -1 if partition is None else partition
        items = list(headers) or None
        while True:
            try:
                self._producer.produce(topic, value, key, number, timestamp=timestamp or 0, headers=items)  # type: ignore[arg-type]
            except BufferError:
                # Only failures are reported, so poll does not wake when room is made: wait in small steps.
                self._producer.poll(0.005)
            except KafkaException as failure:
                self._refuse(topic, failure.args[0])
                return
            else:
                return

    def flush(self) -> None:
        # In steps, so that Ctrl-C gets through.
        while self._producer.flush(1.0):
            pass
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._producer.close()

    def _on_failure(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refuse(str(message.topic()), error)

    def _refuse(self, topic: str, error: KafkaError) -> None:
        if self._failure is None:
            brokers = self._log.connection.brokers
            reason = f"{error.str()} ({error.name()})"
            self._failure = DeliveryFailed(f"a record for topic {topic} was not taken by {brokers}: {reason}")
