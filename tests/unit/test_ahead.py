"""Reading ahead shows nothing of itself: what comes, in which order, from where, and what goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from streamkit.log.memory import MemoryLog
from streamkit.record import Chunk, TopicPartition
from streamkit.speed import ahead
from streamkit.speed.ahead import Read, ReadAhead

LEFT, RIGHT = TopicPartition("t", 0), TopicPartition("t", 1)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "BULK", 4)
    monkeypatch.setattr(ahead, "MOST", 100)
    monkeypatch.setattr(ahead, "_POLL", 5)


class Place:
    """A log, a reader of it that reads ahead, and what it has decoded."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.log.create("t", partitions=2)
        self.decoded: list[tuple[TopicPartition, int, str]] = []
        self.fails_at = -1
        self.reader = ReadAhead(self.log.reader({LEFT: 0, RIGHT: 0}), self.decode)

    def decode(self, chunk: Chunk) -> Read:
        for offset in chunk.offsets:
            if offset == self.fails_at:
                raise MemoryError("too large")
            self.decoded.append((chunk.source, offset, threading.current_thread().name))
        return Read(chunk, None, [])  # type: ignore[arg-type]

    def send(self, count: int, partition: int = 0) -> None:
        with closing(self.log.writer()) as writer:
            for _ in range(count):
                writer.send("t", b"", partition=partition)

    def poll(self) -> list[tuple[TopicPartition, int]]:
        return [(r.chunk.source, offset) for r in self.reader.poll(5, 0.0) for offset in r.chunk.offsets]

    def read_ahead(self) -> int:
        """Until there is no more, or enough; how many records that were."""
        before = len(self.decoded)
        self.reader.begin()
        if self.reader._thread is not None:
            self.reader._thread.join()
        return len(self.decoded) - before


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    with closing(made.reader):
        yield made


def of(source: TopicPartition, *span: int) -> list[tuple[TopicPartition, int]]:
    return [(source, offset) for offset in range(*span)]


def test_what_was_read_ahead_comes_next_and_positions_are_those_of_what_came(place: Place) -> None:
    place.send(30)
    assert place.poll() == of(LEFT, 5)
    assert place.read_ahead() == 25
    assert {name for _, _, name in place.decoded[5:]} == {"streamkit-ahead"}
    assert place.reader.positions() == {LEFT: 5, RIGHT: 0}
    assert place.poll() == of(LEFT, 5, 30)
    assert place.reader.positions() == {LEFT: 30, RIGHT: 0}
    place.send(1)
    assert place.poll() == of(LEFT, 30, 31)


def test_it_reads_ahead_under_load_only_and_so_many_at_most(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.send(3)
    assert place.read_ahead() == 0
    assert place.poll() == of(LEFT, 3)
    place.send(27)
    assert place.read_ahead() == 0, "the last poll brought three"
    place.poll()
    monkeypatch.setattr(ahead, "MOST", 12)
    assert place.read_ahead() == 15, "polls of five until there are twelve"
    assert place.read_ahead() == 0, "what was read ahead was not taken"
    assert place.poll() == of(LEFT, 8, 23)
    assert place.poll() == of(LEFT, 23, 28)


def test_a_partition_that_is_sent_elsewhere_has_nothing_ahead(place: Place) -> None:
    place.send(10)
    place.send(10, partition=1)
    first = place.poll()
    assert place.read_ahead() == 15
    place.reader.seek(LEFT, 2)
    assert place.reader.positions()[LEFT] == 2
    rest = place.poll() + place.poll() + place.poll()
    assert [r for r in rest if r[0] == LEFT] == of(LEFT, 2, 10)
    assert sorted(r for r in first + rest if r[0] == RIGHT) == of(RIGHT, 10)


def test_a_partition_that_is_given_up_or_comes_again_has_nothing_ahead(place: Place) -> None:
    place.send(10)
    place.send(10, partition=1)
    first = place.poll()
    assert place.read_ahead() == 15
    place.reader.remove([LEFT])
    assert LEFT not in place.reader.positions()
    place.reader.add({LEFT: 7})
    rest = place.poll() + place.poll() + place.poll()
    assert [r for r in rest if r[0] == LEFT] == of(LEFT, 7, 10)
    assert sorted(r for r in first + rest if r[0] == RIGHT) == of(RIGHT, 10)


def test_what_goes_wrong_ahead_is_told_after_what_came_before_it(place: Place) -> None:
    place.send(30)
    place.fails_at = 17
    assert place.poll() == of(LEFT, 5)
    place.read_ahead()
    assert place.reader.positions() == {LEFT: 5, RIGHT: 0}
    assert place.poll() == of(LEFT, 5, 15)
    with pytest.raises(MemoryError, match="too large"):
        place.poll()
