"""`load`, `generate` and the demo, by the command line, on a real Kafka."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tests.kafka.site import APP, ROOT, Site, wait_for

CSV = "campaign,user,cents,at,more\nc1,u1,5,1000,x\nc2,u2,7,2000,y\n"
GENERATING = """
import os, random, streamkit as sk
from tests.life.app import Click
app = sk.Topology(os.environ["LIFE_NAME"])
clicks = app.topic(os.environ["LIFE_TOPIC"], value=Click, timestamp="at", key="user", partitions=3)
@app.generator(clicks)
def made_up(seed, start, rate):
    draw = random.Random(seed)
    at = start
    while True:
        at += int(1000 / rate)
        yield Click(f"c{draw.randrange(5)}", f"u{draw.randrange(9)}", draw.randrange(100), at)
"""


def clicks(site: Site) -> list[tuple[str, str, int, int]]:
    values = (json.loads(value) for _, _, value in site.records())
    return sorted((v["campaign"], v["user"], v["cents"], v["at"]) for v in values)


def file_of(folder: Path, suffix: str) -> Path:
    frame = pl.DataFrame({"campaign": ["c1", "c2"], "user": ["u1", "u2"], "cents": [5, 7], "at": [1000, 2000]})
    path = folder / f"clicks{suffix}"
    if suffix == ".parquet":
        frame.write_parquet(path)
    elif suffix == ".ndjson":
        frame.write_ndjson(path)
    else:
        path.write_text(CSV)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".ndjson", ".parquet"])
def test_each_format_is_loaded(site: Site, tmp_path: Path, suffix: str) -> None:
    said = site.command("load", site.topic, str(file_of(tmp_path, suffix)))
    assert "2 rows sent" in said
    assert clicks(site) == [("c1", "u1", 5, 1000), ("c2", "u2", 7, 2000)]


def test_a_bad_row_is_told_with_its_place_and_nothing_is_sent(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(CSV + "c3,u3,many,3000,z\nc4,u4\n")
    said = site.command("load", site.topic, str(path), status=1)
    assert f"{path}:4: Expected `int`, got `str` - at `$.cents`" in said
    assert f"{path}:5: expected 5 cells" in said
    assert "2 of 4 rows are not a Click, so nothing was sent" in said
    assert clicks(site) == []
    said = site.command("load", site.topic, str(path), "--bad", "skip")
    assert "2 bad rows left out" in said
    assert len(clicks(site)) == 2


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.xml", "<a/>", "its format is told by its suffix"),
        ("a.csv", "", "it is empty"),
        ("a.csv", "campaign,user\nc,u\n", "no column cents, at"),
        ("a.parquet", "no parquet", "cannot be read"),
        (None, "", "there is no such file"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_told(
    site: Site, tmp_path: Path, name: str | None, text: str, words: str
) -> None:
    path = tmp_path / (name or "missing.csv")
    if name:
        path.write_text(text)
    assert words in site.command("load", site.topic, str(path), status=1)


def test_a_field_may_come_from_the_files_name(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "c9.csv"
    path.write_text("user,cents,at\nu1,5,1000\n")
    site.command("load", site.topic, str(path), "--set", "campaign={stem}")
    assert clicks(site) == [("c9", "u1", 5, 1000)]


def test_generate_sends_what_the_seed_decides(site: Site, tmp_path: Path) -> None:
    app = tmp_path / "generating.py"
    app.write_text(GENERATING)
    said = site.run(
        "generate", str(app), site.topic, "--count", "500", "--seed", "3", "--start", "1970-01-01T00:00:05Z"
    )
    assert "500 events sent" in said
    first = clicks(site)
    assert min(at for *_, at in first) >= 5_000
    site.run("generate", str(app), site.topic, "--count", "500", "--seed", "3", "--start", "1970-01-01T00:00:05Z")
    assert clicks(site) == sorted(first * 2)


def test_ctrl_c_ends_a_run_and_what_was_counted_is_there(site: Site, tmp_path: Path) -> None:
    app = tmp_path / "generating.py"
    app.write_text(GENERATING)
    with site.running("generate", str(app), site.topic, "--rate", "200") as process:
        wait_for(lambda: sum(site.log.ends(site.topic).values()) > 20, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    sent = int(err.split(" events sent")[0].split()[-1].replace(",", ""))
    assert sent == len(site.records())


def test_event_times_far_ahead_are_taken(site: Site, tmp_path: Path) -> None:
    app = tmp_path / "generating.py"
    app.write_text(GENERATING)
    site.run("generate", str(app), site.topic, "--count", "10", "--start", "2999-01-01T00:00:00Z")
    assert len(site.records()) == 10


def test_a_topic_without_a_generator_is_told(site: Site) -> None:
    assert "generator" in site.run("generate", str(APP), site.topic, "--count", "1", status=1)


@pytest.mark.timeout(300)
def test_the_demo_runs_from_nothing(tmp_path: Path) -> None:
    """Small, in a folder of its own; it starts a broker of its own, whatever the environment says."""
    (tmp_path / "topologies").symlink_to(ROOT / "topologies")
    done = subprocess.run(
        [sys.executable, "-m", "topologies.demo", "--events", "20000"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    assert said.count("0 differences") == 4, said + done.stderr
    assert "kill -9" in said
    assert "lag" in said
    assert (tmp_path / ".streamkit" / "demo" / "anomalies.png").stat().st_size > 10_000
