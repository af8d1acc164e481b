"""The interval between Checkpoints on a real Kafka: it follows what is measured, and `checkpoint explain` shows why."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from xml.etree import ElementTree

from streamkit.interval import Measured, show_seconds
from streamkit.interval.pace import DEFAULT
from streamkit.serving.measured import measured_of
from tests.kafka.site import APP, Site, wait_for


def measured(site: Site) -> Measured:
    """What the one worker has measured; nothing before its first Checkpoint."""
    return next(iter(measured_of(site.app, site.log, site.data).values()), Measured(interval=DEFAULT))


def test_a_worker_under_load_changes_its_interval_and_says_why(site: Site, tmp_path: Path) -> None:
    with site.worker("--recovery", "5s") as worker, site.load(per_second=2_000):
        wait_for(lambda: measured(site).interval != DEFAULT, worker)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    found = measured(site)
    assert found.count >= 3, "the choice of one Checkpoint is none"
    assert 0 < found.arrival < found.capacity
    assert 0 < found.start < 60

    plot = tmp_path / "x.svg"
    said = site.run("checkpoint", "explain", str(APP), "--recovery", "5s", "--plot", str(plot))
    assert f", {found.count:,} Checkpoints: {found.arrival:,.0f} records/s arrive" in said
    assert f"= in force: {show_seconds(found.interval)}" in said
    assert "asked: recovery 5 s" in said
    assert "meets" in said
    assert f"drawn: {plot}" in said
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")

    (line,) = site.run("checkpoint", "explain", str(APP), "--recovery", "5s", "--json").splitlines()
    rows = json.loads(line)["rows"]
    (force,) = [row for row in rows if row["in_force"]]
    assert abs(force["interval"] / found.interval - 1) <= 0.01
    assert sum(row["chosen"] for row in rows) == 1
    assert sum(row["measured"] for row in rows) >= 3
    with site.serving() as serving:
        assert site.check(serving) > 0


def test_explain_without_a_worker_says_what_to_do(site: Site) -> None:
    said = site.run("checkpoint", "explain", str(APP), status=1)
    assert "no worker of topology" in said
    assert f"streamkit worker {APP}" in said
    said = site.run("checkpoint", "explain", str(APP), "--plot", "x.gif", status=1)
    assert "ends in .png or .svg" in said


def test_a_fixed_interval_and_a_recovery_exclude_each_other(site: Site) -> None:
    said = site.command("worker", "--recovery", "5s", "--checkpoint", "1s", status=1)
    assert "give one of them" in said
    assert "'soon' is no duration" in site.command("worker", "--recovery", "soon", status=1)
