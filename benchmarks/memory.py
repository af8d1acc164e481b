"""The memory of a worker over time, at the rate that one process can produce.

    python -m benchmarks.memory [--minutes 20] [--no-save]

Needs a broker: STREAMKIT_BROKERS, or it starts the embedded one. The Yahoo job of `benchmarks.peers` (exactly once, a
Checkpoint a second) on a topic that is being written to all the while, by one process as fast as it makes events, and
of which retention keeps little. Looked at every 2 s: the worker's memory (PSS, with all its processes), and how many
events it has counted. A row of the result is a minute.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from confluent_kafka import Producer

from benchmarks.machine import machine
from benchmarks.peers.events import PARTITIONS, PRODUCER, Block, campaigns, produce
from benchmarks.peers.task import VARIABLE, Task
from benchmarks.process import end, launch, pss, said
from streamkit.log.kafka import KafkaLog
from streamkit.settings import Connection
from streamkit.speed.worker import group_of
from streamkit.testing.broker import a_broker

RESULTS = Path(__file__).parent / "results"
TOPOLOGY = Path(__file__).parent / "peers" / "programs" / "streamkit_topology.py"
ROOT = Path(__file__).parents[1]
RETENTION = {"retention.bytes": str(1 << 30), "segment.bytes": str(64 << 20)}
LOOK_SECONDS = 2.0


def write(brokers: str, topic: str) -> None:
    """Events for ever, their time moving on."""
    producer = Producer({"bootstrap.servers": brokers, **PRODUCER})
    for number in itertools.count():
        by_partition: list[list[dict[str, Any]]] = [[] for _ in range(PARTITIONS)]
        for partition, campaign, _, event in Block(number).messages():
            by_partition[partition].append({"key": campaign, "value": event})
        for partition, some in enumerate(by_partition):
            produce(producer, topic, some, partition)


def measure(brokers: str, minutes: float, folder: Path) -> list[dict[str, float]]:
    """A row a minute: events counted in it, each second; the least, middle and greatest memory, in MB."""
    log, name = KafkaLog(Connection(brokers)), f"memory-{uuid4().hex[:8]}"
    log.create(name, partitions=PARTITIONS, config=RETENTION)
    ads = folder / "ads.json"
    ads.write_text(json.dumps(campaigns()))
    task = Task(brokers, name, PARTITIONS, "views", 0, 0, name, str(folder), str(ads))
    streamkit = [sys.executable, "-m", "streamkit"]
    environment = {
        "PYTHONPATH": str(ROOT), "STREAMKIT_BROKERS": brokers, "STREAMKIT_DATA": str(folder), VARIABLE: task.dump(),
    }  # fmt: skip
    rows: list[dict[str, float]] = []
    try:
        with (
            _running([*streamkit, "worker", str(TOPOLOGY), "--quiet"], folder, environment) as worker,
            _running([sys.executable, "-m", "benchmarks.memory", "--write", name], folder, environment),
        ):
            counted, began = 0, time.monotonic()
            for _ in range(round(minutes)):
                looks = list(_look(worker, 60.0))
                now, seconds = sum(log.group_offsets(group_of(name)).values()), time.monotonic() - began
                rate, counted, began = (now - counted) / seconds, now, time.monotonic()
                if not rate:
                    raise RuntimeError(f"the worker has counted nothing:\n{said(folder)}")
                memory = {"least": min(looks), "median": statistics.median(looks), "greatest": max(looks)}
                rows.append({"minute": len(rows) + 1, "rate": round(rate), **{k: round(v) for k, v in memory.items()}})
                print(json.dumps(rows[-1]), flush=True)
    finally:
        log.delete(name)
    return rows


@contextmanager
def _running(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[psutil.Process]:
    process = launch(command, folder, environment)
    try:
        yield psutil.Process(process.pid)
    finally:
        end(process, signal.SIGINT)


def _look(worker: psutil.Process, seconds: float) -> Iterator[float]:
    """MB, every now and then for so long."""
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        yield pss(worker) / 1e6
        time.sleep(LOOK_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--no-save", action="store_true")
    parser.add_argument("--write", metavar="TOPIC", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(os.environ["STREAMKIT_BROKERS"], options.write)
    with a_broker() as brokers, tempfile.TemporaryDirectory(prefix="memory-") as folder:
        rows = measure(brokers, options.minutes, Path(folder))
    if not options.no_save:
        about = {"command": f"python -m benchmarks.memory --minutes {options.minutes:g}", "machine": machine()}
        found = {**about, "at": datetime.now(UTC).isoformat(timespec="seconds"), "minutes": rows}
        (RESULTS / "memory.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
