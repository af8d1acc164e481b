"""The data plane that asks brokers itself: record batches become columns as they lie, and librdkafka is not in between.

For a record of 240 bytes librdkafka's own thread takes 0.9 us, and nothing makes that less; this takes 0.25 us in all.
It is for the usual case alone. Whatever else comes (a leader moves, a broker goes away, an offset is out of range) it
gives up by `Unusable`, and the reader goes on by librdkafka from where it is: what errors mean is said in one place.

A thread a broker asks, and puts what it makes of the answer where the thread that reads takes it from.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from confluent_kafka import TopicCollection

from streamkit.errors import LogError
from streamkit.log import client
from streamkit.log.kafka.batches import Batches, Malformed, chunk_of, find
from streamkit.log.kafka.cluster import REQUEST_SECONDS, Cluster
from streamkit.log.kafka.librdkafka import Unusable
from streamkit.log.kafka.plane import Fetched
from streamkit.log.kafka.wire import Address, Limits, Wire
from streamkit.native.loader import Loops
from streamkit.record import Chunk, FlatChunk, TopicPartition

_BEYOND = ("client.rack", "check.crcs")
"""Settings for what librdkafka does and this does not: to read from a replica nearby (KIP-392), to check sums."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a partition is fetched from. `turn` tells what was asked for before a seek from what came after."""

    turn: int
    address: Address
    offset: int


@dataclass(slots=True)
class _Ready:
    """What was fetched of a partition and not taken yet: records, perhaps none, and the offset after them."""

    source: TopicPartition
    turn: int
    chunk: FlatChunk | None
    end: int
    size: int

    def __len__(self) -> int:
        return 0 if self.chunk is None else len(self.chunk)


class DirectPlane:
    """See `Plane`. Raises Unusable where the settings ask for more than a plain socket."""

    def __init__(self, cluster: Cluster, loops: Loops) -> None:
        settings = cluster.settings(client.READER, client.READER_REQUIRED)
        if str(settings.get("security.protocol", "plaintext")).lower() != "plaintext":
            raise Unusable("brokers are asked directly only where no TLS and no SASL is between")
        if asked := [name for name in _BEYOND if name in settings]:
            raise Unusable(f"brokers are not asked directly with {' and '.join(asked)}")
        self.loops, self.limits = loops, Limits.of(settings)
        self._cluster = cluster
        self._room = int(settings["queued.max.messages.kbytes"]) << 10
        self._changed = threading.Condition()
        # What follows is shared with the fetchers, and touched with `_changed` held.
        self._places: dict[TopicPartition, _Place] = {}
        self._ready: deque[_Ready] = deque()
        self._held, self._turn = 0, 0
        self._failure: str | None = None
        self._closed = False
        self._fetchers: dict[Address, _Fetcher] = {}

    # -- Plane --------------------------------------------------------------------------------------------------------

    def fetch(self, max_records: int, wait: float) -> Fetched:
        """Raises Unusable when nothing is left that was fetched before the trouble came."""
        deadline = time.monotonic() + wait
        chunks: list[Chunk] = []
        ends: dict[TopicPartition, int] = {}
        with self._changed:
            while not self._ready and self._failure is None and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            if not self._ready and self._failure is not None:
                raise Unusable(self._failure)
            while self._ready and (not chunks or len(self._ready[0]) <= max_records):  # rather little than two halves
                source, chunk, end = self._take(max_records)
                if chunk is not None:
                    chunks.append(chunk)
                    max_records -= len(chunk)
                if end is not None:
                    ends[source] = end
            self._changed.notify_all()
        return Fetched(chunks, ends, [])

    def add(self, positions: Mapping[TopicPartition, int]) -> None:
        """Raises Unusable where a partition has no leader at the moment, or nobody says which it is."""
        leaders = self._leaders({source.topic for source in positions})
        with self._changed:
            for source, offset in positions.items():
                if (address := leaders.get(source)) is None:
                    raise Unusable(f"{source} has no leader")
                self._turn += 1
                self._places[source] = _Place(self._turn, address, offset)
                if address not in self._fetchers:
                    self._fetchers[address] = _Fetcher(self, address)
            self._changed.notify_all()

    def remove(self, sources: Collection[TopicPartition]) -> None:
        with self._changed:
            for source in sources:
                self._places.pop(source, None)
            self._drop(lambda ready: ready.source not in self._places)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for fetcher in self._fetchers.values():
            fetcher.close()

    # -- with `_changed` held, in the thread that reads ---------------------------------------------------------------

    def _take(self, most: int) -> tuple[TopicPartition, FlatChunk | None, int | None]:
        """At most so many records of the first that is ready; the rest of it stays."""
        ready = self._ready[0]
        if ready.chunk is not None and len(ready) > most:
            first, ready.chunk = ready.chunk.part(0, most), ready.chunk.part(most, len(ready.chunk))
            return ready.source, first, int(first.offsets_array[-1]) + 1
        self._ready.popleft()
        self._held -= ready.size
        return ready.source, ready.chunk, ready.end

    def _drop(self, stale: Any) -> None:
        for ready in self._ready:
            if stale(ready):
                self._held -= ready.size
        self._ready = deque(ready for ready in self._ready if not stale(ready))
        self._changed.notify_all()

    def _leaders(self, topics: Collection[str]) -> dict[TopicPartition, Address]:
        wanted = TopicCollection(list(topics))
        ask = partial(self._cluster.admin.describe_topics, wanted, request_timeout=REQUEST_SECONDS)
        found: dict[TopicPartition, Address] = {}
        try:
            described = self._cluster.ask("leaders", lambda: {t: future.result() for t, future in ask().items()})
        except LogError as error:
            raise Unusable(str(error)) from error
        for topic, description in described.items():
            for number in description.partitions:
                if number.leader is not None and number.leader.id >= 0:
                    found[TopicPartition(topic, number.id)] = (number.leader.host, number.leader.port)
        return found

    # -- what fetchers call -------------------------------------------------------------------------------------------

    def asked(self, address: Address, *, wait: bool) -> dict[TopicPartition, _Place]:
        """What to ask a broker for next; empty: for nothing.

        With `wait` it waits until there is room for an answer, and something to ask for; then, empty: it is over.
        """
        with self._changed:
            while True:
                if self._closed or self._failure is not None:
                    return {}  # what another broker has would come for ever, and the failure never be seen
                mine = {source: place for source, place in self._places.items() if place.address == address}
                if mine and self._held < self._room:
                    return mine
                if not wait:
                    return {}
                self._changed.wait()

    def move(self, asked: Mapping[TopicPartition, _Place], found: Collection[Batches]) -> None:
        """Ask for what comes after these batches next, and for these partitions last: an answer has room for some."""
        with self._changed:
            for batches in found:
                source = batches.part.source
                place = self._places.get(source)
                if place is not None and place.turn == asked[source].turn:
                    del self._places[source]
                    self._places[source] = _Place(place.turn, place.address, batches.end)

    def hand_over(self, source: TopicPartition, turn: int, chunk: FlatChunk | None, end: int) -> None:
        """Records are ready, unless nobody wants them any more."""
        size = 0 if chunk is None else len(chunk.flat.data)
        with self._changed:
            place = self._places.get(source)
            # seek() came meanwhile: remove and add, in the thread that reads. What was asked for before has an older
            # turn, and what comes of it is not of these positions.
            if place is not None and place.turn == turn:
                self._ready.append(_Ready(source, turn, chunk, end, size))
                self._held += size
                self._changed.notify_all()

    def fail(self, reason: str) -> None:
        with self._changed:
            self._failure = self._failure or reason
            self._changed.notify_all()


