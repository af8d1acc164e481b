"""Measure, print and save: see the package."""

from __future__ import annotations

import argparse
import random
import shlex
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from confluent_kafka.admin import AdminClient

import benchmarks.recovery
from benchmarks.machine import machine
from benchmarks.recovery.kafka_streams import KafkaStreams
from benchmarks.recovery.load import PARTITIONS, Expected, fill
from benchmarks.recovery.peer import Job, Peer, RecoveryError
from benchmarks.recovery.quix import Quix
from benchmarks.recovery.report import CASES, Figures, figures, save, table
from benchmarks.recovery.streamkit import StreamKit
from benchmarks.recovery.trial import Recovery, Trial
from streamkit.testing.broker import a_broker

PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (KafkaStreams, Quix, StreamKit)}


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    about = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.recovery", None, benchmarks.recovery.__doc__, "", (), about)
    parser.add_argument("--keys", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=5_000, help="events a second while a worker is killed")
    parser.add_argument("--session-timeout", type=float, default=6.0, help="seconds; a broker's least is 6 by default")
    parser.add_argument("--static-membership", action="store_true", help="a worker comes back under its old name")
    parser.add_argument("--patience", type=float, default=3_600.0, help="seconds until a wait is given up")
    parser.add_argument("--no-save", action="store_true")
    return parser.parse_args(arguments)


@dataclass(slots=True)
class Course:
    """A peer on its way through a run. One that fails is left out of what remains, and has no figures."""

    peer: Peer
    trial: Trial
    built: float = 0.0
    rounds: list[dict[str, Recovery]] = field(default_factory=list)
    failed: str = ""

    def build(self) -> str:
        self.built = self.trial.build()
        return f"state built in {self.built:.1f} s"

    def round(self, n: int) -> str:
        self.rounds.append(self.trial.round(random.Random(n)))  # killed at the same moments as the others
        cases = (f"{CASES[case]} {recovery}" for case, recovery in self.rounds[-1].items())
        return f"round {n + 1}: {', '.join(cases)}"

    def attempt(self, step: Callable[[], str]) -> None:
        if self.failed:
            return
        try:
            print(f"{self.peer.name}: {step()}", file=sys.stderr)
        except RecoveryError as error:
            self.failed = str(error)
            self.trial.close()
            print(self.failed, file=sys.stderr)

    def figures(self) -> Figures:
        if self.failed:
            return {"version": self.peer.version, "failed": self.failed}
        return figures(self.peer.version, self.built, self.rounds)


def measure(brokers: str, keys: int, options: argparse.Namespace) -> dict[str, Figures]:
    """All peers at one number of keys: each builds its state, then the rounds, in rotating order."""
    run = f"recovery-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(prefix=f"{run}-", ignore_cleanup_errors=True) as directory, ExitStack() as closers:
        closers.callback(delete_topics, brokers, run)
        jobs = {name: job_of(brokers, f"{run}-{name}", keys, Path(directory) / name, options) for name in options.peers}
        peers = {name: PEERS[name](job) for name, job in jobs.items()}
        for peer in peers.values():
            peer.prepare()
        courses = []
        for name, job in jobs.items():
            expected = Expected(brokers, job.topic, keys, fill(brokers, job.topic, keys))
            trial = closers.enter_context(closing(Trial(peers[name], job, expected, options.patience)))
            courses.append(Course(peers[name], trial))
        for course in courses:
            course.attempt(course.build)
        for n in range(options.rounds):
            turn = n % len(courses)
            for course in courses[turn:] + courses[:turn]:
                course.attempt(partial(course.round, n))
        return {course.peer.name: course.figures() for course in courses}


def job_of(brokers: str, topic: str, keys: int, directory: Path, options: argparse.Namespace) -> Job:
    directory.mkdir()
    return Job(
        brokers=brokers,
        topic=topic,
        partitions=PARTITIONS,
        keys=keys,
        rate=options.rate,
        directory=directory,
        session_timeout_ms=int(options.session_timeout * 1000),
        static_membership=options.static_membership,
    )


def delete_topics(brokers: str, run: str) -> None:
    """What this run made, changelogs too: the broker may be one that stays."""
    admin = AdminClient({"bootstrap.servers": brokers})
    topics = [topic for topic in admin.list_topics(timeout=30).topics if run in topic]
    for deleted in admin.delete_topics(topics).values() if topics else ():
        deleted.result()


def about(options: argparse.Namespace) -> Figures:
    membership = "static members" if options.static_membership else "dynamic members"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.recovery", *sys.argv[1:]]),
        "machine": f"{machine()}, the broker too",
        "load": f"{PARTITIONS} partitions, {options.rate:,} events/s, {membership}, "
        f"session timeout {options.session_timeout:g} s",
    }


def main() -> None:
    options = options_of()
    failed = False
    with a_broker() as brokers:
        for keys in options.keys:
            peers = measure(brokers, keys, options)
            print(f"{keys:,} keys\n\n{table(peers)}\n", flush=True)
            if not options.no_save:
                save(keys, {**about(options), "peers": peers})
            failed |= any("failed" in found for found in peers.values())
    sys.exit(failed)


if __name__ == "__main__":
    main()
