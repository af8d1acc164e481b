"""What exactly-once costs, how long a joining worker stops the others, how fast a standby takes over.

    python -m benchmarks.reliability [--events 2000000] [--keys 1000000] [--rounds 3] [--no-save]

Needs a broker: STREAMKIT_BROKERS, or it starts the embedded one. Three parts, in one run:

    throughput   the worker from the log's start to its end with a Checkpoint a second, exactly once and at least once
                 in turn, each in a process of its own: ad events (about 240 bytes), counted per campaign and 10 s, per
                 user (as many keys as come), and the whole topology of `topologies/ad_clicks.py` with its agent
    join         one worker at 10,000 events/s with a Checkpoint every 100 ms; another one joins. The pause is the
                 longest time in which a partition that stays where it is did not move on, as the group's offsets tell
    takeover     two workers over N keys, one killed with -9 and not started again: time until every partition of its
                 moves on, with and without a standby copy
"""

from __future__ import annotations

import argparse
import json
import os
import signal
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
from pathlib import Path

import streamkit as sk
from benchmarks import layers
from benchmarks.machine import machine
from benchmarks.recovery.load import PARTITIONS, fill, sender
from streamkit.interval import Pacer
from streamkit.log.kafka import KafkaLog
from streamkit.record import TopicPartition
from streamkit.settings import Connection
from streamkit.speed.run import Run, ends_of
from streamkit.speed.worker import Worker, group_of
from streamkit.store.rocksdb import RocksStore
from streamkit.testing.broker import a_broker
from streamkit.topology import Guarantee, Topology
from topologies import ad_clicks

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "benchmarks" / "recovery" / "streamkit_count.py"
JOBS = ("count per campaign", "count per user", "whole topology")
GUARANTEES: tuple[Guarantee, ...] = ("exactly_once", "at_least_once")
JOIN_RATE = 10_000


# -- throughput --------------------------------------------------------------------------------------------------------


def topology(job: str, guarantee: Guarantee) -> Topology:
    """A part of the ad topology, under a name of its own."""
    app = sk.Topology(f"bench-{uuid.uuid4().hex[:8]}", guarantee=guarantee)
    app.topics = dict(ad_clicks.app.topics)
    if job == "whole topology":
        app.views, app.agents = dict(ad_clicks.app.views), dict(ad_clicks.app.agents)
        return app
    key, window = ("campaign_id", ad_clicks.campaign.window) if job == "count per campaign" else ("user_id", None)
    app.view("count", ad_clicks.ad_events, key=key, window=window, aggregates={"events": sk.Count()})
    return app


def once(log: KafkaLog, job: str, guarantee: Guarantee, events: int) -> float:
    """Events a second, from the log's start to its end."""
    app = topology(job, guarantee)
    made: list[Worker] = []
    with tempfile.TemporaryDirectory() as folder, closing(RocksStore.open(Path(folder) / "state")) as store:

        def make() -> Worker:
            made.append(Worker(app, log, store, name=uuid.uuid4().hex))
            return made[-1]

        ends = ends_of(app, log)
        began = time.monotonic()
        Run(make, Pacer(app.pace), stop=threading.Event(), began=began, until_caught_up=ends).run()
        seconds = time.monotonic() - began
    assert sum(worker.counters.events for worker in made) == events, made
    return events / seconds


