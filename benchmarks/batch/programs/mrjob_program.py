"""mrjob by its local runner: text files in, text files out, two tasks at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.batch.programs.telling import written
from benchmarks.peers.task import Task, finish, told


def main(task: Task) -> None:
    script, target = Path(__file__).with_name("mrjob_jobs.py"), Path(task.directory, "result")
    files = sorted(map(str, Path(task.settings["text"]).glob("*.jsonl")))
    options = ["-r", "local", "--num-cores", "2", "--no-conf", "--no-cat-output", "--output-dir", str(target)]
    subprocess.run([sys.executable, str(script), *options, *files], check=True, stdout=subprocess.DEVNULL)
    written()
    rows = []
    for part in target.glob("part-*"):
        for line in part.read_text().splitlines():
            key, count = map(json.loads, line.split("\t"))
            rows.append((key, 0, count) if task.job == "words" else (*key, count))
    finish(task, rows)


if __name__ == "__main__":
    main(told())
