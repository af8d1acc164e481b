"""Windows: columns say what single times say, and partial sessions become the sessions of all events, however cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamkit.aggregate import TIME
from streamkit.errors import DefinitionError
from streamkit.window import END, START, Hopping, Session, Tumbling, Unbounded, Window

FIXED: list[Window] = [
    Unbounded(),
    Tumbling(seconds=10),
    Tumbling(seconds=0.007),
    Hopping(seconds=60, every=10),
    Hopping(seconds=10, every=10),
    Hopping(seconds=10, every=3),
]

Events = list[tuple[str | None, int]]
Spans = list[tuple[int, int, list[int]]]

times = st.one_of(st.integers(-30_000, 30_000), st.integers(-(2**50), 2**50))
events: st.SearchStrategy[Events] = st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(-20, 20)))


def exploded(window: Window, rows: Sequence[tuple[str | None, int]]) -> pl.DataFrame:
    frame = pl.DataFrame(list(rows), schema={"key": pl.String(), TIME: pl.Int64()}, orient="row")
    return window.explode(frame, ["key"])


@pytest.mark.parametrize("window", FIXED, ids=repr)
@given(st.lists(times))
def test_columns_say_what_single_times_say(window: Window, moments: list[int]) -> None:
    found = exploded(window, [("k", t) for t in moments])
    assert found.schema == {"key": pl.String, TIME: pl.Int64, START: pl.Int64, END: pl.Int64}
    assert found.select(TIME, START, END).rows() == [(t, *span) for t in moments for span in window.assign(t)]


@pytest.mark.parametrize("window", FIXED[1:], ids=repr)
@given(times)
def test_an_event_is_in_its_windows_and_in_no_other(window: Window, time: int) -> None:
    spans = window.assign(time)
    size = spans[0][1] - spans[0][0]
    step = window.every_ms if isinstance(window, Hopping) else size
    expected = [(s, s + size) for s in range(spans[0][0] - 3 * step, spans[-1][0] + 4 * step, step)]
    assert spans == [(start, end) for start, end in expected if start <= time < end]
    assert all(start % step == 0 for start, _ in spans)


def test_before_1970_windows_go_on() -> None:
    assert Tumbling(seconds=10).assign(-1) == [(-10_000, 0)]
    assert Tumbling(seconds=10).assign(-10_000) == [(-10_000, 0)]
    assert Hopping(seconds=20, every=10).assign(-1) == [(-20_000, 0), (-10_000, 10_000)]


# -- sessions -------------------------------------------------------------------------------------------------------


def sessions_of(moments: list[int], gap: int) -> Spans:
    """By the definition: the connected components of the covers `[t, t + gap)`."""
    components: list[list[int]] = []
    for moment in moments:
        near = [c for c in components if any(abs(moment - t) < gap for t in c)]
        components = [c for c in components if c not in near] + [sorted([moment, *(t for c in near for t in c)])]
    return sorted((min(c), max(c) + gap, c) for c in components)


def spans_of(window: Window, rows: Events, key: str | None) -> Spans:
    """The partial sessions of one key that the columns find."""
    groups = exploded(window, rows).group_by("key", START, END).agg(pl.col(TIME).sort().implode())
    return sorted((start, end, moments) for k, start, end, moments in groups.iter_rows() if k == key)


def merge(left: list[int], right: list[int]) -> list[int]:
    return sorted(left + right)


@given(events, st.integers(1, 12))
def test_sessions_of_a_frame_are_the_components_of_its_events(rows: Events, gap: int) -> None:
    for key in ("a", "b", None):
        assert spans_of(Session(seconds=gap / 1000), rows, key) == sessions_of([t for k, t in rows if k == key], gap)


@given(events, st.integers(1, 12), st.data())
def test_partial_sessions_become_the_sessions_of_all_events(rows: Events, gap: int, data: st.DataObject) -> None:
    """Any split into parts, in any order: by rows, and part by part as layers do it."""
    window = Session(seconds=gap / 1000)
    shuffled = data.draw(st.permutations(rows))
    cut, cut_again = sorted(data.draw(st.tuples(st.integers(0, len(rows)), st.integers(0, len(rows)))))
    parts = [spans_of(window, p, "a") for p in (shuffled[:cut], shuffled[cut:cut_again], shuffled[cut_again:])]
    expected = sessions_of([t for k, t in rows if k == "a"], gap)
    a, b, c = parts
    assert window.coalesce(a + b + c, merge) == expected
    assert window.coalesce(window.coalesce(a + b, merge) + c, merge) == expected
    assert window.coalesce(c + window.coalesce(b + a, merge), merge) == expected
    singles: Spans = [(*window.assign(t)[0], [t]) for k, t in shuffled if k == "a"]
    assert window.coalesce(singles, merge) == expected


def test_a_silence_of_exactly_the_gap_begins_a_new_session() -> None:
    window = Session(seconds=0.01)
    assert [s[:2] for s in spans_of(window, [("a", 0), ("a", 9), ("a", 19)], "a")] == [(0, 19), (19, 29)]
    assert window.coalesce([(0, 10, [0]), (10, 20, [10])], merge) == [(0, 10, [0]), (10, 20, [10])]
    assert window.coalesce([(0, 10, [0]), (9, 19, [9])], merge) == [(0, 19, [0, 9])]


def test_a_session_within_another_does_not_shorten_it() -> None:
    assert Session(seconds=1).coalesce([(0, 9000, [1]), (1, 2000, [2]), (8000, 9500, [3])], merge) == [
        (0, 9500, [1, 2, 3])
    ]


def test_other_windows_merge_the_states_of_one_window() -> None:
    spans: Spans = [(10, 20, [1]), (0, 10, [2]), (10, 20, [3])]
    assert Tumbling(seconds=0.01).coalesce(spans, merge) == [(0, 10, [2]), (10, 20, [1, 3])]
    assert [w.merges for w in (*FIXED, Session(seconds=1))] == [False] * len(FIXED) + [True]


# -- definitions ----------------------------------------------------------------------------------------------------


def test_equal_windows_are_described_alike() -> None:
    assert Tumbling(seconds=60).describe() == Tumbling(minutes=1).describe() == "Tumbling(1m)"
    assert Hopping(minutes=1, every=10).describe() == "Hopping(1m, every=10s)"
    assert Session(hours=1, seconds=0.5).describe() == repr(Session(seconds=3600.5)) == "Session(3600500ms)"
    assert len({Tumbling(days=1), Tumbling(hours=24), Session(days=1)}) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tumbling(), "size is 0 s, expected more than 0"),
        (lambda: Tumbling(seconds=-1), "more than 0"),
        (lambda: Tumbling(seconds=float("nan")), "more than 0"),
        (lambda: Tumbling(days=float("inf")), "whole milliseconds"),
        (lambda: Tumbling(seconds=0.0001), "whole milliseconds"),
        (lambda: Session(seconds=0), "gap is 0 s"),
        (lambda: Hopping(seconds=10, every=0), "every is 0 s"),
        (lambda: Hopping(seconds=10, every=11), "expected every <= size"),
    ],
)
def test_windows_without_sense_are_refused(make: Callable[[], Window], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        make()
