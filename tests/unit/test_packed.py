"""Columns packed by compiled loops are what msgspec makes of their rows; a Filter is the same with and without them."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamkit.changelog import block
from streamkit.changelog.changes import Changes
from streamkit.native.loader import Loops, loader
from streamkit.packed import Packed, Strings, can_pack, pack_rows
from streamkit.store import filter as filters
from streamkit.store.filter import Filter

POWERS = (0, 5, 7, 8, 15, 16, 31, 32, 62)
EDGES = [sign * 2**power + more for sign in (1, -1) for power in POWERS for more in (-1, 0, 1)]
LENGTHS = [31, 32, 255, 256, 65_535, 65_536]
VALUES: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "whole": (pl.Int64, st.integers(-(2**63), 2**63 - 1) | st.sampled_from(EDGES)),
    "small": (pl.UInt8, st.integers(0, 255)),
    "text": (pl.String, st.text(max_size=3) | st.sampled_from(LENGTHS).map("x".__mul__)),
    "ratio": (pl.Float64, st.floats()),
    "short": (pl.Float32, st.floats(width=32)),
    "flag": (pl.Boolean, st.booleans()),
}
ROWS = st.lists(st.tuples(*(st.none() | values for _, values in VALUES.values())), max_size=9)
KEYS = st.binary(max_size=9) | st.builds("{0:\0<{1}}".format, st.sampled_from("ab"), st.integers(0, 30)).map(str.encode)
PAIRS = st.dictionaries(KEYS, st.binary(max_size=20), max_size=40)


@pytest.fixture(scope="module")
def loops() -> Loops:
    found = loader.load()
    assert found is not None, loader.failure
    return found


def packed_of(pairs: dict[bytes, bytes]) -> Packed:
    loops = loader.load()
    assert loops is not None, loader.failure
    packed = Packed.of(loops, *(Strings.of(list(some)) for some in (pairs, pairs.values())))
    assert packed is not None
    return packed


@settings(max_examples=200, deadline=None)
@given(ROWS, st.binary(max_size=30), st.integers(0, 20), st.integers(0, 9))
def test_rows_are_packed_as_msgspec_packs_them(
    loops: Loops, rows: list[tuple[Any, ...]], prefix: bytes, width: int, begin: int
) -> None:
    frame = pl.DataFrame(rows, {name: dtype for name, (dtype, _) in VALUES.items()}, orient="row")[begin:]
    assert can_pack(frame)
    tails = np.arange(len(frame) * width, dtype=np.int64).astype(np.uint8).reshape(len(frame), width)
    right = [prefix + msgspec.msgpack.encode(row) + tails[i].tobytes() for i, row in enumerate(frame.iter_rows())]
    assert pack_rows(loops, frame, prefix, tails).tolist() == right


@pytest.mark.parametrize("width", [1, 15, 16, 300])
def test_rows_of_any_width(loops: Loops, width: int) -> None:
    frame = pl.DataFrame({f"c{i}": [i, -i, None] for i in range(width)})
    assert pack_rows(loops, frame).tolist() == [msgspec.msgpack.encode(row) for row in frame.iter_rows()]


@pytest.mark.parametrize("values", [[b"raw"], [2**64 - 1], [[1]], [None]])
def test_columns_of_other_kinds_are_left_to_python(values: list[Any]) -> None:
    assert not can_pack(pl.DataFrame({"c": values}))


@settings(deadline=None)  # the first one waits for the loops
@given(PAIRS, st.data())
def test_what_is_packed_is_in_order_and_taken_apart_by_places(pairs: dict[bytes, bytes], data: st.DataObject) -> None:
    packed, rows = packed_of(pairs), sorted(pairs.items())
    assert list(packed) == rows
    assert packed.size == sum(len(key) + len(value) for key, value in rows)
    gone = data.draw(st.sets(st.integers(0, len(rows) - 1))) if rows else set()
    places = np.array(sorted(gone), np.int64)
    assert list(packed.at(places)) == [rows[i] for i in sorted(gone)]
    assert list(packed.without(places)) == [row for i, row in enumerate(rows) if i not in gone]


@settings(deadline=None)
@given(st.lists(KEYS, max_size=40), st.binary(max_size=12), st.randoms(use_true_random=False))
def test_keys_come_in_order_or_not_at_all_where_one_is_there_twice(
    loops: Loops, keys: list[bytes], prefix: bytes, random: Random
) -> None:
    keys = [prefix + key for key in keys]
    many = keys * random.choice([1, 2])
    random.shuffle(many)
    packed = Packed.of(loops, *map(Strings.of, (many, many)))
    assert (packed is None) == (len(set(many)) < len(many))
    if packed is not None:
        assert list(packed) == [(key, key) for key in sorted(many)]


def test_keys_that_hardly_differ_are_in_order(loops: Loops) -> None:
    """All have one word in common, so that nothing but the rest of them tells."""
    keys = [b"a prefix and " + bytes(9) + b"%07d" % (n * 7919 % 10_007) for n in range(10_007)]
    keys += [b"another " + key for key in keys]
    packed = Packed.of(loops, Strings.of(keys), Strings.of(keys))
    assert packed is not None
    assert packed.keys.tolist() == packed.values.tolist() == sorted(keys)


@settings(deadline=None)  # the first one waits for the loops
@given(PAIRS, st.lists(st.tuples(st.binary(max_size=3), st.none() | st.binary(max_size=3)), max_size=3), st.data())
def test_blocks_are_the_same_of_packed_changes(
    pairs: dict[bytes, bytes], rows: list[tuple[bytes, bytes | None]], data: st.DataObject
) -> None:
    packed = packed_of(pairs)
    if pairs:  # a part of a larger one
        packed = packed.without(np.array([data.draw(st.integers(0, len(pairs) - 1))]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block, "BLOCK_BYTES", data.draw(st.integers(1, 200)))
        blocks = block.pack_all(Changes(rows, [packed]))
        assert [bytes(some) for some in blocks] == [*block.pack(rows), *block.pack(list(packed))]
        assert list(map(len, blocks)) == [len(bytes(some)) for some in blocks]


def test_a_filter_says_the_same_with_the_loops_and_without(loops: Loops, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "_LEAST", 64)  # it grows on the way
    rng = np.random.default_rng(3)
    turns = [[b"%d" % n for n in rng.integers(0, 5_000, 700)] for _ in range(12)]
    said: list[list[list[bool]]] = []
    for used in ([loops], [None], [loops, None]):  # the last: they came in the meantime
        filter_, answers = Filter(), []
        for turn, keys in enumerate(turns):
            monkeypatch.setattr(loader, "_loops", used[turn % len(used)])
            answers.append(filter_.add(keys).tolist())
        said.append(answers)
    assert said[0] == said[1] == said[2]
    seen: set[bytes] = set()
    for keys, known in zip(turns, said[0], strict=True):
        assert all(k for key, k in zip(keys, known, strict=True) if key in seen), "no for a key that was added"
        wrong = sum(k for key, k in zip(keys, known, strict=True) if key not in seen)
        assert wrong <= 0.1 * len(keys)
        seen.update(keys)
