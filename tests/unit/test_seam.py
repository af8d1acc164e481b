"""Where batch and speed meet, and where they are refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamkit as sk
from streamkit.checkpoint import Segments, Slot, next_prefix, segment_prefix, slot_key, slot_of
from streamkit.control import BatchView, Published, Reset
from streamkit.cut import Cut
from streamkit.errors import CutMismatch, TopicChanged
from streamkit.log.base import TopicInfo
from streamkit.serving.seam import furthest, meet


class Click(msgspec.Struct):
    campaign: str


def view() -> sk.View:
    app = sk.Topology("ads")
    return app.view("v", app.topic("clicks", value=Click), key="campaign", aggregates={"n": sk.Count()})


def batch(offset: int) -> BatchView:
    return BatchView("b", "v", "f", "clicks", "id", {0: 0}, {0: offset}, (), 0, 0, 0, 0)


def cut(offset: int) -> Cut:
    return Cut("clicks", "id", {0: offset})


SEALED = Segments(20, 25, whole=True, sealed=((0, 10), (10, 20)))
PART = Segments(20, 25, whole=False, sealed=((10, 20),))


@pytest.mark.parametrize(
    ("segments", "at", "end", "spans"),
    [
        (SEALED, None, 25, ((0, 10), (10, 20), (20, 25))),
        (SEALED, None, 20, ((0, 10), (10, 20))),
        (SEALED, 10, 25, ((10, 20), (20, 25))),
        (SEALED, 25, 25, ()),
        (SEALED, 30, 30, ()),  # the batch layer is ahead of the worker
        (PART, 10, 20, ((10, 20),)),
        (None, 30, 30, ()),
    ],
)
def test_they_meet(segments: Segments | None, at: int | None, end: int, spans: Any) -> None:
    by_partition = {} if segments is None else {0: segments}
    found = meet(view(), by_partition, None if at is None else batch(at), cut(end))
    assert found.segments == {0: spans}


@pytest.mark.parametrize(
    ("segments", "at", "end", "words"),
    [
        (SEALED, 15, 25, "no Segment starts at offset 15"),  # one lies across
        (PART, 5, 25, "no Segment starts at offset 5"),  # a gap below
        (PART, None, 25, "need a BatchView before them"),  # what was before them is void
        (SEALED, 10, 22, "lead to 20, not to 22"),
        (None, None, 7, "no Segments"),
        (None, 5, 7, "lead to 5, not to 7"),
    ],
)
def test_they_do_not_meet(segments: Segments | None, at: int | None, end: int, words: str) -> None:
    by_partition = {} if segments is None else {0: segments}
    with pytest.raises(CutMismatch, match=words):
        meet(view(), by_partition, None if at is None else batch(at), cut(end))


def test_the_furthest_cut_is_whichever_layers() -> None:
    info = TopicInfo("clicks", "id", 1)
    assert furthest(view(), info, {0: PART}, batch(10)) == cut(25)
    assert furthest(view(), info, {0: PART}, batch(99)) == cut(99)
    assert furthest(view(), info, {}, batch(9)) == cut(9)


def test_cuts_of_a_topic_made_again_cannot_be_compared() -> None:
    with pytest.raises(TopicChanged, match="deleted and made again"):
        cut(5).covers(Cut("clicks", "another", {0: 5}))


def test_a_reset_voids_what_was_published_before_it() -> None:
    published = Published()
    for number in range(3):
        published.apply(batch(number))
    assert [b.offsets[0] for b in published.of("v", "f")] == [2, 1]
    assert published.of("v", "another definition") == ()
    published.apply(Reset("v"))
    assert published.latest("v") is None
    published.apply(batch(9))
    assert len(published.of("v", "f")) == 1


times = st.integers(-(2**62), 2**62)
keys = st.tuples(st.one_of(st.text(max_size=9), st.integers(-(2**63), 2**64 - 1), st.booleans(), st.none()))
slots = st.builds(Slot, keys, times, times)


@given(slot=slots)
def test_a_slot_survives_its_bytes(slot: Slot) -> None:
    assert slot_of(slot_key(slot)) == slot


@given(key=keys, one=times, other=times)
def test_windows_of_a_key_are_in_order_of_time(key: tuple[Any, ...], one: int, other: int) -> None:
    assert (slot_key(Slot(key, one, 0)) < slot_key(Slot(key, other, 0))) == (one < other)


@given(left=slots, right=slots, segment=st.integers(0, 2**63))
def test_segments_do_not_overlap_in_the_store(left: Slot, right: Slot, segment: int) -> None:
    prefix = segment_prefix("v", segment)
    assert prefix + slot_key(left) < next_prefix(prefix) <= segment_prefix("v", segment + 1) + slot_key(right)
