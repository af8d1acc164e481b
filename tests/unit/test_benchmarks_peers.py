"""The peers benchmark: its oracle against a plain loop over what is sent, and its modules' examples."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import events, latency, report
from benchmarks.peers.peer import Peer, PythonPeer
from benchmarks.peers.run import Figures, Point, RunError, figures_of, note, run
from benchmarks.peers.task import Task

EVENTS = 30_000
MODULES = ("task", "events", "peer", "rate", "report")


def sent(count: int) -> list[dict[str, Any]]:
    return [json.loads(event) for block in events.blocks(count) for *_, event in block.messages()]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(f"benchmarks.peers.{name}"))
    assert tried
    assert not failed


def test_events_are_of_the_size_that_is_said() -> None:
    sizes = [len(event) for block in events.blocks(1_000) for *_, event in block.messages()]
    assert len(sizes) == 1_000
    assert 230 <= statistics.mean(sizes) <= 260


def test_pages_are_as_many_as_events() -> None:
    assert len({event["page_id"] for event in sent(EVENTS)}) == EVENTS


def test_records_of_a_campaign_are_in_one_partition() -> None:
    ads = events.campaigns()
    for block in events.blocks(1_000):
        for partition, campaign, _, event in block.messages():
            assert ads[json.loads(event)["ad_id"]] == campaign.decode()
            assert partition == int(campaign[1:]) % events.PARTITIONS


def test_views_are_those_of_a_plain_loop() -> None:
    counts: dict[tuple[str, int], int] = defaultdict(int)
    ads = events.campaigns()
    for event in sent(EVENTS):
        if event["event_type"] == "view":
            counts[ads[event["ad_id"]], event["event_time"] // 10_000 * 10_000] += 1
    right = events.expected("views", EVENTS)
    assert right == {where: (n,) for where, n in counts.items()}
    assert events.total(right) == sum(counts.values())


def test_heavy_is_that_of_a_plain_loop() -> None:
    seen: dict[tuple[str, int], list[tuple[int, str]]] = defaultdict(list)
    ads = events.campaigns()
    for event in sent(2_000):
        if event["event_type"] == "view":
            newest = event["event_time"] // 10_000 * 10_000
            for back in range(0, 60_000, 10_000):
                seen[ads[event["ad_id"]], newest - back].append((event["price"], event["user_id"]))
    right = events.expected("heavy", 2_000)
    assert right.keys() == seen.keys()
    for where, some in seen.items():
        prices = [price for price, _ in some]
        users = {user for _, user in some}
        numbers = len(some), sum(prices), min(prices), max(prices), len(users), statistics.median(prices)
        assert right[where] == numbers


def test_agent_is_that_of_a_plain_loop() -> None:
    prices: dict[str, list[int]] = defaultdict(list)
    ads = events.campaigns()
    for event in sent(5_000):
        if event["event_type"] == "view":
            prices[ads[event["ad_id"]]].append(event["price"])
    found: list[list[Any]] = [
        [key, 0, len(some), statistics.mean(some), statistics.pstdev(some)] for key, some in prices.items()
    ]
    right = events.expected("agent", 5_000)
    assert events.wrong("agent", found, right) == ""
    found[0][3] *= 1.000_001
    assert events.wrong("agent", found, right).startswith("1 of 100 totals are wrong")


def a_task(total: int) -> Task:
    return Task("", "", 4, "views", 300, total, "", "", "")


def test_a_rate_is_that_after_the_first_point() -> None:
    points = [Point(1.0, 20, 5.0), Point(3.0, 100, 5.8)]
    # 80 of 100 counts are 240 of 300 events, in 2 s, for 0.8 s of CPU
    figures = figures_of(a_task(100), points, None, 2e6)
    assert figures == Figures(120.0, figures.cpu_seconds, 2.0)
    assert figures.cpu_seconds == pytest.approx(0.8 / 240 * 1e6)


def test_a_rate_needs_two_points() -> None:
    with pytest.raises(RunError, match="too few"):
        figures_of(a_task(100), [Point(1.0, 100, 5.0)], None, 0.0)


PROGRAM = """
from benchmarks.peers.task import finish, say, told
for counted in {says}:
    say(counted)
if {says}[-1] == told().total:
    finish(told(), [["c1", 0, {found}]])
print("no more to read", file=__import__("sys").stderr)
"""


@dataclass
class Program(PythonPeer):
    """A peer whose program says what it is told to."""

    source: str = ""

    def command(self, task: Task) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        return [sys.executable, "-c", self.source], super().command(task)[1]


def run_of(directory: Path, says: list[int], found: int) -> Figures:
    task = Task("", "", 4, "views", 3_000, 1_000, "", str(directory), "")
    peer = Program("p", "P", "nothing", "none", source=PROGRAM.format(says=says, found=found))
    return run(peer, task, {("c1", 0): (1_000,)}, 30.0)


def test_a_run_gives_figures_where_totals_are_right(tmp_path: Path) -> None:
    assert run_of(tmp_path, [0, 500, 1_000], 1_000).events_per_second > 0


def test_a_run_with_wrong_totals_gives_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"1 of 1 totals are wrong; c1, window 0: \(999,\), expected \(1000,\)"):
        run_of(tmp_path, [0, 500, 1_000], 999)


def test_a_program_that_ends_early_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"ended before all was counted. Its last words:\nno more to read"):
        run_of(tmp_path, [0, 500], 1_000)


def test_the_first_point_is_the_first_past_the_warm_up() -> None:
    points: list[Point] = []
    for at, counted in enumerate([0, 50, 150, 600, 1_000]):
        note(points, {"at": at * 1_000_000_000, "counted": counted}, 1_000, os.getpid())
    assert [(point.at, point.counted) for point in points] == [(2.0, 150), (4.0, 1_000)]


def test_a_warm_up_that_is_over_late_keeps_the_point_before() -> None:
    points: list[Point] = []
    for at, counted in enumerate([0, 50, 1_000]):
        note(points, {"at": at * 1_000_000_000, "counted": counted}, 1_000, os.getpid())
    assert [point.counted for point in points] == [50, 1_000]


def test_every_peer_tells_which_jobs_it_cannot_do() -> None:
    from benchmarks.peers.__main__ import PEERS

    peers: dict[str, Peer] = PEERS
    assert {peer.name for peer in peers.values()} == set(peers)
    for peer in peers.values():
        assert set(peer.cannot) <= set(events.JOBS)
        assert "views" not in peer.cannot
    assert {each.name for each in latency.timed() if each.peer} <= set(peers)


def test_a_run_replaces_its_jobs_and_keeps_the_others(tmp_path: Path) -> None:
    about = {"date": "today", "command": "python -m benchmarks.peers", "machine": "mine"}
    one = report.found(
        "A", "A 1", "nothing", [Figures(2e6, 1.0, 10.0), Figures(1e6, 3.0, 30.0), Figures(3e6, 2.0, 20.0)]
    )
    report.save("views", about, {"a": one}, tmp_path)
    report.save("agent", about, {"a": {"title": "A", "version": "A 1", "cannot": "it cannot"}}, tmp_path)
    saved = json.loads((tmp_path / "peers.json").read_text())
    assert saved["views"]["peers"]["a"]["events_per_second"] == 2_000_000
    assert saved["views"]["peers"]["a"]["cpu_seconds_per_million"] == 2.0
    text = (tmp_path / "peers.md").read_text()
    assert "| A | **2,000,000** | 1,000,000 to 3,000,000 | 2.00 | 20 | nothing |" in text
    assert "no figure: it cannot" in text
    assert (tmp_path / "peers.svg").read_text().startswith("<?xml")
