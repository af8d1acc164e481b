"""Agents in the worker, on Kafka: one that does nothing, one with a Table, the same on columns, and one that yields.

    python -m benchmarks.agents [--events 2000000] [--rounds 3] [--no-save]

Needs a broker: STREAMKIT_BROKERS, or it starts the embedded one. A measurement is about 60 bytes of JSON, of one of
10,000 sensors, on 4 partitions. Each figure is the median of the rounds, and every run is a process of its own, from an
empty store to the log's end, with a Checkpoint a second. What the Tables and the topic out hold is checked.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

import streamkit as sk
from benchmarks.machine import machine
from streamkit.checkpoint import table_key, task_prefix
from streamkit.interval import Pacer
from streamkit.log.kafka import KafkaLog
from streamkit.record import TopicPartition
from streamkit.settings import Connection
from streamkit.speed.run import Run, ends_of
from streamkit.speed.worker import Worker
from streamkit.store.base import Store
from streamkit.store.rocksdb import RocksStore
from streamkit.testing.broker import a_broker
from streamkit.topic import REPLAYABLE

SENSORS, PARTITIONS = 10_000, 4
RESULTS = Path(__file__).parent / "results"


class Measurement(msgspec.Struct):
    sensor: str
    value: float
    at: int


class Moments(msgspec.Struct):
    """Mean and sum of squared deviations so far (Welford 1962; Chan et al. 1979 for `merge`)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        delta = value - self.mean
        self.mean += delta / self.count
        self.squares += delta * (value - self.mean)

    def merge(self, count: int, mean: float, squares: float) -> None:
        total, delta = self.count + count, mean - self.mean
        self.squares += squares + delta * delta * self.count * count / total
        self.mean += delta * count / total
        self.count = total


class App:
    """A topology of one agent."""

    def __init__(self) -> None:
        self.app = sk.Topology(f"agents-{uuid.uuid4().hex[:8]}")
        self.source = self.app.topic(
            "measurements", value=Measurement, key="sensor", timestamp="at", partitions=PARTITIONS
        )
        self.out = self.app.topic(f"out-{self.app.name}", value=Measurement, key="sensor", timestamp="at")
        self.moments = self.app.table("moments", default=Moments)


def nothing(a: App) -> None:
    @a.app.agent(a.source)
    async def nothing(events: Any) -> None:
        async for _ in events:
            pass


def welford(a: App) -> None:
    moments = a.moments

    @a.app.agent(a.source)
    async def welford(events: Any) -> None:
        async for event in events:
            found = moments[event.sensor]
            found.add(event.value)
            moments[event.sensor] = found


def columns(a: App) -> None:
    moments, value = a.moments, pl.col("value")

    @a.app.agent(a.source, batches=True)
    async def columns(batches: Any) -> None:
        async for frame in batches:
            parts = frame.group_by("sensor").agg(pl.len(), value.mean().alias("mean"), value.var(ddof=0).alias("var"))
            for sensor, count, mean, variance in parts.iter_rows():
                found = moments[sensor]
                found.merge(count, mean, variance * count)
                moments[sensor] = found


def echo(a: App) -> None:
    @a.app.agent(a.source, out=a.out)
    async def echo(events: Any) -> Any:
        async for event in events:
            yield event


AGENTS: dict[str, Callable[[App], None]] = {
    "does nothing": nothing,
    "Welford, in a Table": welford,
    "Welford on columns, in a Table": columns,
    "yields each event": echo,
}


def events_of(count: int) -> Iterator[Measurement]:
    for i in range(count):
        yield Measurement(f"sensor-{i * 7919 % SENSORS:05}", (i * 31 % 1000) / 10, 1_700_000_000_000 + i)


def fill(log: KafkaLog, a: App, events: int) -> None:
    """Put the events on the topic, unless just so many are there."""
    log.create(a.source.name, partitions=PARTITIONS, config=REPLAYABLE)
    there = sum(log.ends(a.source.name).values())
    if there == events:
        return
    if there:
        raise SystemExit(f"topic {a.source.name} has {there:,} records, not {events:,}: use a broker of its own")
    with closing(log.writer()) as writer:
        for event in events_of(events):
            writer.send(a.source.name, a.source.encode(event), key=event.sensor.encode(), timestamp=event.at)
        writer.flush()


def measure(name: str, log: KafkaLog, events: int) -> dict[str, float]:
    """From the log's start to its end. Raises AssertionError where what came of it is wrong."""
    a = App()
    AGENTS[name](a)
    with tempfile.TemporaryDirectory() as folder, closing(RocksStore.open(Path(folder) / "state")) as store:
        stop, ends = threading.Event(), ends_of(a.app, log)
        began, cpu = time.perf_counter(), time.process_time()
        Run(
            lambda: Worker(a.app, log, store), Pacer(a.app.pace), stop=stop, began=time.monotonic(),
            until_caught_up=ends,
        ).run()  # fmt: skip
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        if AGENTS[name] in (welford, columns):
            assert sum(found.count for found in held(a, store)) == events
    return {"events_per_second": events / seconds, "cpu_us_per_event": cpu / events * 1e6}


def held(a: App, store: Store) -> Iterator[Moments]:
    """What the Table holds, of all tasks."""
    prefixes = [task_prefix(TopicPartition(a.source.name, partition)) for partition in range(PARTITIONS)]
    for i in range(SENSORS):
        key = table_key(a.moments.name, f"sensor-{i:05}")
        yield from (a.moments.load(v) for v in store.get([prefix + key for prefix in prefixes]) if v is not None)


def alone(name: str, brokers: str, events: int) -> dict[str, float]:
    """One measure in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.agents", "--one", name, "--events", str(events)],
        env={**os.environ, "STREAMKIT_BROKERS": brokers}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(brokers: str, events: int, rounds: int) -> str:
    fill(KafkaLog(Connection(brokers)), App(), events)
    lines = ["| agent | events/s | CPU us/event |", "|---|---|---|"]
    for name in AGENTS:
        runs = [alone(name, brokers, events) for _ in range(rounds)]
        rate, cpu = (statistics.median(run[k] for run in runs) for k in ("events_per_second", "cpu_us_per_event"))
        lines.append(f"| {name} | {rate:,.0f} | {cpu:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-save", action="store_true")
    parser.add_argument("--one", choices=list(AGENTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, KafkaLog(Connection.from_environment()), options.events)))
        return
    with a_broker() as brokers:
        text = table(brokers, options.events, options.rounds)
    print(text)
    if not options.no_save:
        about = f"`python -m benchmarks.agents --events {options.events} --rounds {options.rounds}`"
        when = datetime.now(UTC).isoformat(timespec="seconds")
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "agents.md").write_text(f"{about}, {when}, {machine()}, broker on the same machine\n\n{text}\n")


if __name__ == "__main__":
    main()
