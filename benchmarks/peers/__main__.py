"""Measure, print and save: see the package."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka.admin import AdminClient

import benchmarks.peers
from benchmarks.machine import machine
from benchmarks.peers import (
    bytewax,
    ceilings,
    events,
    faust,
    flink,
    kafka_streams,
    latency,
    pathway,
    quix,
    report,
    spark,
    streamkit,
)
from benchmarks.peers.peer import Peer
from benchmarks.peers.run import Figures, RunError, run
from benchmarks.peers.task import Task
from benchmarks.setup import SetupError
from streamkit.errors import StreamkitError
from streamkit.testing.broker import a_broker

MODULES = (streamkit, ceilings, kafka_streams, flink, spark, pathway, bytewax, quix, faust)
PEERS: dict[str, Peer] = {peer.name: peer for module in MODULES for peer in module.PEERS}
JOBS = (*events.JOBS, "latency")
SMALL = ("streamkit", "consume")
SLOW_SHARE = 10


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    about = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.peers", None, benchmarks.peers.__doc__, "", (), about)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--events", type=int, default=6_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rates", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="events/s, for latency")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long a rate is held, for latency")
    parser.add_argument("--patience", type=float, default=900.0, help="seconds until a run is given up")
    parser.add_argument("--small", action="store_true", help="StreamKit and the bare loop, 50,000 events, one round")
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args(arguments)
    if options.small:
        options.peers, options.events, options.rounds = list(SMALL), 50_000, 1
        options.rates, options.seconds = [1_000], 3.0
    return options


class Site:
    """The topics of a run, made when they are asked for, and what jobs must come to on them."""

    def __init__(self, brokers: str, directory: Path) -> None:
        self.brokers, self.directory = brokers, directory
        self.run = f"peers-{uuid.uuid4().hex[:8]}"
        self._topics: dict[tuple[int, bool], str] = {}
        self._right: dict[tuple[str, int], events.Totals] = {}
        self._ads = directory / "ads.json"
        self._ads.write_text(json.dumps(events.campaigns()))

    def right(self, job: str, count: int) -> events.Totals:
        if (job, count) not in self._right:
            self._right[job, count] = events.expected(job, count)
        return self._right[job, count]

    def topic(self, count: int, *, by_page: bool) -> str:
        if (count, by_page) not in self._topics:
            name = f"{self.run}-{'pages' if by_page else 'events'}-{count}"
            events.fill(self.brokers, name, count, by_page=by_page)
            self._topics[count, by_page] = name
        return self._topics[count, by_page]

    def task(self, peer: Peer, job: str, count: int) -> Task:
        """One run's, with a group and a directory of its own."""
        name = f"{self.run}-{peer.name}-{uuid.uuid4().hex[:6]}"
        directory = self.directory / name
        directory.mkdir()
        total = count if peer.only_reads else events.total(self.right(job, count))
        return Task(
            brokers=self.brokers, topic=self.topic(count, by_page=job == "unique"), partitions=events.PARTITIONS,
            job=job, events=count, total=total, group=name, directory=str(directory),
            ads=str(self._ads), settings=dict(peer.settings),
        )  # fmt: skip

    def close(self) -> None:
        """Delete what this run made, changelogs too: the broker may be one that stays."""
        admin = AdminClient({"bootstrap.servers": self.brokers, "log_level": 3})
        topics = [topic for topic in admin.list_topics(timeout=30).topics if self.run in topic]
        for deleted in admin.delete_topics(topics).values() if topics else ():
            deleted.result()


@dataclass(slots=True)
class Course:
    """A peer on its way through a job. One that fails is left out of what remains, and has no figures."""

    peer: Peer
    rounds: list[Figures] = field(default_factory=list)
    failed: str = ""

    def round(self, site: Site, job: str, options: argparse.Namespace) -> None:
        if self.failed or job in self.peer.cannot:
            return
        count = options.events // SLOW_SHARE if self.peer.slow else options.events
        told = "failed"
        try:
            task = site.task(self.peer, job, count)
            figures = run(self.peer, task, site.right(job, count), options.patience)
            self.rounds.append(figures)
            told = f"{figures.events_per_second:,.0f} events/s"
        except RunError as error:
            self.failed = str(error)
            told = self.failed
        print(f"{job}: {self.peer.name}: {told}", file=sys.stderr, flush=True)

    def found(self, job: str) -> report.Found:
        about = {"title": self.peer.title, "version": self.peer.version}
        if job in self.peer.cannot:
            return {**about, "cannot": self.peer.cannot[job]}
        if self.failed:
            return {**about, "failed": self.failed}
        return report.found(self.peer.title, self.peer.version, self.peer.keeps, self.rounds)


def measure(
    site: Site, job: str, peers: Sequence[Peer], failed: dict[str, str], options: argparse.Namespace
) -> list[Course]:
    """All rounds of one job, the order turning from round to round."""
    courses = [Course(peer, failed=failed.get(peer.name, "")) for peer in peers]
    for n in range(options.rounds):
        turn = n % len(courses)
        for course in courses[turn:] + courses[:turn]:
            course.round(site, job, options)
    return courses


def prepare(peers: Sequence[Peer]) -> dict[str, str]:
    """Get what the peers need; why some cannot be had."""
    failed = {}
    for peer in peers:
        print(f"{peer.name}: preparing", file=sys.stderr, flush=True)
        try:
            peer.prepare()
        except (SetupError, StreamkitError) as error:
            failed[peer.name] = f"cannot be had here: {error}"
            print(f"{peer.name}: {error}", file=sys.stderr, flush=True)
    return failed


def about(options: argparse.Namespace) -> report.Found:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.peers", *sys.argv[1:]]),
        "machine": f"{machine()}, the broker too",
        "events": options.events,
    }


def main() -> None:
    options = options_of()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is ended
    peers = [PEERS[name] for name in options.peers]
    bad = False
    with ExitStack() as closers:
        directory = Path(
            closers.enter_context(tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True))
        )
        failed = prepare(peers)
        site = Site(closers.enter_context(a_broker()), directory)
        closers.callback(site.close)
        for job in options.jobs:
            if job == "latency":
                found = latency.measure(site.brokers, site.run, directory, peers, failed, options)
            else:
                found = {c.peer.name: c.found(job) for c in measure(site, job, peers, failed, options)}
            print(f"\n{job}\n\n{report.text(job, found)}\n", flush=True)
            bad |= any("failed" in found[name] for name in SMALL if name in found)
            if not options.no_save:
                report.save(job, about(options), found)
    sys.exit(bad)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
