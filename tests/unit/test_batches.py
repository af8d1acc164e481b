"""Record batches to Chunks: what the broker has is what is read, but for what is aborted; damage is told as such."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import cramjam
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamkit.log.kafka.batches import Malformed, chunk_of, find
from streamkit.log.kafka.wire import Part
from streamkit.native.loader import Loops, loader
from streamkit.record import FlatBytes, FlatChunk, Headers, TopicPartition

SOURCE = TopicPartition("clicks", 3)
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture(scope="module")
def loops() -> Loops:
    found = loader.load()
    assert found is not None, loader.failure
    return found


@dataclass(frozen=True)
class Sent:
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    time: int = 0
    gap: int = 0
    """Offsets left out before it, as compaction leaves them."""


@dataclass(frozen=True)
class Batch:
    records: Sequence[Sent]
    base: int = 0
    codec: int = 0
    producer: int = -1
    flags: int = 0
    greatest: int = 0
    offsets: list[int] = field(default_factory=list)

    def encode(self) -> bytes:
        at, records = self.base, b""
        for sent in self.records:
            at += sent.gap
            self.offsets.append(at)
            records += record(sent, at - self.base)
            at += 1
        packed = pack(self.codec, records)
        head = struct.pack(
            ">hiqqqhii", self.codec | self.flags, at - 1 - self.base, 0, self.greatest, self.producer, 0, 0,
            len(self.records),
        )  # fmt: skip
        return struct.pack(">qiibI", self.base, 9 + len(head) + len(packed), 0, 2, 0) + head + packed


def record(sent: Sent, delta: int) -> bytes:
    body = b"\0" + number(sent.time) + number(delta) + text(sent.key) + text(sent.value) + number(len(sent.headers))
    for name, value in sent.headers:
        body += text(name.encode()) + text(value)
    return number(len(body)) + body


def number(value: int) -> bytes:
    """A zigzag varint."""
    rest, out = (value << 1) ^ (value >> 63), bytearray()
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*out, rest])


def text(content: bytes | None) -> bytes:
    return number(-1) if content is None else number(len(content)) + content


def pack(codec: int, records: bytes) -> bytes:
    match codec:
        case 1:
            return bytes(cramjam.gzip.compress(records))
        case 2:
            return bytes(cramjam.snappy.compress_raw(records))
        case 3:
            return bytes(cramjam.lz4.compress(records))
        case 4:
            return bytes(cramjam.zstd.compress(records))
    return records


def xerial(records: bytes) -> bytes:
    """As Java's clients write snappy: in blocks, here of 7 bytes."""
    blocks = [bytes(cramjam.snappy.compress_raw(records[i : i + 7])) for i in range(0, len(records), 7)]
    framed = [struct.pack(">i", len(block)) + block for block in blocks]
    return b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1) + b"".join(framed)


def read(
    loops: Loops, raw: bytes, position: int, aborted: Sequence[tuple[int, int]] = ()
) -> tuple[FlatChunk | None, int]:
    data = np.frombuffer(b"before" + raw + bytes(FlatBytes.PADDING), np.uint8)
    batches = find(loops, data, Part(SOURCE, 0, 6, 6 + len(raw), aborted), position)
    return chunk_of(loops, batches, position), batches.end


