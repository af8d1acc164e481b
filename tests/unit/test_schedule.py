"""Schedules: what is due when, by a given clock; and the scheduler on a log in memory, with real runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

import streamkit as sk
from streamkit.cli.batch_run import BatchRun, Wish
from streamkit.cli.scheduler import Scheduler, check_scheduled
from streamkit.control import BatchView, History, Kind, Ran, Reset, RunEnded, RunStarted, decode
from streamkit.errors import DefinitionError, RunStopped, StateLocked, StreamkitError
from streamkit.folder import DataFolder
from streamkit.log.control import ControlTopic
from streamkit.log.memory import MemoryLog
from streamkit.schedule import Due, Schedule, next_run
from streamkit.view import View
from tests.life.app import Click

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
HOURLY, BOTH = Schedule(3600), Schedule(3600, 86400)


def ran(time: int, kind: Kind = "full", outcome: Any = "published", took: int = 10) -> Ran:
    started = RunStarted("id", "v", "f", kind, "scheduled", time, time, "host")
    ended = None if outcome == "killed" else RunEnded("id", outcome, time + took, kind)
    return Ran(started, ended, overtaken=True)


# -- arithmetic -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "runs", "now", "expected"),
    [
        (HOURLY, [], 5 * HOUR + 7, Due(5 * HOUR, 5 * HOUR, "full", first=True)),
        (HOURLY, [ran(5 * HOUR)], 5 * HOUR + 1, Due(6 * HOUR, 6 * HOUR, "full")),
        (HOURLY, [ran(5 * HOUR - 1)], 5 * HOUR, Due(5 * HOUR, 5 * HOUR, "full")),
        (HOURLY, [ran(5 * HOUR)], 30 * HOUR + 5, Due(30 * HOUR, 30 * HOUR, "full", passed=24)),
        # A run that began at 5:20, by hand or because another one took so long, is none for 6:00.
        (HOURLY, [ran(5 * HOUR + 20 * MINUTE)], 6 * HOUR, Due(6 * HOUR, 6 * HOUR, "full")),
        # Killed, stopped: still due, at once. Failed: later and later, at the latest at the next scheduled time.
        (HOURLY, [ran(HOUR), ran(2 * HOUR, outcome="killed")], 2 * HOUR + 9, Due(2 * HOUR, 2 * HOUR, "full")),
        (HOURLY, [ran(HOUR), ran(2 * HOUR, outcome="stopped")], 2 * HOUR + 9, Due(2 * HOUR, 2 * HOUR, "full")),
        (
            HOURLY,
            [ran(HOUR), ran(2 * HOUR, outcome="failed"), ran(2 * HOUR + 16 * SECOND, outcome="failed", took=0)],
            2 * HOUR + 20 * SECOND,
            Due(2 * HOUR, 2 * HOUR + 46 * SECOND, "full"),
        ),
        (HOURLY, [ran(HOUR, outcome="failed")] * 30, 9 * HOUR, Due(9 * HOUR, 9 * HOUR, "full", first=True)),
        # In full once a day, and whenever nobody knows of a full one.
        (BOTH, [ran(DAY)], DAY + 1, Due(DAY + HOUR, DAY + HOUR, "incremental")),
        (BOTH, [ran(DAY), ran(DAY + HOUR, "incremental")], 2 * DAY, Due(2 * DAY, 2 * DAY, "full", passed=22)),
        (BOTH, [ran(DAY), ran(2 * DAY - HOUR, "incremental")], 2 * DAY - 1, Due(2 * DAY, 2 * DAY, "full")),
        (BOTH, [ran(DAY, "incremental")], DAY + 1, Due(DAY + HOUR, DAY + HOUR, "full")),
    ],
)
def test_what_is_due_next(schedule: Schedule, runs: list[Ran], now: int, expected: Due) -> None:
    assert next_run(schedule, runs, now) == expected


def test_a_clock_that_goes_on_finds_each_time_once() -> None:
    runs: list[Ran] = []
    for now in range(10 * DAY, 12 * DAY, 7 * MINUTE):
        due = next_run(BOTH, runs, now)
        if due.begin <= now:
            runs.append(ran(now, due.kind))
    assert len(runs) == 48
    assert [run.started.time // DAY for run in runs if run.kind == "full"] == [10, 11]


@pytest.mark.parametrize(
    ("every", "full", "told"),
    [
        (None, "1d", "give batch_every, too"),
        ("2h", "1h", "is shorter than batch_every"),
        ("100ms", None, "expected 1 s or more"),
        ("hourly", None, "is no duration"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(every: str | None, full: str | None, told: str) -> None:
    app = sk.Topology("ads")
    clicks = app.topic("clicks", value=Click)
    with pytest.raises(DefinitionError, match=told):
        app.view("v", clicks, key="campaign", aggregates={"n": sk.Count()}, batch_every=every, batch_full_every=full)


def test_a_schedule_is_no_part_of_the_definition() -> None:
    def view(**options: Any) -> View:
        app = sk.Topology("ads")
        return app.view("v", app.topic("c", value=Click), key="campaign", aggregates={"n": sk.Count()}, **options)

    assert view().fingerprint == view(batch_every="1h").fingerprint


def test_a_manifest_of_before_is_read() -> None:
    old = (
        b'{"type":"batch_view","id":"1","view":"v","fingerprint":"f","topic":"t","topic_id":"i","starts":{},'
        b'"offsets":{},"files":[],"slots":0,"events":0,"rejected":0,"created":0,"proof":{"slots":1,"differences":0}}'
    )
    message = decode(old)
    assert isinstance(message, BatchView)
    assert (message.base, message.kind) == ("", "full")


# -- the scheduler ----------------------------------------------------------------------------------------------------


class Bench:
    """A topology with one scheduled View on a log in memory, a clock to be set, and real runs."""

    def __init__(self, folder: Path) -> None:
        self.log, self.now, self.stop = MemoryLog(), 100 * 3600.0, threading.Event()
        self.app = sk.Topology("ads")
        self.clicks = self.app.topic("clicks", value=Click, timestamp="at", key="user")
        self.view = self.app.view(
            "total", self.clicks, key="campaign", aggregates={"clicks": sk.Count()},
            batch_every="1h", batch_full_every="1d",
        )  # fmt: skip
        self.folder = DataFolder.of("ads", folder)
        self.log.create("clicks", partitions=2)
        self.wrong: Exception | None = None
        self.before_run: Callable[[], None] = lambda: None
        self.before_last_check: Callable[[], None] = lambda: None

    def send(self, count: int) -> None:
        with closing(self.log.writer()) as writer:
            for number in range(count):
                writer.send("clicks", self.clicks.encode(Click("acme", f"u{number}", 1, 0)), key=b"%d" % number)
            writer.flush()

    def run(self, folder: DataFolder | None = None) -> BatchRun:
        return BatchRun(self.app, "no file", self.view, cast("Any", self.log), folder or self.folder, 1)

    def scheduler(self) -> Scheduler:
        def recompute(view: View, wish: Wish) -> object:
            assert view is self.view
            if self.wrong is not None:
                raise self.wrong
            self.before_run()

            def last() -> None:
                self.before_last_check()
                wish.last_check()

            return self.run().recompute(replace(wish, check=lambda: self.heard(wish.check), last_check=last))

        made = Scheduler(self.app, self.log, recompute, now=lambda: self.now)
        self.now += 10  # it has heard the group by then
        return made

    def heard(self, check: Callable[[], None]) -> None:
        """A run that is asked to stop takes until the scheduler has heard of it."""
        check()
        while self.stop.is_set():
            time.sleep(0.01)
            check()

    def turn(self, scheduler: Scheduler) -> None:
        scheduler.turn(self.stop)

    def history(self) -> list[Ran]:
        history = History()
        with closing(ControlTopic(self.log, "ads")) as control:
            for message in control.catch_up():
                history.apply(message)
        return history.of("total")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(tmp_path)
    # The history's times are the clock's, too.
    monkeypatch.setattr("streamkit.cli.batch_run._now", lambda: int(bench.now * 1000))
    return bench


def told(runs: list[Ran]) -> list[tuple[str, str, str]]:
    return [(run.started.trigger, run.kind, run.outcome) for run in runs]


def test_runs_are_made_when_they_are_due_and_missed_ones_once(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.send(10)
    with closing(bench.scheduler()) as scheduler:
        for _ in range(3):
            bench.turn(scheduler)
        assert told(bench.history()) == [("first", "full", "published")]
        bench.now += 3600
        bench.send(3)
        bench.turn(scheduler)
        bench.turn(scheduler)
    bench.now += 5 * 3600
    with closing(bench.scheduler()) as scheduler:
        for _ in range(3):
            bench.turn(scheduler)
    bench.now += 24 * 3600
    with closing(bench.scheduler()) as scheduler:
        bench.turn(scheduler)
    runs = bench.history()
    assert told(runs) == [
        ("first", "full", "published"),
        ("scheduled", "incremental", "published"),
        ("missed", "incremental", "published"),
        ("missed", "full", "published"),
    ]
    ends = [run.ended for run in runs]
    assert [end.records for end in ends if end] == [10, 3, 0, 13]
    proof = ends[-1].proof if ends[-1] else None
    assert proof is not None, "a full run proves the incremental ones"
    assert proof.differences == 0
    assert "which makes up for 4 more that were missed" in capsys.readouterr().err


def test_what_fails_is_noted_and_tried_again_later(bench: Bench) -> None:
    bench.log.delete("clicks")
    with closing(bench.scheduler()) as scheduler:
        bench.turn(scheduler)
        bench.turn(scheduler)
        assert told(bench.history()) == [("first", "full", "failed")]
        bench.log.create("clicks", partitions=2)
        bench.now += 14
        bench.turn(scheduler)
        assert len(bench.history()) == 1
        bench.now += 2
        bench.turn(scheduler)
    assert told(bench.history()) == [("first", "full", "failed"), ("first", "full", "published")]


def test_a_view_that_another_run_holds_is_left_alone_for_a_while(bench: Bench) -> None:
    bench.wrong = StateLocked("another run")
    with closing(bench.scheduler()) as scheduler:
        bench.turn(scheduler)
        bench.wrong = None
        bench.turn(scheduler)
        assert bench.history() == []
        bench.now += 6
        bench.turn(scheduler)
    assert told(bench.history()) == [("first", "full", "published")]


def test_one_leads_and_another_takes_over(bench: Bench) -> None:
    with closing(bench.scheduler()) as first, closing(bench.scheduler()) as second:
        bench.turn(first)
        bench.turn(second)
        assert len(bench.history()) == 1
        bench.now += 3600
        bench.turn(second)
        assert len(bench.history()) == 1
        bench.log.expire(cast("Any", first)._leader._member)
        bench.turn(second)
        assert len(bench.history()) == 2


def test_a_run_whose_scheduler_lost_the_lead_is_not_published(bench: Bench) -> None:
    bench.send(5)
    with closing(bench.scheduler()) as scheduler:
        # As a process that was stopped for too long finds it: the group has given its turn to another, unheard.
        bench.before_last_check = lambda: bench.log.expire(cast("Any", scheduler)._leader._member)
        bench.turn(scheduler)
    assert told(bench.history()) == [("first", "full", "stopped")]


def test_a_run_that_is_asked_to_stop_is_made_at_the_next_start(bench: Bench) -> None:
    bench.send(5)
    with closing(bench.scheduler()) as scheduler:
        bench.before_run = bench.stop.set
        bench.turn(scheduler)
    assert told(bench.history()) == [("first", "full", "stopped")]
    bench.stop.clear()
    bench.before_run = lambda: None
    with closing(bench.scheduler()) as scheduler:
        bench.turn(scheduler)
    assert told(bench.history())[1:] == [("first", "full", "published")]


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_that_was_overtaken_is_dropped(bench: Bench, tmp_path: Path) -> None:
    bench.send(5)
    elsewhere = DataFolder.of("ads", tmp_path / "elsewhere")
    todo = [1]

    def overtake() -> None:
        if todo:
            todo.clear()
            bench.send(3)
            bench.run(elsewhere).recompute(Wish())

    with pytest.raises(RunStopped, match="has overtaken it"):
        bench.run().recompute(Wish(check=overtake))
    assert [run.outcome for run in bench.history()] == ["stopped", "published"]
    bench.run().recompute(Wish())
    assert bench.history()[-1].outcome == "published"


def test_what_a_reset_has_made_void_does_not_come_back(bench: Bench) -> None:
    bench.send(5)
    bench.run().recompute(Wish())
    bench.send(2)

    def reset() -> None:
        with closing(ControlTopic(bench.log, "ads")) as control:
            control.append(Reset("total", "id"))

    with pytest.raises(RunStopped, match="is in force no more"):
        bench.run().recompute(Wish("incremental", check=reset))
    batch = bench.run().recompute(Wish("incremental"))  # not from the Plan that was left, either
    assert (batch.kind, batch.events) == ("full", 7)


def test_two_runs_of_a_view_do_not_meet(bench: Bench) -> None:
    def another() -> None:
        with pytest.raises(StateLocked):
            bench.run().recompute(Wish())

    bench.send(5)
    bench.run().recompute(Wish(last_check=another))
    assert [run.outcome for run in bench.history()] == ["published"]


def test_only_views_with_a_schedule_are_scheduled() -> None:
    with pytest.raises(StreamkitError, match="batch_every"):
        check_scheduled(sk.Topology("ads"))
