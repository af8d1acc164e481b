"""Two short schedules of faults (`make torture` runs many)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.life.torture import Torture, schedule
from tests.life.torture_worker import POINTS


@pytest.mark.timeout(280)
def test_two_short_schedules(tmp_path: Path) -> None:
    report = Torture(tmp_path, port=0).run(seed=11, numbers=iter(range(2)), faults=3, minutes=1)
    assert not report.difference, report.difference
    assert not report.complaints, report.complaints
    assert report.records > 0
    assert report.counts["answers"] > 0


def test_schedules_are_the_seeds_and_come_to_every_point() -> None:
    assert schedule(3, 4, 8) == schedule(3, 4, 8)
    assert schedule(3, 4, 8) != schedule(4, 4, 8)
    tortured = [step.torture for number in range(60) for step in schedule(1, number, 8) if step.kind == "die"]
    assert {tuple(t.split()[1:3]) for t in tortured} == {(w, p) for w in ("before", "after") for p in POINTS}
