"""Checkpoints: how the speed layer's state lies in a store and on the changelogs, and the Segments it is divided into.

A Segment is a View's state for exactly the offsets `[start, end)` of one partition. The speed layer writes it, the
serving layer reads it; both find it by the keys made here. A partition's Segments, and how far the View has read, are
one value (`Segments`) that goes into the same Checkpoint as the states: neither can be durable without the other.

All that is known of one source partition (its *task*) lies together in a store, below TASK, and on one partition of a
changelog, under the same keys:

    FORMAT                                  version of all that follows; on a changelog each Mark has it
    POSITION topic \\0 partition            how far this copy of the task has followed its changelog (not on it)
    TASK     topic \\0 partition            then one of:
      MARK                                  the last record of each Checkpoint: when and by whom
      COMPACTION                            from where on the changelog has it all, and what of it is copied: Compaction
      ORIGIN   view                         which definition, of which topic, wrote the states
      SEGMENTS view                         Segments
      STATE    view \\0 segment key window  the Aggregates' states, msgpack
      AGENT    agent \\0 topic             an Agent's next offset
      TABLE    table \\0 key               a Table's value
      GARBAGE  view                         Segments that no reader needs and whose states are not deleted yet

Numbers are big-endian, so that key order is number order; a key is msgpack, which says its own length, so that no
key is the beginning of another.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import repeat
from typing import Any, NamedTuple

import msgspec
import numpy as np

from streamkit.errors import CutMismatch
from streamkit.record import Array, TopicPartition

FORMAT_VERSION = 3
FORMAT_KEY = b"\x00format"
_POSITION, _TASK = b"\x01", b"\x02"
MARK_KEY = b"\x01"
COMPACTION_KEY = b"\x00"
FIRST_KEY = b"\x02"
"""Of what compaction copies: what comes before is in every Checkpoint."""
BLOCK_KEY = b"\x02"
"""Of the records on a changelog that are Blocks; the others are Marks, and end a Checkpoint."""
_ORIGIN, _SEGMENTS, _STATE, _AGENT, _TABLE, _GARBAGE = b"\x02", b"\x03", b"\x04", b"\x05", b"\x06", b"\x07"
_BIAS = 1 << 63
_SIGN = np.uint64(_BIAS)  # x ^ _SIGN of 64 bits is x + _BIAS
_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
pack = msgspec.msgpack.encode

CHANGELOG_CONFIG = {
    # Workers delete what is superseded themselves (see `compaction`), and nothing else may go.
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "segment.bytes": str(64 << 20),
}


def changelog_topic(topology: str, topic: str) -> str:
    """The changelog of a source topic: as many partitions."""
    return f"streamkit.{topology}.changelog.{topic}"


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """The end of a Checkpoint on a changelog: `time` in milliseconds, the worker, and what it has measured.

    `format` comes first in every version, so that any version can tell: see `changelog.unpack_mark`.
    """

    format: int
    time: int
    worker: str
    measured: bytes = b""


class Position(msgspec.Struct, frozen=True, array_like=True):
    """How far a copy of a task has followed its changelog (a topic with this id): all before `offset`.

    `whole` is False while it is being restored, when it shows no Checkpoint but parts of many. `time` is the last
    Mark's. `since` is where the changelog began when the copy was.
    """

    changelog_id: str
    offset: int
    whole: bool
    time: int = 0
    since: int = 0


class Slot(NamedTuple):
    """Where one state belongs: a key (a tuple of the View's key parts) and a window, in milliseconds."""

    key: tuple[Any, ...]
    start: int
    end: int


class Origin(msgspec.Struct, frozen=True):
    """What a View's states were computed by and from."""

    fingerprint: str
    topic: str
    topic_id: str
    reset: str = ""
    """The newest Reset that this state comes after."""


class Segments(msgspec.Struct, frozen=True, array_like=True):
    """The Segments of one View in one partition: the sealed ones, oldest first, and the open one `[start, end)`.

    They are contiguous; `end` is the View's next offset. `whole` is True while they reach down to the log's start as
    the worker found it: without a BatchView, only then are they an answer.

    >>> s = Segments(start=0, end=0).advance(10).seal().advance(15)
    >>> s.sealed, (s.start, s.end)
    (((0, 10),), (10, 15))
    >>> s.after(10)
    ((10, 15),)
    >>> s.adopt(10)
    Segments(start=10, end=15, whole=False, sealed=())
    """

    start: int
    end: int
    whole: bool = True
    sealed: tuple[tuple[int, int], ...] = ()

    def all(self) -> tuple[tuple[int, int], ...]:
        return (*self.sealed, (self.start, self.end))

    def advance(self, end: int) -> Segments:
        return msgspec.structs.replace(self, end=end)

    def seal(self) -> Segments:
        """Close the open Segment: its end is from now on a place where batch and speed can meet."""
        if self.start == self.end:
            return self
        return Segments(self.end, self.end, self.whole, (*self.sealed, (self.start, self.end)))

    def after(self, cut: int) -> tuple[tuple[int, int], ...]:
        """The Segments that together are `[cut, end)`; none where the cut is at the end or beyond.

        Raises CutMismatch where a Segment lies across the cut, or does not reach down to it.
        """
        if cut >= self.end:
            return ()
        tail = tuple(s for s in self.all() if s[0] >= cut)
        if not tail or tail[0][0] != cut:
            raise CutMismatch(f"no Segment starts at offset {cut}; there are {self}")
        return tail

    def adopt(self, cut: int) -> Segments:
        """The Segments that are still needed once a BatchView covers `[.., cut)`.

        Where one lies across the cut (the batch cut at the log's end because it heard of no worker, and this worker had
        read on) nothing of what follows can be told apart from what the batch counted: all of it goes, and the View
        reads again from the cut. Kept instead, the records between the Segment's start and the cut would count twice.
        """
        try:
            tail = self.after(cut)
        except CutMismatch:
            tail = ()
        return Segments(*(tail[-1] if tail else (cut, cut)), False, tail[:-1])

    def __str__(self) -> str:
        return " ".join(f"[{start}, {end})" for start, end in self.all())


def position_key(source: TopicPartition) -> bytes:
    return _POSITION + _task(source)


def position_range() -> tuple[bytes, bytes]:
    return _POSITION, _TASK


def source_of(position_key: bytes) -> TopicPartition:
    """The task whose Position lies at a key.

    >>> source_of(position_key(TopicPartition("clicks", 3)))
    TopicPartition(topic='clicks', partition=3)
    """
    return TopicPartition(position_key[1:-5].decode(), int(struct.unpack(">I", position_key[-4:])[0]))


def task_prefix(source: TopicPartition) -> bytes:
    """What all keys of a task begin with."""
    return _TASK + _task(source)


def task_range(source: TopicPartition) -> tuple[bytes, bytes]:
    prefix = task_prefix(source)
    return prefix, next_prefix(prefix)


def _task(source: TopicPartition) -> bytes:
    return source.topic.encode() + b"\0" + struct.pack(">I", source.partition)


# What follows are keys of one task; in a store and on a changelog, `task_prefix` comes before them.


def origin_key(view: str) -> bytes:
    return _ORIGIN + view.encode()


def segments_key(view: str) -> bytes:
    return _SEGMENTS + view.encode()


def garbage_key(view: str) -> bytes:
    return _GARBAGE + view.encode()


def agent_key(agent: str, topic: str) -> bytes:
    return _AGENT + agent.encode() + b"\0" + topic.encode()


def table_key(table: str, key: Any) -> bytes:
    return _TABLE + table.encode() + b"\0" + _encode(key)


def segment_prefix(view: str, segment: int) -> bytes:
    """What all keys of the Segment that starts at offset `segment` begin with."""
    return _STATE + view.encode() + b"\0" + struct.pack(">Q", segment)


def states_range(view: str) -> tuple[bytes, bytes]:
    return _STATE + view.encode() + b"\0", _STATE + view.encode() + b"\1"


def slot_key(slot: Slot) -> bytes:
    """A Slot as bytes: all windows of a key lie together, in time order.

    >>> slot = Slot(("c1", 7), -5, 10)
    >>> slot_of(slot_key(slot)) == slot
    True
    """
    return _encode(slot.key) + struct.pack(">QQ", slot.start + _BIAS, slot.end + _BIAS)


def slot_keys(prefix: bytes, keys: Iterable[tuple[Any, ...]], starts: Array, ends: Array) -> list[bytes]:
    """`slot_key` of many Slots behind a prefix; `starts` and `ends` are numpy's, int64.

    >>> slot_keys(b"at", [("c1",), ("c2",)], np.array([0, -5]), np.array([10, 5])) == [
    ...     b"at" + slot_key(Slot(("c1",), 0, 10)), b"at" + slot_key(Slot(("c2",), -5, 5))]
    True
    """
    each = windows(starts, ends).view("V16").ravel().tolist()
    return list(map(b"".join, zip(repeat(prefix), map(_encode, keys), each)))


def windows(starts: Array, ends: Array) -> Array:
    """What the keys of Slots with these windows (int64) end with: a row of 16 bytes each (uint8)."""
    rows = np.empty((len(starts), 2), ">u8")
    rows[:, 0], rows[:, 1] = starts.view(np.uint64) ^ _SIGN, ends.view(np.uint64) ^ _SIGN
    return rows.view(np.uint8)


def slot_of(key: bytes) -> Slot:
    start, end = struct.unpack(">QQ", key[-16:])
    return Slot(tuple(_decode(key[:-16])), start - _BIAS, end - _BIAS)


def key_range(prefix: bytes, key: tuple[Any, ...]) -> tuple[bytes, bytes]:
    """Key range of all windows of one key, below a Segment's prefix."""
    start = prefix + _encode(key)
    return start, start + b"\xff" * 17


def next_prefix(prefix: bytes) -> bytes:
    """The first key after all keys that begin with `prefix`.

    >>> next_prefix(b"a\\xff")
    b'b'
    """
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1])
