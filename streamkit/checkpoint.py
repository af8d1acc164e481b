"""Checkpoints: how the speed layer's state lies in a Store, and the Segments it is divided into.

A Segment is a View's state for exactly the offsets `[start, end)` of one partition. The speed layer writes it, the
serving layer reads it; both find it by the keys made here. A partition's Segments, and how far the View has read, are
one value (`Segments`) that goes into the same Write as the states: neither can be durable without the other.

    FORMAT                                           version of all that follows
    VIEW     view                                    Origin: which definition, of which topic, wrote the states
    SEGMENTS view \\0 partition                       Segments
    STATE    view \\0 partition segment key window    the Aggregates' states, msgpack
    AGENT    agent \\0 topic \\0 partition             an Agent's next offset
    TABLE    table \\0 partition key                  a Table's value

Numbers are big-endian, so that key order is number order; a key is msgpack, which says its own length, so that no
key is the beginning of another.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import msgspec

from streamkit.errors import CutMismatch

FORMAT_VERSION = 1
FORMAT_KEY = b"\x00format"
_VIEW, _SEGMENTS, _STATE, _AGENT, _TABLE = b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"
_BIAS = 1 << 63
_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode


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


def view_key(view: str) -> bytes:
    return _VIEW + view.encode()


def segments_key(view: str, partition: int) -> bytes:
    return _SEGMENTS + view.encode() + b"\0" + struct.pack(">I", partition)


def segments_range(view: str) -> tuple[bytes, bytes]:
    return _SEGMENTS + view.encode() + b"\0", _SEGMENTS + view.encode() + b"\1"


def partition_of(segments_key: bytes) -> int:
    return int(struct.unpack(">I", segments_key[-4:])[0])


def agent_key(agent: str, topic: str, partition: int) -> bytes:
    return _AGENT + agent.encode() + b"\0" + topic.encode() + b"\0" + struct.pack(">I", partition)


def table_prefix(table: str) -> bytes:
    return _TABLE + table.encode() + b"\0"


def table_key(table: str, partition: int, key: Any) -> bytes:
    return table_prefix(table) + struct.pack(">I", partition) + _encode(key)


def segment_prefix(view: str, partition: int, segment: int) -> bytes:
    """What all keys of the Segment that starts at offset `segment` begin with."""
    return _STATE + view.encode() + b"\0" + struct.pack(">IQ", partition, segment)


def segment_range(view: str, partition: int, start: int, end: int) -> tuple[bytes, bytes]:
    """Key range of all Segments that start in `[start, end)`."""
    return segment_prefix(view, partition, start), segment_prefix(view, partition, end)


def states_range(view: str) -> tuple[bytes, bytes]:
    return _STATE + view.encode() + b"\0", _STATE + view.encode() + b"\1"


def slot_key(slot: Slot) -> bytes:
    """A Slot as bytes: all windows of a key lie together, in time order.

    >>> slot = Slot(("c1", 7), -5, 10)
    >>> slot_of(slot_key(slot)) == slot
    True
    """
    return _encode(slot.key) + struct.pack(">QQ", slot.start + _BIAS, slot.end + _BIAS)


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
