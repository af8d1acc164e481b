"""One test's application on the real broker: its topics, its data folder, and its processes by the command line."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamkit.checkpoint import Segments
from streamkit.cli.options import create_topics
from streamkit.errors import StateMissing
from streamkit.folder import DataFolder
from streamkit.log.kafka import KafkaLog
from streamkit.log.scan import read_all
from streamkit.serving.connect import open_serving
from streamkit.serving.merge import Serving
from streamkit.settings import Connection
from streamkit.topology import Topology
from streamkit.view import View
from tests.life.app import Click, answers, expected, topology
from tests.life.oracle import events_before

ROOT = Path(__file__).parents[2]
APP = ROOT / "tests" / "kafka" / "life_app.py"


@dataclass
class Site:
    """An application that nobody else shares."""

    brokers: str
    name: str
    folder: Path
    log: KafkaLog
    app: Topology
    random: random.Random = field(default_factory=lambda: random.Random(7))

    @property
    def topic(self) -> str:
        return f"{self.name}-clicks"

    @property
    def data(self) -> DataFolder:
        return DataFolder.of(self.name, self.folder)

    def view(self, name: str) -> View:
        return self.app.views[name]

    def send(self, count: int, *, rubbish: int = 0) -> None:
        """Random clicks, and records that are none."""
        draw = self.random
        topic = self.app.topics[self.topic]
        with closing(self.log.writer()) as writer:
            for _ in range(count):
                click = Click(
                    f"c{draw.randrange(20)}", f"u{draw.randrange(50)}", draw.randrange(500), draw.randrange(200_000)
                )
                writer.send(self.topic, topic.encode(click), key=topic.key_of(click), timestamp=click.at)
            for _ in range(rubbish):
                writer.send(self.topic, b'{"campaign": 7}', key=b"u1")
            writer.flush()

    @contextmanager
    def load(self, per_second: int = 1_000) -> Iterator[None]:
        """Clicks keep coming."""
        stop, topic = threading.Event(), self.app.topics[self.topic]

        def send() -> None:
            with closing(self.log.writer()) as writer:
                begin, sent = time.monotonic(), 0
                while not stop.wait(0.02):
                    due = int((time.monotonic() - begin) * per_second)
                    for number in range(sent, due):
                        click = Click(f"c{number % 20}", f"u{number % 50}", number % 500, number)
                        writer.send(self.topic, topic.encode(click), key=topic.key_of(click))
                    writer.flush()
                    sent = due

        sender = threading.Thread(target=send)
        sender.start()
        try:
            yield
        finally:
            stop.set()
            sender.join()

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "STREAMKIT_BROKERS": self.brokers,
            "STREAMKIT_DATA": str(self.folder),
            "LIFE_TOPIC": self.topic,
            "LIFE_NAME": self.name,
            "COLUMNS": "200",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "streamkit", *arguments],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, status: int = 0) -> str:
        """Standard output and error of a command, which must leave with `status`."""
        with self.running(*arguments) as process:
            out, err = process.communicate(timeout=120)
        assert process.returncode == status, f"{arguments} left with {process.returncode}:\n{out}\n{err}"
        return out + err

    def command(self, verb: str, *arguments: str, status: int = 0) -> str:
        return self.run(verb, str(APP), *arguments, status=status)

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A command that runs meanwhile; killed at the end if it still does."""
        process = self.start(*arguments)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate(timeout=30)

    @contextmanager
    def worker(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """A worker that runs meanwhile."""
        with self.running("worker", str(APP), *options) as process:
            yield process

    @contextmanager
    def faulty_worker(self, fault: str, *options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """A worker that kills or stops itself at a named point: see `tests/life/torture_worker.py`."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.life.torture_worker", "worker", str(APP), *options],
            env={**self.environment(), "TORTURE": fault, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate(timeout=30)

    def serving(self) -> Any:
        return open_serving(self.app, self.log, self.data)

    def checkpointed(self) -> int:
        """The records that are in the worker's state."""
        try:
            with self.serving() as serving:
                segments: Mapping[int, Segments] = serving.segments(self.view("total"))
        except StateMissing:
            return 0
        return sum(s.end for s in segments.values())

    def has_state(self) -> bool:
        """Has a worker opened its tasks, and made its first Checkpoint?"""
        try:
            with self.serving() as serving:
                return bool(serving.segments(self.view("total")))
        except StateMissing:
            return False

    def records(self, topic: str | None = None) -> list[tuple[int, int, bytes]]:
        return [(r.partition, r.offset, r.value or b"") for r in read_all(self.log, topic or self.topic)]

    def check(self, serving: Serving, *, offsets: Mapping[int, int] | None = None) -> int:
        """Every Answer of every View is the plain loop's at its Cut; returns how many there were."""
        scans = {name: list(serving.scan(view)) for name, view in self.app.views.items()}
        records, count = self.records(), 0  # after the scans: what they have seen is on the log
        for name, scanned in scans.items():
            cut = scanned[0].cut.offsets if scanned else {}
            events = [e for e in events_before(records, cut) if e["campaign"] != 7]
            assert answers(scanned) == expected(name, events), name
            assert offsets is None or cut == offsets, f"{name}: {cut}, expected {offsets}"
            count += len(scanned)
        return count

    def alerts(self) -> set[tuple[str, int]]:
        values = (json.loads(value) for _, _, value in self.records(f"{self.topic}.alerts"))
        return {(v["campaign"], v["seen"]) for v in values}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that the process brings about; fails if it ends first."""
    while not condition():
        assert process.poll() is None, process.communicate()
        with_timeout(process)


def suffered(process: subprocess.Popen[str]) -> bool:
    """Has it been stopped or killed, by whomever?"""
    return os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def with_timeout(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(timeout=0.02)
    except subprocess.TimeoutExpired:
        return


def make_site(brokers: str, name: str, folder: Path) -> Site:
    log = KafkaLog(Connection(brokers))
    app = topology(f"{name}-clicks", name=name)
    create_topics(log, app)
    return Site(brokers, name, folder, log, app)
