"""The batch benchmark: its oracle against a plain loop over what is sent, and its modules' examples."""

from __future__ import annotations

import doctest
import importlib
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.batch import data, report
from benchmarks.batch.peers import PEERS, SMALL, Peer
from benchmarks.batch.run import Figures, RunError, run
from benchmarks.peers.events import Totals
from benchmarks.peers.task import Task

RIGHT: Totals = {("word0", 0): (3,)}


@pytest.mark.parametrize("name", ["data", "run", "report"])
def test_examples(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(f"benchmarks.batch.{name}"))
    assert tried
    assert not failed


def test_words_are_those_of_a_plain_loop() -> None:
    words = Counter(
        w for block in data.blocks("words", 20_500) for line in block for w in json.loads(line)["text"].split()
    )
    assert data.expected("words", 20_500) == {(word, 0): (n,) for word, n in words.items()}
    (first, most), *_ = words.most_common(1)
    assert first == "word0"
    assert 0.07 < most / words.total() < 0.1  # 1 / (1 + 1/2 + ... + 1/100,000) is 0.083


@dataclass
class Script(Peer):
    """A peer that is a line of Python."""

    def command(self, task: Task) -> tuple[list[str | Path], dict[str, str]]:
        del task
        return [sys.executable, "-c", self.program], {}


def ran(tmp_path: Path, program: str, rows: str) -> Figures:
    task = Task("", "", 4, "words", 3, 3, "g", str(tmp_path), "")
    task.totals.write_text(rows)
    return run(Script("script", "Script", program), task, RIGHT, 30.0)


TELLS = """
import json, time
print(json.dumps({"at": time.monotonic_ns()}))
print(json.dumps({"told": {"shuffled": 5}}))
print(json.dumps({"finished": True}), flush=True)
time.sleep(60)
"""


def test_a_run_is_timed_to_its_results_and_ended(tmp_path: Path) -> None:
    figures = ran(tmp_path, TELLS, '[["word0", 0, 3]]')
    assert 0 < figures.seconds < 30
    assert figures.told == {"shuffled": 5}


def test_wrong_totals_are_no_figure(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"1 of 1 totals are wrong.*word0.*\(2,\), expected \(3,\)"):
        ran(tmp_path, TELLS, '[["word0", 0, 2]]')


def test_a_program_that_ends_early_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"(?s)ended before it had its results.*no luck"):
        ran(tmp_path, "raise SystemExit('no luck')", "[]")


def test_results_of_a_job_replace_its_own_alone(tmp_path: Path) -> None:
    about = {"command": "c", "date": "d", "machine": "m"}
    one, two = (report.found("A", "A 1", "kafka", Figures(n, 1.0, 1.0, 1.0)) for n in (1_000, 2_000))
    report.save("words", about, {"a": one}, tmp_path)
    report.save("yahoo", about, {"a": one}, tmp_path)
    report.save("words", about, {"a": two}, tmp_path)
    saved = json.loads((tmp_path / "batch.json").read_text())
    assert [saved[job]["peers"]["a"]["records"] for job in ("words", "yahoo")] == [2_000, 1_000]


def test_peers_are_named_as_they_are_asked_for() -> None:
    assert set(SMALL) <= set(PEERS)
    assert all((Path(data.__file__).parent / "programs" / f"{p.program}_program.py").exists() for p in PEERS.values())