texts = st.none() | st.binary(max_size=40)
sent = st.builds(
    Sent, texts, texts, st.lists(st.tuples(st.text(max_size=5), texts), max_size=2), st.integers(-(2**40), 2**40),
    st.integers(0, 2),
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=SLOW)
@given(
    st.lists(st.tuples(st.lists(sent, min_size=1, max_size=6), st.integers(0, 4)), min_size=1, max_size=4), st.data()
)
def test_records_are_read_as_they_were_sent(
    loops: Loops, given_batches: list[tuple[list[Sent], int]], data: st.DataObject
) -> None:
    raw, at, wanted = b"", 1_000, []
    for records, codec in given_batches:
        batch = Batch(records, at, codec)
        raw += batch.encode()
        wanted += [(o, s.time, s.key, s.value, list(s.headers)) for o, s in zip(batch.offsets, records, strict=True)]
        at = batch.offsets[-1] + 1
    position = data.draw(st.integers(1_000, at))
    cut = data.draw(st.binary(max_size=60))  # the broker cuts the last batch where the answer is full
    chunk, end = read(loops, raw + cut, position)
    rows = [row for row in wanted if row[0] >= position]
    assert end == at
    assert (chunk is not None) == bool(rows)
    if chunk is not None:
        headers = [list(found) for found in chunk.headers]
        assert [*zip(chunk.offsets, chunk.timestamps, chunk.keys, chunk.values, headers, strict=True)] == rows
        half = chunk.part(len(chunk) // 2, len(chunk))
        assert [*map(list, half.headers)] == headers[len(chunk) // 2 :]


def test_javas_snappy_and_the_brokers_own_time(loops: Loops, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "pack", lambda _codec, records: xerial(records))
    raw = Batch([Sent(b"k", b"v" * 100, time=5), Sent(None, b"w")], 7, codec=2, flags=8, greatest=123).encode()
    chunk, end = read(loops, raw, 0)
    assert chunk is not None
    assert (chunk.offsets, chunk.values, chunk.timestamps, end) == ([7, 8], [b"v" * 100, b"w"], [123, 123], 9)


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_what_becomes_very_much_larger_is_made_room_for(loops: Loops, codec: int) -> None:
    large = bytes(20_000_000)
    chunk, _ = read(loops, Batch([Sent(None, b"first"), Sent(None, large)], codec=codec).encode(), 0)
    assert chunk is not None
    assert chunk.values == [b"first", large]


TRANSACTIONAL, CONTROL = 16, 32
steps = st.tuples(st.integers(0, 2), st.sampled_from(["send", "send", "commit", "abort", "plain"]))


@settings(max_examples=300, suppress_health_check=SLOW)
@given(st.lists(steps, max_size=25), st.data())
def test_of_transactions_only_what_was_committed_is_read(
    loops: Loops, turns: list[tuple[int, str]], data: st.DataObject
) -> None:
    """Whatever the position: in the middle of a transaction the broker names it still."""
    encoded: list[tuple[int, bytes]] = []
    pending: dict[int, list[int]] = {}
    aborted: list[tuple[int, int, int]] = []
    wanted: list[int] = []
    at = 0
    for producer, turn in [*turns, *((p, "abort") for p in range(3))]:
        if turn == "send":
            encoded.append((at, Batch([Sent(None, b"%d" % at)], at, 3, producer, TRANSACTIONAL).encode()))
            pending.setdefault(producer, []).append(at)
        elif turn == "plain":
            encoded.append((at, Batch([Sent(None, b"%d" % at)], at, 0, -1).encode()))
            wanted.append(at)
        elif producer in pending:
            kind = int(turn == "commit")
            marker = Sent(struct.pack(">hh", 0, kind), bytes(6))
            encoded.append((at, Batch([marker], at, 0, producer, TRANSACTIONAL | CONTROL).encode()))
            offsets = pending.pop(producer)
            if kind:
                wanted += offsets
            else:
                aborted.append((producer, offsets[0], at))
        else:
            continue
        at += 1
    position = data.draw(st.integers(0, at))
    raw = b"".join(batch for base, batch in encoded if base >= position)
    named = data.draw(st.permutations([(p, first) for p, first, last in aborted if last >= position]))
    chunk, end = read(loops, raw, position, named)
    assert (chunk.values if chunk else []) == [b"%d" % offset for offset in sorted(wanted) if offset >= position]
    assert end == (at if raw else position)


@settings(max_examples=400, suppress_health_check=SLOW)
@given(st.lists(sent, min_size=1, max_size=5), st.integers(0, 4), st.data())
def test_damage_is_told_and_never_leads_out_of_the_answer(
    loops: Loops, records: list[Sent], codec: int, data: st.DataObject
) -> None:
    raw = bytearray(Batch(records, 5, codec).encode() * 2)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        chunk, _ = read(loops, bytes(raw), 0)
    except Malformed:
        return
    if chunk is not None:
        for flat in (chunk.flat, chunk.flat_keys):
            assert (flat.starts >= 0).all()
            assert (flat.starts + np.maximum(flat.lengths, 0) <= len(flat.data)).all()


def test_older_formats_and_unknown_codecs_are_told(loops: Loops) -> None:
    old = bytearray(Batch([Sent(None, b"v")]).encode())
    old[16] = 1
    with pytest.raises(Malformed, match="clicks/3: batches at offset 4 are of another format"):
        read(loops, bytes(old), 4)
    with pytest.raises(Malformed, match="number 6"):
        read(loops, Batch([Sent(None, b"v")], flags=6).encode(), 0)
    with pytest.raises(Malformed, match="no whole batch"):
        read(loops, Batch([Sent(None, b"v")]).encode()[:-1], 0)
