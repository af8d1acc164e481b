"""The three layers on one topic of ad events, beside a bare consume loop, in one run.

    python -m benchmarks.layers [--events 2000000] [--rounds 3] [--queries 2000] [--no-save]

Needs a broker: STREAMKIT_BROKERS, or it starts the embedded one. The events are those of `topologies/ad_clicks.py`
(about 240 bytes of JSON, 4 partitions, lz4). Each figure is the median of the rounds; the order rotates from round to
round, and every run is a process of its own with a store and a group of its own. Counts are checked before a figure
counts.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Place

import streamkit as sk
from benchmarks.machine import machine
from streamkit.cli.options import create_topics
from streamkit.interval import Pacer
from streamkit.log import client
from streamkit.log.kafka import KafkaLog
from streamkit.settings import Connection
from streamkit.speed.run import Run, ends_of
from streamkit.speed.worker import Worker
from streamkit.store.rocksdb import RocksStore
from streamkit.testing.broker import a_broker
from streamkit.topology import Topology
from topologies import ad_clicks
from topologies.ad_events import rows

START = 1_700_000_000_000
TOPIC = ad_clicks.ad_events.name
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("confluent-kafka", "polars", "rocksdict", "msgspec", "faust-streaming", "numba")
Figures = dict[str, Any]


# -- what is measured --------------------------------------------------------------------------------------------------


def bare(log: KafkaLog, events: int) -> Figures:
    """The ceiling: `Consumer.consume` with a Reader's settings, the collector off, and nothing done with what comes."""
    consumer = Consumer(log.cluster.settings(client.READER, {**client.READER_REQUIRED, "enable.partition.eof": False}))
    consumer.assign([Place(TOPIC, number, 0) for number in log.ends(TOPIC)])
    gc.disable()
    read, began = 0, time.perf_counter()
    while read < events:
        read += len(consumer.consume(20_000, 0) or [m for m in [consumer.poll(0.05)] if m is not None])
    seconds = time.perf_counter() - began
    consumer.close()
    return {"events_per_second": read / seconds}


def topology(kind: str) -> Topology:
    """A part of the ad topology, under a name of its own, so that nothing of another run is found."""
    app = sk.Topology(f"bench-{kind}-{uuid.uuid4().hex[:8]}")
    app.topics = dict(ad_clicks.app.topics)
    if kind == "count":
        where, window = ad_clicks.campaign.where, ad_clicks.campaign.window
        app.view("count", ad_clicks.ad_events, key="campaign_id", window=window, where=where,
                 aggregates={"views": sk.Count()})  # fmt: skip
        return app
    app.views = {"campaign": ad_clicks.campaign}
    if kind == "topology":
        app.views, app.agents = dict(ad_clicks.app.views), dict(ad_clicks.app.agents)
    return app


def speed(kind: str) -> Callable[[KafkaLog, int], Figures]:
    """The worker from the log's start to its end, state in RocksDB, a Checkpoint a second."""

    def measure(log: KafkaLog, events: int) -> Figures:
        app = topology(kind)
        with tempfile.TemporaryDirectory() as folder, ExitStack() as closers:
            store = closers.enter_context(closing(RocksStore.open(Path(folder) / "state")))
            made: list[Worker] = []

            def make() -> Worker:
                made.append(Worker(app, log, store))
                return made[-1]

            began, cpu = time.perf_counter(), time.process_time()
            Run(
                make, Pacer(app.pace), stop=threading.Event(), began=time.monotonic(), until_caught_up=ends_of(app, log)
            ).run()
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            assert sum(worker.counters.events for worker in made) == events, made
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"events_per_second": events / seconds, "cpu_us_per_event": cpu / events * 1e6, "peak_mb": peak}

    return measure


MEASURES: dict[str, Callable[[KafkaLog, int], Figures]] = {
    "bare consume loop": bare,
    "View, a count": speed("count"),
    "View `campaign`, 5 aggregates": speed("view"),
    "whole topology: 2 Views, 1 agent": speed("topology"),
}


# -- batch and queries, by the command line --------------------------------------------------------------------------


def batch(brokers: str, data: Path, events: int) -> Figures:
    """`streamkit batch` of the View `campaign`; the figure is the one it prints."""
    said = command(brokers, data, "batch", "topologies/ad_clicks.py", "campaign")
    assert f"{events:,} events" in said, said
    return {"events_per_second": float(said.split(" s, ")[1].split(" events/s")[0].replace(",", ""))}


def queries(brokers: str, data: Path, count: int) -> Figures:
    """Answers over HTTP on one connection, of random campaigns and windows."""
    draw = random.Random(1)
    with serve(brokers, data) as address, httpx.Client(base_url=address) as client:
        seconds = []
        for n in range(count + 100):
            params: dict[str, str] = {"key": f"c{draw.randrange(100)}", "at": str(START + draw.randrange(5) * 10_000)}
            began = time.perf_counter()
            response = client.get("/views/campaign/answer", params=params)
            if n >= 100:  # the first ones load the BatchView
                seconds.append(time.perf_counter() - began)
            response.raise_for_status()
            assert response.json()["lag"] == 0
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3}


