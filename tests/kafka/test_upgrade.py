"""`streamkit upgrade` on a real Kafka: from one version of a View to the next under load, back again, and refused."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from streamkit.loading import load_topology
from streamkit.serving.connect import open_serving
from streamkit.serving.merge import Serving
from tests.kafka.site import Site, wait_for
from tests.life.app import answers, expected
from tests.life.oracle import events_before

FIRST = """
import os, polars as pl, streamkit as sk
from tests.life.app import topology
app = topology(os.environ["LIFE_TOPIC"], name=os.environ["LIFE_NAME"])
clicks = app.topics[os.environ["LIFE_TOPIC"]]
"""
SECOND = f"""{FIRST}
app.view("total", clicks, key="campaign", where=pl.col("cents") >= 100,
         aggregates={{"clicks": sk.Count(), "cents": sk.Sum("cents")}}, version=2)
"""
FAST = ("--checkpoint", "50ms", "--quiet")


@pytest.fixture
def app(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that its owner changes; this process can load it, too."""
    for name in ("LIFE_NAME", "LIFE_TOPIC"):
        monkeypatch.setenv(name, site.environment()[name])
    file = tmp_path / "app.py"
    file.write_text(FIRST)
    return file


def version_of_answers(site: Site, serving: Serving) -> int:
    """Which version answers, every Answer of it being the plain loop's at its Cut."""
    view = serving.find("total")
    scanned = list(serving.scan(view))
    events = events_before(site.records(), scanned[0].cut.offsets)
    if view.version == 1:
        assert answers(scanned) == expected("total", events)
    else:
        paid = expected("total", [event for event in events if event["cents"] >= 100])
        assert answers(scanned) == {k: {n: v[n] for n in ("clicks", "cents")} for k, v in paid.items()}
    assert {a.view for a in scanned} == {view.name}
    return view.version


def test_readers_are_switched_in_one_step_under_load_and_back_again(site: Site, app: Path) -> None:
    site.send(3_000)
    with site.running("worker", str(app), *FAST) as worker:
        wait_for(lambda: site.checkpointed() >= 3_000, worker)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    app.write_text(SECOND)
    topology = load_topology(str(app))
    with (
        site.running("worker", str(app), *FAST) as worker,
        site.load(),
        open_serving(topology, site.log, site.data) as serving,
    ):
        wait_for(lambda: bool(serving.segments(topology.views["total"])), worker)
        said = site.run("upgrade", str(app), "total", "--check")
        assert "readers of view 'total' are still answered by total" in said
        assert version_of_answers(site, serving) == 1
        before = serving.seam(serving.find("total")).cut
        said = site.run("upgrade", str(app), "total", "--yes")
        assert "0 differences to the speed layer" in said
        assert "0 states alike in clicks, cents, 20 not; 0 only in total, 0 only in total@2" in said
        assert f"back: streamkit upgrade {app} total --back" in said
        assert version_of_answers(site, serving) == 2  # by a reader that was open all the time
        after = serving.seam(serving.find("total"))
        assert after.batch is not None
        assert all(after.cut.offsets[partition] >= offset for partition, offset in before.offsets.items())
        # The old file is back in place, and does not know what readers were switched to.
        app.write_text(FIRST)
        said = site.run("query", str(app), "total", status=1)
        assert "switched to total@2, which this topology does not declare" in said
        said = site.run("upgrade", str(app), "total", "--back", "--yes")
        assert "total answers at " in said, "it was kept up to date all the time"
        assert "answered by total from now on (before: total@2)" in said
        assert version_of_answers(site, serving) == 1


def test_what_cannot_be_upgraded_is_refused_and_readers_are_answered_as_before(site: Site, app: Path) -> None:
    site.send(1_000)
    assert "no newer version is declared" in site.run("upgrade", str(app), "total", "--yes", status=1)
    with site.running("worker", str(app), *FAST) as worker:
        wait_for(lambda: site.checkpointed() >= 1_000, worker)
        app.write_text(SECOND)
        said = site.run("upgrade", str(app), "total", "--yes", "--wait-seconds", "0.5", status=1)
        assert f"waiting for workers that know total@2: start them again with {app}" in said
        assert "the workers that run do not know total@2" in said
        assert "BatchView" not in said, "nothing was computed that nobody would follow"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    said = site.run("upgrade", str(app), "total", "--yes", "--wait-seconds", "0", status=1)
    assert f"no worker of topology {site.name!r} runs" in said
    assert f"start `streamkit worker {app}`, then upgrade" in said
    with open_serving(load_topology(str(app)), site.log, site.data) as serving:
        assert version_of_answers(site, serving) == 1
