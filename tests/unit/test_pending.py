"""States that wait for a Checkpoint, in columns and as objects; many keys of one Checkpoint."""

from __future__ import annotations

from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamkit as sk
from streamkit import fold
from streamkit.decode import Decoder
from streamkit.fold import MANY, Fold
from streamkit.native.loader import loader
from streamkit.record import Record, RecordChunk
from streamkit.speed import pending
from streamkit.speed.pending import AsObjects, InColumns
from streamkit.testing.driver import Driver

KINDS: dict[str, Any] = {
    "name": st.sampled_from(["", "a", "b", "ab", "\0", "x" * 40, "\u00e9"]),
    "number": st.sampled_from([0, 1, -1, 127, 128, 2**63 - 1, -(2**63)]),
    "maybe": st.sampled_from([None, "a", "b"]),
    "ratio": st.sampled_from([0.0, -0.0, 1.5, -2.5, None]),
}


class Event(msgspec.Struct):
    at: int
    number: int
    name: str
    maybe: str | None
    ratio: float | None


EVENT = st.builds(Event, st.integers(-30_000, 30_000), KINDS["number"], KINDS["name"], KINDS["maybe"], KINDS["ratio"])
BATCHES = st.lists(st.tuples(st.integers(0, 2), st.lists(EVENT, min_size=1, max_size=8)), max_size=6)
AGGREGATES: dict[str, sk.Aggregate[Any, Any]] = {
    "n": sk.Count(), "some": sk.Count("maybe"), "sum": sk.Sum("number"), "least": sk.Min("ratio"),
    "most": sk.Max("name"), "highest": sk.Max("ratio"),
}  # fmt: skip


def make(**view: Any) -> tuple[sk.Topology, Any, Any]:
    app = sk.Topology("pending")
    events = app.topic("events", value=Event, timestamp="at", key="name", partitions=1)
    return app, events, app.view("v", events, **{"key": "name", "aggregates": AGGREGATES, **view})


@pytest.fixture(autouse=True)
def _loops() -> None:
    assert loader.load() is not None, loader.failure


@pytest.mark.parametrize("key", ["name", "number", "maybe", ["name", "number"], pl.col("ratio").is_null().alias("no")])
@pytest.mark.parametrize("window", [None, sk.Hopping(seconds=20, every=10)])
def test_columns_hold_what_objects_hold(key: Any, window: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "FOLD_ROWS", 5)  # they are combined on their way, too
    monkeypatch.setattr(fold, "MANY", 0)
    _, topic, view = make(key=key, **({"window": window} if window else {}))

    @settings(max_examples=25, deadline=None, database=None)
    @given(BATCHES, st.sets(st.integers(0, 2), max_size=1))
    def same(batches: list[tuple[int, list[Event]]], dropped: set[int]) -> None:
        columns, objects = InColumns(Fold(view)), AsObjects(Fold(view))
        for n, (partition, values) in enumerate(batches):
            records = [Record("events", partition, n, 0, None, topic.encode(value)) for value in values]
            decoded, _ = Decoder(topic)(RecordChunk(records))
            assert columns.absorb([decoded]) == objects.absorb([decoded]) == []
        for partition in dropped:
            for held in (columns, objects):
                held.drop(partition)
        assert len(columns) >= len(objects)
        for partition in range(3):
            packed = columns.packed(partition, b"")  # before they are combined for the other
            slots, states = columns.encoded(partition, b"")
            assert len(set(slots)) == len(slots)
            right = dict(zip(*objects.encoded(partition, b""), strict=True))
            assert dict(zip(slots, states, strict=True)) == right
            dumped = [Fold(view).dump(right[slot]) for slot in slots]
            assert Fold(view).dump_all(states) == dumped
            # A sum beyond 64 bits is left to Python.
            assert packed is None or list(packed) == sorted(zip(slots, dumped, strict=True))
            assert packed is not None or not slots or any(abs(state[2]) >= 2**63 - 1 for state in states)
        columns.clear()
        assert len(columns) == 0
        assert columns.encoded(0, b"") == ([], [])

    same()


def test_a_key_that_comes_twice_is_one_also_where_none_has_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "FOLD_ROWS", 5)
    monkeypatch.setattr(fold, "MANY", 0)
    _, topic, view = make(key="number", aggregates={"n": sk.Count(), "sum": sk.Sum("at")})
    columns, objects = InColumns(Fold(view)), AsObjects(Fold(view))
    combined: list[int] = []
    combine = Fold.combine

    def counted(self: Fold, groups: Any) -> pl.DataFrame:
        combined[-1] += 1
        return combine(self, groups)

    monkeypatch.setattr(Fold, "combine", counted)
    for again in (0, 0, 3, 0, 0, 0):
        combined.append(0)
        for first in (0, 10 - again, 20):
            values = [Event(key, key, "", None, None) for key in range(first, first + 10)]
            records = [Record("events", 0, n, 0, None, topic.encode(value)) for n, value in enumerate(values)]
            decoded, _ = Decoder(topic)(RecordChunk(records))
            columns.absorb([decoded])
            objects.absorb([decoded])
        slots, states = objects.encoded(0, b"")
        packed = columns.packed(0, b"")
        assert packed is not None
        assert list(packed) == sorted(zip(slots, Fold(view).dump_all(states), strict=True))
        columns.clear()
        objects.clear()
    assert [count > 0 for count in combined] == [True, False, True, True, False, False], "looked for without need"


def test_views_wait_in_columns_where_all_of_their_aggregates_can() -> None:
    assert isinstance(pending.pending(Fold(make()[2])), InColumns)
    assert isinstance(pending.pending(Fold(make(window=sk.Session(seconds=5))[2])), AsObjects)
    sketch = {"n": sk.Count(), "users": sk.Distinct("name")}
    assert isinstance(pending.pending(Fold(make(aggregates=sketch)[2])), AsObjects)


@pytest.mark.parametrize("packed", [True, False])
def test_many_keys_are_merged_each_with_its_own(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not packed:
        monkeypatch.setattr(loader, "_loops", None)
    app, topic, view = make(key="number", aggregates={"n": sk.Count(), "sum": sk.Sum("at")})
    keys = [n * 7919 % 10_007 for n in range(2 * MANY)]  # in no order, none twice
    with Driver(app) as driver:
        for turn in (1, 2):
            driver.send(topic, *(Event(key * turn, key, str(key), None, None) for key in keys))
            driver.catch_up()
        found = {answer.key[0]: answer.value for answer in driver.scan(view)}
    assert found == {key: {"n": 2, "sum": 3 * key} for key in keys}