def command(brokers: str, data: Path, *arguments: str) -> str:
    environment = {**os.environ, "STREAMKIT_BROKERS": brokers, "STREAMKIT_DATA": str(data)}
    done = subprocess.run(
        [sys.executable, "-m", "streamkit", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def serve(brokers: str, data: Path) -> Iterator[str]:
    environment = {**os.environ, "STREAMKIT_BROKERS": brokers, "STREAMKIT_DATA": str(data)}
    port = "18080"
    process = subprocess.Popen(
        [sys.executable, "-m", "streamkit", "serve", "topologies/ad_clicks.py", "--port", port],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None, "the server ended"
            try:
                httpx.get(f"{address}/health").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)


# -- the run -----------------------------------------------------------------------------------------------------------


def fill(log: KafkaLog, events: int) -> Figures:
    """Put the events on the topic, unless just so many are there."""
    create_topics(log, ad_clicks.app)
    there = sum(log.ends(TOPIC).values())
    if there == events:
        return {}
    if there:
        raise SystemExit(f"topic {TOPIC} has {there:,} records, not {events:,}: use a broker of its own")
    topic = ad_clicks.ad_events
    began = time.perf_counter()
    with closing(log.writer()) as writer:
        for _, row in zip(range(events), rows(1, START, 10_000.0), strict=False):
            event = ad_clicks.AdEvent(*row)
            writer.send(TOPIC, topic.encode(event), key=event.campaign_id.encode(), timestamp=event.event_time)
        writer.flush()
    return {"events_per_second": events / (time.perf_counter() - began)}


def alone(name: str, brokers: str, events: int) -> Figures:
    """One measure in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.layers", "--one", name, "--events", str(events)],
        env={**os.environ, "STREAMKIT_BROKERS": brokers}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def rounds(brokers: str, events: int, count: int) -> dict[str, Figures]:
    """The median of each figure over the rounds."""
    names = list(MEASURES)
    found: dict[str, list[Figures]] = {name: [] for name in names}
    for n in range(count):
        for name in names[n % len(names) :] + names[: n % len(names)]:
            found[name].append(alone(name, brokers, events))
            print(f"round {n + 1}: {name}: {found[name][-1]['events_per_second']:,.0f} events/s", file=sys.stderr)
    return {
        name: {figure: statistics.median(f[figure] for f in runs) for figure in runs[0]} for name, runs in found.items()
    }


def table(results: dict[str, Figures]) -> str:
    ceiling = results["bare consume loop"]["events_per_second"]
    lines = ["| | events/s | of the bare loop | CPU us/event | peak MB |", "|---|---|---|---|---|"]
    for name, f in results.items():
        if "events_per_second" in f:
            rate = f["events_per_second"]
            cpu, peak = (f"{f[k]:.2f}" if k in f else "" for k in ("cpu_us_per_event", "peak_mb"))
            lines.append(f"| {name} | {rate:,.0f} | {rate / ceiling:.0%} | {cpu} | {peak.split('.')[0]} |")
    query = results["query over HTTP"]
    lines.append(f"\nquery over HTTP: p50 {query['p50_ms']:.1f} ms, p99 {query['p99_ms']:.1f} ms")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--no-save", action="store_true")
    parser.add_argument("--one", choices=list(MEASURES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        log = KafkaLog(Connection.from_environment())
        print(json.dumps(MEASURES[options.one](log, options.events)))
        return
    with a_broker() as brokers:
        results = measure(brokers, options)
    text = table(results)
    print(text)
    if not options.no_save:
        save(results, text, options)


def measure(brokers: str, options: argparse.Namespace) -> dict[str, Figures]:
    log = KafkaLog(Connection(brokers))
    produced = fill(log, options.events)
    results = rounds(brokers, options.events, options.rounds)
    data = Path(tempfile.mkdtemp(prefix="streamkit-bench-"))
    try:
        command(brokers, data, "worker", "topologies/ad_clicks.py", "--until-caught-up")
        runs = [batch(brokers, data, options.events) for _ in range(options.rounds)]
        results["batch, View `campaign`"] = {
            "events_per_second": statistics.median(r["events_per_second"] for r in runs)
        }
        results["query over HTTP"] = queries(brokers, data, options.queries)
    finally:
        shutil.rmtree(data)
    if produced:
        results["generate"] = produced
    return results


def save(results: dict[str, Figures], text: str, options: argparse.Namespace) -> None:
    RESULTS.mkdir(exist_ok=True)
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks.layers --events {options.events} --rounds {options.rounds}",
        "machine": machine(),
        "packages": {name: version(name) for name in PACKAGES},
    }
    (RESULTS / "layers.json").write_text(json.dumps({**about, "results": results}, indent=2) + "\n")
    head = f"`{about['command']}`, {about['date']}, {about['machine']}, broker on the same machine\n"
    (RESULTS / "layers.md").write_text(f"{head}\n{text}\n")


if __name__ == "__main__":
    main()
