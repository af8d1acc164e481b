"""Measure, print and save: see the package."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka.admin import AdminClient

import benchmarks.batch
from benchmarks.batch import data, report
from benchmarks.batch.peers import PEERS, SMALL, Peer
from benchmarks.batch.run import RunError, run
from benchmarks.machine import machine
from benchmarks.peers import events
from benchmarks.peers.task import Task
from benchmarks.setup import SetupError
from streamkit.errors import StreamkitError
from streamkit.testing.broker import a_broker

SLOW_SHARE = 10


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    about = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.batch", None, benchmarks.batch.__doc__, "", (), about)
    parser.add_argument("--jobs", nargs="+", choices=data.JOBS, default=list(data.JOBS))
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--patience", type=float, default=1_800.0, help="seconds until a run is given up")
    parser.add_argument("--small", action="store_true", help=f"{', '.join(SMALL)}, 20,000 records")
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args(arguments)
    if options.small:
        options.peers, options.records = list(SMALL), 20_000
    return options


class Site:
    """Records on topics and in files, made when they are asked for, and what jobs must come to on them."""

    def __init__(self, brokers: str, directory: Path) -> None:
        self.brokers, self.directory = brokers, directory
        self.run = f"batch-{uuid.uuid4().hex[:8]}"
        self._places: dict[tuple[str, int], data.Places] = {}
        self._right: dict[tuple[str, int], events.Totals] = {}
        self._ads = directory / "ads.json"
        self._ads.write_text(json.dumps(events.campaigns()))

    def right(self, job: str, count: int) -> events.Totals:
        if (job, count) not in self._right:
            self._right[job, count] = data.expected(job, count)
        return self._right[job, count]

    def places(self, job: str, count: int) -> data.Places:
        if (job, count) not in self._places:
            name = f"{self.run}-{job}-{count}"
            self._places[job, count] = data.put(job, count, self.brokers, name, self.directory / name)
        return self._places[job, count]

    def task(self, peer: Peer, job: str, count: int) -> Task:
        """One run's, with a directory of its own."""
        name = f"{self.run}-{peer.name}-{uuid.uuid4().hex[:6]}"
        (self.directory / name).mkdir()
        places = self.places(job, count)
        return Task(
            brokers=self.brokers, topic=places["kafka"], partitions=events.PARTITIONS, job=job, events=count,
            total=events.total(self.right(job, count)), group=name, directory=str(self.directory / name),
            ads=str(self._ads), settings={**peer.settings, **places, "reads": peer.reads},
        )  # fmt: skip

    def close(self) -> None:
        """Delete what this run made: the broker may be one that stays."""
        admin = AdminClient({"bootstrap.servers": self.brokers, "log_level": 3})
        topics = [topic for topic in admin.list_topics(timeout=30).topics if self.run in topic]
        for deleted in admin.delete_topics(topics).values() if topics else ():
            deleted.result()


def measure(site: Site, job: str, peer: Peer, options: argparse.Namespace) -> report.Found:
    """One run of one peer."""
    try:
        peer.prepare()
        task = site.task(peer, job, options.records // SLOW_SHARE if peer.slow else options.records)
        figures = run(peer, task, site.right(job, task.events), options.patience)
        shutil.rmtree(task.directory, ignore_errors=True)
    except (RunError, SetupError, StreamkitError) as error:
        print(f"{job}: {peer.name}: {error}", file=sys.stderr, flush=True)
        return {"title": peer.title, "version": peer.version, "failed": str(error)}
    print(f"{job}: {peer.name}: {figures.records_per_second:,.0f} records/s", file=sys.stderr, flush=True)
    return report.found(peer.title, peer.version, peer.reads, figures)


def about(options: argparse.Namespace) -> report.Found:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.batch", *sys.argv[1:]]),
        "machine": f"{machine()}, the broker too",
        "records": options.records,
    }


def main() -> None:
    options = options_of()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is ended
    bad = False
    with ExitStack() as closers:
        temporary = tempfile.TemporaryDirectory(prefix="batch-", ignore_cleanup_errors=True)
        directory = Path(closers.enter_context(temporary))
        site = Site(closers.enter_context(a_broker()), directory)
        closers.callback(site.close)
        for job in options.jobs:
            peers = [PEERS[name] for name in options.peers if job in PEERS[name].jobs]
            found = {peer.name: measure(site, job, peer, options) for peer in peers}
            print(f"\n{job}\n\n{report.table(found)}\n", flush=True)
            bad |= any("failed" in found[name] for name in SMALL if name in found)
            if not options.no_save:
                report.save(job, about(options), found)
    sys.exit(bad)


if __name__ == "__main__":
    main()