class _Fetcher:
    """A thread that asks one broker, and makes columns of what it answers while the next answer is on its way."""

    def __init__(self, plane: DirectPlane, address: Address) -> None:
        self._plane, self._address = plane, address
        self._wire: Wire | None = None
        self._thread = threading.Thread(target=self._run, name="streamkit-fetch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Called when the plane is closed."""
        if self._wire is not None:
            self._wire.close()
        # It may be connecting still, which has its own patience: it is a daemon, and nobody hears of what it fetches.
        self._thread.join(1.0)

    def _run(self) -> None:
        host, port = self._address
        try:
            self._wire = Wire(self._address, self._plane.limits, REQUEST_SECONDS)
            self._fetch(self._wire)
        except (OSError, Malformed, struct.error) as error:
            self._plane.fail(f"{host}:{port}: {error}")
        except Exception as error:  # nobody would hear of it, and the reader wait for ever
            self._plane.fail(f"{host}:{port}: {type(error).__name__}: {error}")
            raise
        finally:
            if self._wire is not None:
                self._wire.close()

    def _fetch(self, wire: Wire) -> None:
        plane = self._plane
        asked = self._ask(wire, wait=True)
        while asked:
            found = list(self._answer(wire, asked))
            plane.move(asked, found)
            before, asked = asked, self._ask(wire, wait=False)
            for batches in found:
                source = batches.part.source
                chunk = chunk_of(plane.loops, batches, before[source].offset)
                plane.hand_over(source, before[source].turn, chunk, batches.end)
            asked = asked or self._ask(wire, wait=True)

    def _ask(self, wire: Wire, *, wait: bool) -> dict[TopicPartition, _Place]:
        asked = self._plane.asked(self._address, wait=wait)
        if asked:
            wire.ask({source: place.offset for source, place in asked.items()})
        return asked

    def _answer(self, wire: Wire, asked: Mapping[TopicPartition, _Place]) -> Iterator[Batches]:
        """Batches of the partitions that have any. An error is Malformed, too: librdkafka is to say what it is."""
        data, parts = wire.answer()
        for part in parts:
            if part.error:
                raise Malformed(f"{part.source} at offset {asked[part.source].offset}: error {part.error}")
            if part.stop > part.start:
                yield find(self._plane.loops, data, part, asked[part.source].offset)