def throughput(brokers: str, events: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Rates by job and guarantee, a round each; the order turns from round to round."""
    log = KafkaLog(Connection(brokers))
    layers.fill(log, events)
    found: dict[str, dict[str, list[float]]] = {job: {g: [] for g in GUARANTEES} for job in JOBS}
    for n in range(rounds):
        for job in JOBS:
            for guarantee in GUARANTEES[n % 2 :] + GUARANTEES[: n % 2]:
                command = [sys.executable, "-m", "benchmarks.reliability", "--events", str(events)]
                done = subprocess.run(
                    [*command, "--one", job, "--guarantee", guarantee], env=environment(brokers),
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
                assert done.returncode == 0, done.stderr
                found[job][guarantee].append(float(done.stdout.splitlines()[-1]))
                print(f"{job}, {guarantee}: {found[job][guarantee][-1]:,.0f} events/s", file=sys.stderr)
    return found


# -- join and takeover -------------------------------------------------------------------------------------------------


def environment(brokers: str, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "STREAMKIT_BROKERS": brokers, **more}


class Site:
    """A counting topology on a topic of its own, and its workers."""

    def __init__(self, brokers: str, keys: int, standbys: int, folder: Path) -> None:
        self.brokers, self.keys = brokers, keys
        self.name = f"reliability-{uuid.uuid4().hex[:8]}"
        self.log = KafkaLog(Connection(brokers))
        self.tasks = [TopicPartition(self.name, number) for number in range(PARTITIONS)]
        self._folder, self._standbys = folder, standbys
        fill(brokers, self.name, keys)

    @contextmanager
    def worker(self, checkpoint: str) -> Iterator[subprocess.Popen[bytes]]:
        told = {"COUNT_TOPIC": self.name, "COUNT_NAME": self.name, "COUNT_STANDBYS": str(self._standbys)}
        process = subprocess.Popen(
            [sys.executable, "-m", "streamkit", "worker", str(SOURCE), "--checkpoint", checkpoint, "--quiet"],
            env=environment(self.brokers, **told, STREAMKIT_DATA=str(self._folder)),
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def offsets(self) -> dict[TopicPartition, int]:
        return self.log.group_offsets(group_of(self.name))

    def owned(self) -> list[frozenset[TopicPartition]]:
        return [tasks for tasks in self.log.members(group_of(self.name)).values() if tasks]

    def until(self, condition: Callable[[], bool]) -> float:
        """Wait for it; the moment, on `time.monotonic`."""
        deadline = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < deadline, "it does not come to be"
            time.sleep(0.02)
        return time.monotonic()

    def is_caught_up(self) -> bool:
        offsets, ends = self.offsets(), self.log.ends(self.name)
        return all(offsets.get(task, 0) >= ends[task.partition] - JOIN_RATE for task in self.tasks)


def gaps(site: Site, seconds: float, until: Callable[[], bool]) -> tuple[dict[TopicPartition, float], list[float]]:
    """By partition the longest time in which it did not move on, and all such times, for so long after `until`."""
    longest = dict.fromkeys(site.tasks, 0.0)
    every: list[float] = []
    offsets = site.offsets()
    moved = dict.fromkeys(site.tasks, time.monotonic())
    end = None
    while end is None or time.monotonic() < end:
        now, found = time.monotonic(), site.offsets()
        for task in site.tasks:
            if found.get(task) != offsets.get(task):
                longest[task] = max(longest[task], now - moved[task])
                every.append(now - moved[task])
                moved[task] = now
        offsets = found
        end = now + seconds if end is None and until() else end
        time.sleep(0.01)
    return longest, every


def join(brokers: str) -> tuple[float, float]:
    """The longest pause of a partition that stays, while another worker joins; and the ordinary time between moves."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as closers:
        site = Site(brokers, 100_000, 0, Path(folder))
        closers.enter_context(site.worker("100ms"))
        closers.enter_context(sender(brokers, site.name, site.keys, JOIN_RATE))
        site.until(site.is_caught_up)
        _, before = gaps(site, 3.0, lambda: True)
        closers.enter_context(site.worker("100ms"))
        longest, _ = gaps(site, 2.0, lambda: len(site.owned()) == 2)
        first = max(site.owned(), key=lambda tasks: -max(longest[t] for t in tasks))
        return max(longest[task] for task in first), statistics.median(before)


def takeover(brokers: str, keys: int, standbys: int) -> float:
    """Seconds from kill -9 until every partition of the killed worker moves on at the other one."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as closers:
        site = Site(brokers, keys, standbys, Path(folder))
        first = closers.enter_context(site.worker("200ms"))
        site.until(lambda: len(site.owned()) == 1 and site.is_caught_up())
        closers.enter_context(site.worker("200ms"))
        site.until(lambda: len(site.owned()) == 2)
        closers.enter_context(sender(brokers, site.name, site.keys, JOIN_RATE // 2))
        site.until(site.is_caught_up)
        if standbys:
            time.sleep(5)  # copies are placed every two seconds, and then restored
        before_kill = set(site.log.members(group_of(site.name)).items())
        began = time.monotonic()
        first.send_signal(signal.SIGKILL)
        first.wait()
        time.sleep(0.25)  # what the dead one had asked for may be seen a moment later
        known = site.offsets()
        assert before_kill
        moved = site.until(lambda: all(site.offsets().get(t, 0) > known.get(t, 0) for t in site.tasks))
        return moved - began


# -- the run -----------------------------------------------------------------------------------------------------------


def table(rates: dict[str, dict[str, list[float]]], pauses: list[tuple[float, float]],
          takeovers: dict[str, list[float]]) -> str:  # fmt: skip
    lines = ["| events/s | exactly once | at least once | ratio |", "|---|---|---|---|"]
    for job, by in rates.items():
        exactly, least = (statistics.median(by[g]) for g in GUARANTEES)
        ratios = [a / b for a, b in zip(by["exactly_once"], by["at_least_once"], strict=True)]
        lines.append(f"| {job} | {exactly:,.0f} | {least:,.0f} | {statistics.median(ratios):.0%} |")
    pause, usual = (statistics.median(found) for found in zip(*pauses, strict=True))
    lines.append(f"\nA joining worker: partitions that stay pause for {pause:.2f} s at most (usually {usual:.2f} s "
                 f"between two Checkpoints).")  # fmt: skip
    for name, seconds in takeovers.items():
        shown = ", ".join(f"{s:.1f}" for s in seconds)
        lines.append(f"\nTakeover {name}: {statistics.median(seconds):.1f} s from kill -9 until all partitions move on "
                     f"({shown}).")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-save", action="store_true")
    parser.add_argument("--one", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--guarantee", choices=GUARANTEES, default="exactly_once", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(once(KafkaLog(Connection.from_environment()), options.one, options.guarantee, options.events))
        return
    with a_broker() as brokers:
        rates = throughput(brokers, options.events, options.rounds)
        pauses = [join(brokers) for _ in range(options.rounds)]
        takeovers = {
            f"of {options.keys:,} keys, {'a standby' if standbys else 'no standby'}": [
                takeover(brokers, options.keys, standbys) for _ in range(options.rounds)
            ]
            for standbys in (1, 0)
        }
    text = table(rates, pauses, takeovers)
    print(text)
    if not options.no_save:
        given = f"--events {options.events} --keys {options.keys} --rounds {options.rounds}"
        head = (
            f"`python -m benchmarks.reliability {given}`, {datetime.now(UTC).isoformat(timespec='seconds')}, "
            f"{machine()}, broker on the same machine\n"
        )
        layers.RESULTS.mkdir(exist_ok=True)
        (layers.RESULTS / "reliability.md").write_text(f"{head}\n{text}\n")
        found = {"throughput": rates, "join": pauses, "takeover": takeovers}
        (layers.RESULTS / "reliability.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
