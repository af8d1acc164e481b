"""The shuffle of a MapReduce job whose intermediate data is many times the memory it may have.

    python -m benchmarks.shuffle [--gigabytes 5] [--memory 512MiB] [--no-save]

Needs a broker: STREAMKIT_BROKERS, or it starts the embedded one. Each pair holds 1,000 random bytes, which no codec
makes smaller; keys are drawn from a million. Measured is the command `streamkit mapreduce` as a user runs it: time,
CPU, and the peak of the memory of all its processes together (PSS, looked at every 0.1 s). Sums are checked.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import psutil

import streamkit as sk
from benchmarks.machine import machine
from benchmarks.process import processes_of, pss
from streamkit.testing.broker import a_broker

PAIR_BYTES, KEYS, PAIRS_A_LINE = 1_000, 1_000_000, 200
RESULTS = Path(__file__).parent / "results"

app = sk.Topology("shuffle-benchmark")


@app.mapreduce(sk.Files(os.environ.get("SHUFFLE_LINES", "none.txt")), name="lengths", partitions=16)
class Lengths:
    """The bytes that each key has."""

    def map(self, line: sk.Line) -> Iterator[tuple[int, bytes]]:
        chance = random.Random(line.text)
        for _ in range(PAIRS_A_LINE):
            yield chance.randrange(KEYS), chance.randbytes(PAIR_BYTES)

    def reduce(self, key: int, values: Iterable[bytes]) -> tuple[int, int]:
        return key, sum(map(len, values))


def measure(gigabytes: float, memory: str, brokers: str, folder: Path) -> dict[str, Any]:
    """One run."""
    lines = round(gigabytes * 1e9 / PAIR_BYTES / PAIRS_A_LINE)
    for number in range(16):
        share = range(number * lines // 16, (number + 1) * lines // 16)
        (folder / f"{number:02}.txt").write_text("".join(f"line {i}\n" for i in share))
    command = [sys.executable, "-m", "streamkit", "mapreduce", "benchmarks.shuffle:app", "--memory", memory]
    environment = {
        **os.environ,
        "SHUFFLE_LINES": str(folder / "*.txt"),
        "STREAMKIT_BROKERS": brokers,
        "STREAMKIT_DATA": str(folder / "data"),
    }
    began = time.monotonic()
    process = psutil.Popen(command, env=environment)
    peak, cpu = 0, 0.0
    while process.poll() is None:
        peak, cpu = max(peak, pss(process)), max(cpu, _cpu(process))
        time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} left with {process.returncode}")
    seconds = time.monotonic() - began
    result = folder / "data" / app.name / "mapreduce" / "lengths" / "results" / "*" / "*.parquet"
    total = pl.scan_parquet(result).select(pl.col("value").sum()).collect().item()
    if total != lines * PAIRS_A_LINE * PAIR_BYTES:
        raise RuntimeError(f"the keys have {total:,} bytes, expected {lines * PAIRS_A_LINE * PAIR_BYTES:,}")
    return {
        "gigabytes": gigabytes,
        "memory": memory,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "mb_per_second": round(gigabytes * 1e3 / seconds, 1),
        "peak_mib": peak >> 20,
    }


def _cpu(process: psutil.Popen) -> float:
    total = 0.0
    for each in processes_of(process):
        try:
            times = each.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args()
    with a_broker() as brokers, tempfile.TemporaryDirectory(prefix="streamkit-shuffle-") as folder:
        found = measure(options.gigabytes, options.memory, brokers, Path(folder))
    print(json.dumps(found))
    if not options.no_save:
        about = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), "command": " ".join(sys.argv)}
        (RESULTS / "shuffle.json").write_text(json.dumps({**about, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
