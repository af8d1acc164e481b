"""Blocks hold what was packed; and compaction keeps a changelog small, and enough to make the state of, at any time."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamkit.changelog import block, compaction
from streamkit.changelog.compaction import Compaction
from streamkit.log.base import Change

changes = st.lists(st.tuples(st.binary(max_size=20), st.none() | st.binary(max_size=40)), max_size=60)


@given(changes, st.integers(1, 200))
def test_blocks_hold_changes_in_their_order(made: list[Change], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block, "BLOCK_BYTES", size)
        blocks = block.pack(made)
    unpacked = [block.unpack(packed) for packed in blocks]
    assert [change for some in unpacked for change in some] == made
    assert all(sum(len(k) + len(v or b"") for k, v in some[1:]) <= size for some in unpacked)


@given(changes.filter(bool), st.data())
def test_damage_is_told_and_never_followed(made: list[Change], data: st.DataObject) -> None:
    packed = bytearray(block.pack(made)[0])
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(packed)))
    for damaged in (bytes(packed), bytes(packed[:cut]), b""):
        with suppress(ValueError):
            assert block.pack(block.unpack(damaged)) == [damaged], "what is read is what is there"


class Log:
    """A task's state, its changelog as (offset, change), and how that is compacted."""

    def __init__(self) -> None:
        self.state: dict[bytes, bytes] = {}
        self.records: list[Change] = []
        self.compaction = Compaction()
        self.cuts = 0

    def checkpoint(self, made: list[Change]) -> None:
        size = sum(len(key) + len(value or b"") for key, value in made)
        new = {key: value for key, value in made if value is not None and key not in self.state}
        grown = sum(len(key) + len(value) for key, value in new.items())
        state = sorted(self.state.items())
        before = self.compaction
        self.compaction, copies = before.advance(
            len(self.records), size, grown, lambda key: iter([entry for entry in state if entry[0] >= key])
        )
        self.cuts += self.compaction.start != before.start
        for key, value in made:
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        self.records += [*copies, *made]

    def restored(self) -> dict[bytes, bytes]:
        """The state as somebody makes it who begins where the changelog begins now."""
        merged = dict(self.records[self.compaction.start :])
        return {key: value for key, value in merged.items() if value is not None}

    def kept(self) -> int:
        return sum(len(key) + len(value or b"") for key, value in self.records[self.compaction.start :])


@st.composite
def checkpoints(draw: st.DrawFn) -> list[list[Change]]:
    keys = [b"key-%d" % n for n in range(draw(st.integers(1, 30)))]
    change = st.tuples(st.sampled_from(keys), st.none() | st.binary(max_size=9))
    return draw(st.lists(st.lists(change, max_size=12), max_size=60))


@given(checkpoints(), st.integers(0, 200), st.integers(1, 120))
def test_a_compacted_changelog_has_the_state(made: list[list[Change]], least: int, piece: int) -> None:
    log = Log()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "LEAST", least)
        patch.setattr(compaction, "PIECE", piece)
        for some in made:
            log.checkpoint(some)
            assert log.restored() == log.state


def test_a_changelog_stays_as_large_as_a_multiple_of_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "LEAST", 1_000)
    monkeypatch.setattr(compaction, "PIECE", 100)
    log = Log()
    state = 200 * 17
    for turn in range(2_000):
        log.checkpoint([(b"key-%05d" % ((turn * 7 + n) % 200), b"%08d" % turn) for n in range(10)])
        assert log.kept() <= 1_000 + (compaction.TIMES + 3) * state
    assert log.cuts >= 10
    assert log.restored() == log.state


def test_a_state_that_only_grows_is_never_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "LEAST", 1_000)
    log = Log()
    for turn in range(500):
        log.checkpoint([(b"key-%05d" % (turn * 10 + n), b"%08d" % turn) for n in range(10)])
    assert len(log.records) == 5_000
