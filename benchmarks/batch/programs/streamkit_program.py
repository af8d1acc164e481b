"""StreamKit by its command line: `streamkit mapreduce` for words, `streamkit batch` for the View."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import polars as pl

from benchmarks.batch.programs.telling import tell, written
from benchmarks.peers.task import Task, finish, told

TOPOLOGY = str(Path(__file__).with_name("streamkit_topology.py"))


def command(task: Task, verb: str, *arguments: str) -> str:
    where = ["--brokers", task.brokers, "--data", f"{task.directory}/data"]
    run = [sys.executable, "-m", "streamkit", *verb.split(), TOPOLOGY, *arguments, *where]
    return subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True).stdout


def results(task: Task) -> pl.DataFrame:
    """Key, start of the window in milliseconds, count."""
    files = [str(path) for path in Path(task.directory, "data").glob("**/*.parquet") if ".tmp" not in str(path)]
    frame = pl.concat([pl.read_parquet(file) for file in files])
    if task.job == "words":
        return frame.select("word", pl.lit(0), "value")
    return frame.select("campaign", pl.col("window_start").cast(pl.Int64), "n")


def main() -> None:
    task = told()
    settings = task.settings
    archive = ["--archive", f"{task.directory}/archive"] if "before" in settings else []
    if sys.argv[1:] == ["before"]:
        command(task, settings["before"], task.topic, *archive)
        return
    options = ["--processes", settings["processes"], *settings.get("options", "").split(), *archive]
    if task.job == "words":
        said = command(task, "mapreduce", settings["words"], *options)
    else:
        said = command(task, "batch", "yahoo", "--seal-seconds", "0", *options)
    written()
    if shuffle := re.search(r"([\d,]+) rows shuffled\s+\(([\d,.]+)\s+MB\)", said):
        rows, megabytes = (float(each.replace(",", "")) for each in shuffle.groups())
        tell(shuffled=rows, shuffled_mb=megabytes)
    if own := re.search(r"in\s+([\d.]+)\s+s,", said):
        tell(own_seconds=float(own[1]))
    finish(task, results(task).rows())


if __name__ == "__main__":
    main()
