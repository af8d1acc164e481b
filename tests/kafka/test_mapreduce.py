"""MapReduce on a real Kafka by the command line: killed and gone on with, tasks that die or hang, results sent once."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import polars as pl
import psutil
import pytest

from streamkit.log.scan import read_all
from tests.kafka.site import ROOT, Site, wait_for
from tests.life.app import Click

APP = str(ROOT / "tests" / "kafka" / "mapreduce_app.py")
SMALL = ("--split-records", "500", "--processes", "2")


def spent(site: Site) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for record in read_all(site.log, site.topic):
        click = msgspec.json.decode(record.value or b"", type=Click)
        totals[click.campaign] += click.cents
    return dict(totals)


def served(site: Site) -> dict[str, int]:
    lines = [line for line in site.run("query", APP, "spend", "--json").splitlines() if line.startswith("{")]
    return {row["key"][0]: row["value"]["value"] for row in map(json.loads, lines)}


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("MAPREDUCE_MARK", str(tmp_path / "mark"))
    yield
    assert (tmp_path / "mark").exists()


def test_a_run_killed_by_9_leaves_no_process_and_goes_on_at_its_cut(site: Site) -> None:
    site.send(1_000)
    site.run("mapreduce", APP, "spend", *SMALL)
    before = served(site)
    assert before == spent(site)
    site.send(20_000)
    tasks = site.data.mapreduce / "spend" / "stage-0"
    with site.running("mapreduce", APP, "spend", "--split-records", "100", "--processes", "2") as killed:
        wait_for(lambda: len(list(tasks.glob("task-*[0-9]"))) >= 5, killed)
        children = psutil.Process(killed.pid).children(recursive=True)
        killed.send_signal(signal.SIGKILL)
        killed.wait(30)
        _, alive = psutil.wait_procs(children, 30)
        assert not alive
    assert served(site) == before
    expected = spent(site)
    site.send(100)  # after the Cut of the run that was killed
    said = site.run("mapreduce", APP, "spend", *SMALL)
    assert "going on with the run that was stopped" in said
    assert served(site) == expected
    assert not list((site.data.mapreduce / "spend").glob("stage-*"))


def test_results_go_to_a_topic_once(site: Site) -> None:
    site.send(3_000)
    said = site.run("mapreduce", APP, "totals", *SMALL)
    assert "sent 20 records" in said
    sent = [msgspec.json.decode(r.value or b"") for r in read_all(site.log, f"{site.topic}-totals")]
    assert sorted((row["campaign"], row["cents"]) for row in sent) == sorted(spent(site).items())


@pytest.mark.usefixtures("marked")
@pytest.mark.parametrize(
    ("job", "told"), [("dies", "is tried again: its process ended"), ("straggles", "1 slow tasks")]
)
def test_a_task_that_dies_is_tried_again_and_a_slow_one_twice(job: str, told: str, site: Site) -> None:
    site.send(4_000)
    assert told in site.run("mapreduce", APP, job, *SMALL)
    assert published_rows(site, job) == spent(site)


def published_rows(site: Site, job: str) -> dict[str, int]:
    return dict(pl.read_parquet(site.data.mapreduce / job / "results" / "*" / "*.parquet").iter_rows())


def test_a_failure_is_told_once_with_where_and_the_users_traceback(site: Site) -> None:
    site.send(4_000)
    said = site.run("mapreduce", APP, "fails", *SMALL, status=1)
    assert said.count("Traceback") == 1
    assert "in bad" in said
    assert f"map failed at {site.topic}/" in said
    said = site.run("mapreduce", APP, "fails", *SMALL, "--skip", "100")
    assert f"skipped {site.topic}/" in said
    assert said.count("Traceback") == 1


def test_ctrl_c_ends_a_run_and_its_processes(site: Site) -> None:
    site.send(20_000)
    tasks = site.data.mapreduce / "spend" / "stage-0"
    with site.running("mapreduce", APP, "spend", "--split-records", "100", "--processes", "2") as stopped:
        wait_for(lambda: len(list(tasks.glob("task-*[0-9]"))) >= 2, stopped)
        children = psutil.Process(stopped.pid).children(recursive=True)
        stopped.send_signal(signal.SIGINT)
        assert stopped.wait(30) == 130
        _, alive = psutil.wait_procs(children, 30)
        assert not alive
