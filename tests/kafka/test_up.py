"""`streamkit up`, from an empty folder: it answers, whatever of it is killed, and leaves nothing running."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest

from streamkit.log.kafka import KafkaLog
from streamkit.settings import Connection
from tests.kafka.site import ROOT, Site, wait_for
from tests.life.app import Click

APP = Path(__file__).with_name("scheduled_app.py")
PARTS = ("serve", "scheduler", "worker", "broker")


class Up:
    """`streamkit up` of the scheduled topology in a folder of its own, with a broker of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.lines: list[str] = []
        self._folder = folder
        self.url = f"http://127.0.0.1:{port}"
        hidden = ("STREAMKIT_BROKERS", "STREAMKIT_CLIENT_CONFIG")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        names = {"LIFE_NAME": "up", "LIFE_TOPIC": "clicks", "STREAMKIT_DATA": str(folder), "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streamkit", "up", str(APP), "--port", str(port), "--broker-port", "0"],
            env=environment | names,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.reading = threading.Thread(target=self._read, daemon=True)
        self.reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def said(self) -> str:
        return "".join(list(self.lines))

    @property
    def brokers(self) -> str:
        found = re.search(r"export STREAMKIT_BROKERS=(\S+)", self.said())
        assert found, self.said()
        return found[1]

    def java(self) -> list[psutil.Process]:
        """Kafka itself, if it runs; the child of nobody where the process that looks after it was killed."""
        try:
            return [psutil.Process(json.loads((self._folder / "broker" / "broker.json").read_text())["pid"])]
        except (OSError, ValueError, psutil.NoSuchProcess):
            return []

    def family(self) -> list[psutil.Process]:
        return [*psutil.Process(self.process.pid).children(recursive=True), *self.java()]

    def part(self, name: str) -> psutil.Process | None:
        for process in psutil.Process(self.process.pid).children():
            try:
                if process.cmdline()[3:4] == [name]:
                    return process
            except psutil.Error:
                continue
        return None

    def counted(self) -> int:
        """The clicks in the Answers over HTTP; -1 where there is none."""
        try:
            found = httpx.get(f"{self.url}/views/total/answers", timeout=20)
        except httpx.HTTPError:
            return -1
        return sum(a["value"]["clicks"] for a in found.json()["answers"]) if found.status_code == 200 else -1

    def wait(self, condition: Callable[[], bool]) -> None:
        try:
            wait_for(condition, self.process)
        except AssertionError as ended:
            raise AssertionError(self.said()) from ended

    def send(self, count: int) -> None:
        log = KafkaLog(Connection(self.brokers))
        with closing(log.writer()) as writer:
            for number in range(count):
                click = Click(f"c{number % 5}", f"u{number % 7}", 1, number)
                writer.send("clicks", msgspec.json.encode(click), key=click.user.encode())
            writer.flush()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(folder: Path, port: int) -> Iterator[Up]:
    up = Up(folder, port)
    family: list[psutil.Process] = []
    try:
        up.wait(lambda: "is served at" in up.said())
        family = up.family()
        yield up
    finally:
        if up.process.poll() is None:
            family = up.family()
            up.process.kill()
        up.process.wait()
        _, left = psutil.wait_procs(family, timeout=60)
        for process in left:
            process.kill()
        up.reading.join(10)
        assert up.process.stdout is not None
        up.process.stdout.close()
        assert not left, f"{left} go on after `up` is gone:\n{up.said()}"


@pytest.mark.timeout(600)
def test_all_of_a_topology_by_one_command(tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path, port) as up:
        up.send(100)
        up.wait(lambda: up.counted() == 100)
        for name in PARTS:
            victim = up.part(name)
            assert victim is not None, name
            victim.kill()
            up.wait(lambda name=name, victim=victim: up.part(name) not in (None, victim))  # type: ignore[misc]
        (java,) = up.java()
        java.kill()
        up.wait(lambda: up.said().count("[broker] Apache Kafka 4") == 2)
        up.send(10)
        up.wait(lambda: up.counted() == 110)
        up.wait(lambda: "BatchView" in up.said())
        family = up.family()
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(120) == 0, up.said()
        assert not psutil.wait_procs(family, timeout=10)[1]
        up.reading.join(10)
        said = up.said()
        ends = [said.rindex(end) for end in ("[server] stopped", "[scheduler] stopped", "; left", "[broker] stopped")]
        assert ends == sorted(ends), said
    with running(tmp_path, port) as again:
        again.wait(lambda: again.counted() == 110)
        # It is killed by -9 at the end of this block, and nobody is left.


def test_a_part_that_fails_for_good_stops_all_with_the_reason_last(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = site.run("up", str(APP), "--workers", "1", "--port", str(port), status=1)
    last = said.strip().splitlines()[-1]
    assert last.startswith("all were stopped: server left with status 1")
    assert f"cannot listen at 127.0.0.1:{port}" in last
