"""Reading: the Reader of assigned partitions, over a data plane that is exchanged under load, and when it gives up."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, KafkaError, KafkaException

from streamkit.errors import LogError, OffsetOutOfRange
from streamkit.log import client
from streamkit.log.kafka.direct import DirectPlane
from streamkit.log.kafka.flat import FlatPlane
from streamkit.log.kafka.librdkafka import Unusable
from streamkit.log.kafka.plane import Fetched, MessagePlane, Plane
from streamkit.native.loader import Loops, loader
from streamkit.record import Chunk, TopicPartition

if TYPE_CHECKING:
    from streamkit.log.kafka.log import KafkaLog

logger = logging.getLogger(__name__)

BULK, BULKS = 5_000, 3
"""Polls that bring so many records, and so many of them, are a load: planes without Message objects are made for it."""
DIRECT = "STREAMKIT_DIRECT"
"""Environment: `off` for never to ask brokers but through librdkafka."""


class KafkaReader:
    """A Reader by `assign` at given offsets: no group membership, so no rebalance can move it."""

    def __init__(self, log: KafkaLog, positions: Mapping[TopicPartition, int]) -> None:
        self._log, self._cluster = log, log.cluster
        self._positions = dict(positions)
        self._failures: dict[TopicPartition | None, LogError] = {}
        self._down = False
        self._crowded, self._bulks = 0, BULKS
        # Where the loops are loaded already, or are wanted from the first record on.
        loops = loader.load() if loader.wanted == "on" else loader.loops()
        self._plane: Plane = self._direct(loops) or self._by_librdkafka(loops)
        if positions:
            self._add(positions)

    def poll(self, max_records: int, timeout: float) -> list[Chunk]:
        """As `Reader.poll`. While brokers restart it waits, as for records: librdkafka reconnects."""
        deadline = time.monotonic() + timeout
        self._consider()  # with nothing in hand that an error could lose
        while True:
            if self._failures:
                raise next(iter(self._failures.values()))
            fetched = self._fetch(max_records, max(0.0, deadline - time.monotonic()))
            before = None if fetched.chunks else dict(self._positions)
            self._note_events(fetched)
            for source, end in fetched.ends.items():
                self._advance(source, end)
            if fetched.chunks:
                self._down = False
                self._crowded += sum(map(len, fetched.chunks)) >= BULK
                return fetched.chunks
            if before != self._positions or (not self._failures and time.monotonic() >= deadline):
                return []

    def positions(self) -> dict[TopicPartition, int]:
        return dict(self._positions)

    def seek(self, source: TopicPartition, offset: int) -> None:
        if source not in self._positions:
            raise LogError(f"{source}: not read by this reader, which reads {', '.join(map(str, self._positions))}")
        # Taken away and given back: `Consumer.seek` is refused once an error has stopped the partition's fetch.
        self._plane.remove([source])
        self._positions[source] = offset
        self._add({source: offset})
        self._failures.pop(source, None)

    def add(self, positions: Mapping[TopicPartition, int]) -> None:
        self._log.check(positions)
        self.remove(positions)  # a partition that is read already is refused otherwise
        self._positions.update(positions)
        self._add(positions)

    def remove(self, sources: Collection[TopicPartition]) -> None:
        gone = [source for source in sources if source in self._positions]
        self._plane.remove(gone)
        for source in gone:
            del self._positions[source]
            self._failures.pop(source, None)

    def close(self) -> None:
        self._plane.close()

    # -- planes -------------------------------------------------------------------------------------------------------

    def _by_message(self) -> MessagePlane:
        heard = {**client.READER_REQUIRED, "error_cb": self._on_error}
        return MessagePlane(self._cluster.client(Consumer, client.READER, heard))

    def _by_librdkafka(self, loops: Loops | None) -> Plane:
        """The flat plane, where it can be."""
        if loops is not None:
            try:
                return FlatPlane(self._cluster.settings(client.READER, client.READER_REQUIRED), loops, self._on_error)
            except Unusable as reason:
                loader.give_up(str(reason))
        return self._by_message()

    def _direct(self, loops: Loops | None) -> DirectPlane | None:
        """The direct plane, where it can be."""
        if loops is None or os.environ.get(DIRECT) == "off":
            return None
        try:
            return DirectPlane(self._cluster, loops)
        except Unusable as reason:
            logger.debug("%s", reason)
            return None

    def _consider(self) -> None:
        """Go over to a quicker plane where records come in bulk, at the first poll at which its loops are there.

        What the old plane has buffered is fetched again; `_positions` is where the new one begins.
        """
        if isinstance(self._plane, DirectPlane) or self._crowded < self._bulks or loader.wanted == "off":
            return
        if (loops := loader.ready()) is None:
            return
        if (direct := self._direct(loops)) is not None:
            logger.info("records come in bulk: asking the brokers directly from here on")
            self._exchange(direct)
        elif isinstance(self._plane, MessagePlane):
            logger.info("records come in bulk: reading them without an object each from here on")
            self._exchange(self._by_librdkafka(loops))

    def _exchange(self, plane: Plane) -> None:
        self._plane.close()
        self._plane = plane
        self._add(self._positions)

    def _add(self, positions: Mapping[TopicPartition, int]) -> None:
        try:
            self._plane.add(positions)
        except Unusable as reason:
            self._go_back(reason)

    def _go_back(self, reason: Unusable) -> None:
        """To librdkafka, which says what an error means, or waits for the broker; every time for longer."""
        logger.info("reading by librdkafka for now: %s", reason)
        self._crowded, self._bulks = 0, 4 * self._bulks
        self._exchange(self._by_librdkafka(loader.loops()))

    def _fetch(self, max_records: int, wait: float) -> Fetched:
        try:
            return self._plane.fetch(max_records, wait)
        except Unusable as reason:
            self._go_back(reason)
            return Fetched([], {}, [])
        except KafkaException as failure:
            raise self._cluster.error(failure, "reader") from failure

    def _note_events(self, fetched: Fetched) -> None:
        """Ends of partitions, and errors; what is of a partition that is not read any more is nobody's."""
        for event in fetched.events:
            if event.error.code() == KafkaError._PARTITION_EOF:
                self._advance(event.source, event.offset)
            else:
                self._fail(event.error, event.source, event.offset)

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
            self._failures[source] = self._cluster.error(error, str(source))

    def _range(self, source: TopicPartition) -> str:
        try:
            start, end = (ask(source.topic).get(source.partition) for ask in (self._log.starts, self._log.ends))
        except LogError as unknown:
            return f"a range that cannot be told ({unknown})"
        return f"[{start}, {end})"

    def _on_error(self, error: KafkaError) -> None:
        if error.name() in client.REFUSED or error.fatal():
            self._failures[None] = self._cluster.error(error, "reader")
        elif error.code() == KafkaError._ALL_BROKERS_DOWN and not self._down:
            self._down = True
            logger.warning("no Kafka broker answers at %s; still trying", self._cluster.connection.brokers)
        else:
            logger.debug("reader: %s", error)
