"""The law of incremental runs: from any BatchView on, in any number of steps, the states of a run from the start."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from streamkit.batch import run as batch_run
from streamkit.batch.base import check_files, find_base
from streamkit.batch.plan import make_plan
from streamkit.control import BatchView
from streamkit.cut import Cut
from streamkit.errors import OffsetOutOfRange, StateMissing
from streamkit.store.batchfile import bucket_count
from streamkit.testing.driver import Driver
from tests.life.app import Click, topology

VIEWS = ("tumbling", "hopping", "session", "total")

clicks = st.builds(
    Click,
    campaign=st.sampled_from(["acme", "zeta", "nil", "omni", "duo"]),
    user=st.sampled_from(["u1", "u2", "u3", "u4", "u5"]),
    cents=st.integers(-5, 500),
    at=st.integers(-20_000, 60_000),
)


@dataclass(frozen=True)
class Step:
    """What happens between two runs; the next one's results are divided into as many files as `per_bucket` tells."""

    clicks: list[Click]
    grows: bool
    reset: bool
    incremental: bool
    per_bucket: int


steps = st.lists(
    st.builds(
        Step,
        clicks=st.lists(clicks, max_size=15),
        grows=st.booleans(),
        reset=st.sampled_from([False] * 5 + [True]),
        incremental=st.sampled_from([True, True, False]),
        per_bucket=st.sampled_from([1, 2, 5, 50_000]),
    ),
    min_size=1,
    max_size=5,
)


@settings(
    max_examples=25,
    deadline=None,
    # Shrinking takes minutes: breakages (tests/life/mutations.py) are caught without it.
    phases=[phase for phase in Phase if phase.name in os.environ.get("STREAMKIT_LIFE_PHASES", phase.name).split(",")],
)
@given(view=st.sampled_from(VIEWS), steps=steps)
def test_a_chain_of_incremental_runs_gives_what_a_full_run_gives(view: str, steps: list[Step]) -> None:
    app = topology()
    found, topic = app.views[view], app.topics["clicks"]
    with Driver(app, split_records=4) as driver, pytest.MonkeyPatch.context() as patch:
        for step in steps:
            if step.grows:
                driver.log.grow("clicks", min(6, driver.log.describe("clicks").partitions + 1))
            if step.reset:
                driver.reset(found)
            driver.send(topic, *step.clicks)
            driver.send_bytes(topic, b"{}", key=b"u1")
            patch.setattr(batch_run, "bucket_count", lambda slots, n=step.per_bucket: bucket_count(slots, n))
            driver.batch(found)
            whole, in_full = driver.states(found), driver._results[view]
            proof = driver.prove_before(found)
            assert proof is None or proof.differences == 0, proof
            if step.incremental:
                driver.batch(found, incremental=True)
                result = driver._results[view]
                assert driver.states(found) == whole
                assert (result.events, result.rejected) == (in_full.events, in_full.rejected)
            driver.publish(found)


def some(count: int) -> list[Click]:
    return [Click("acme", f"u{i % 5}", 1, i * 1_000) for i in range(count)]


def test_an_incremental_run_reads_what_is_new_and_says_what_it_started_from() -> None:
    app = topology()
    view = app.views["session"]
    with Driver(app) as driver:
        driver.send(app.topics["clicks"], *some(50))
        driver.batch(view)
        first = driver.publish(view)
        driver.send(app.topics["clicks"], *some(7))
        plan = driver.batch(view, incremental=True).plan
        assert (plan.records, plan.kind) == (7, "incremental")
        second = driver.publish(view)
        assert (second.base, second.events, second.starts) == (first.id, 57, first.starts)
        assert sum(a.value["clicks"] for a in driver.scan(view)) == 57


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_base_that_is_not_as_it_was_published_is_not_built_on(damage: str) -> None:
    app = topology()
    view = app.views["total"]
    with Driver(app) as driver:
        driver.send(app.topics["clicks"], *some(20))
        driver.batch(view)
        base = driver.publish(view)
        file = driver.folder / "total" / base.files[0].path
        if damage == "gone":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:-20] + bytes(20))
        with pytest.raises(StateMissing, match=base.id):
            check_files(base, driver.folder / "total")
        driver.send(app.topics["clicks"], *some(5))
        assert driver.batch(view, incremental=True).plan.kind == "full"
        driver.publish(view)
        assert sum(a.value["clicks"] for a in driver.scan(view)) == 25


def batch_view(offsets: dict[int, int], topic_id: str = "id") -> BatchView:
    return BatchView("b", "total", "f", "clicks", topic_id, dict.fromkeys(offsets, 0), offsets, (), 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("batches", "reason"),
    [
        ((), "no BatchView of its present definition"),
        ((batch_view({0: 5}, "another"),), "deleted and made again"),
        ((batch_view({0: 11}),), "before that of BatchView b"),
    ],
)
def test_where_there_is_nothing_to_start_from_the_reason_is_told(batches: tuple[BatchView, ...], reason: str) -> None:
    with pytest.raises(StateMissing, match=reason):
        find_base(batches, Cut("clicks", "id", {0: 10}))


def test_retention_may_delete_what_a_base_has_counted_and_nothing_after_it() -> None:
    view, cut = topology().views["total"], Cut("clicks", "id", {0: 10, 1: 3})
    base = batch_view({0: 5})
    plan = make_plan(view, cut, {0: 5, 1: 0}, {0: 0}, before=base, incremental=True)
    assert [split.name for split in plan.splits()] == ["1-0-3", "0-5-10"]
    assert plan.starts == {0: 0, 1: 0}
    with pytest.raises(OffsetOutOfRange, match=r"records \[5, 6\) came after BatchView b"):
        make_plan(view, cut, {0: 6, 1: 0}, {0: 0}, before=base, incremental=True)
    with pytest.raises(OffsetOutOfRange, match=r"records \[0, 5\) were counted"):
        make_plan(view, cut, {0: 5, 1: 0}, {0: 0}, before=base)
