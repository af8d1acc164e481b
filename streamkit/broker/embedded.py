"""The embedded broker: one Apache Kafka whose whole life is in one directory.

    DATA/kafka/             the log itself: topics, and meta.properties with the cluster's id
    DATA/server.properties  written at every start; also where the ports are remembered
    DATA/broker.json        the process that runs, if one does
    DATA/logs/              broker.log by Kafka, jvm.log by the JVM
    DATA/lock               held while somebody starts or stops it

Delete the directory and nothing is left of it but the downloaded jars, which all brokers share.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from streamkit.broker import process
from streamkit.broker.jars import KAFKA_VERSION, classpath, held
from streamkit.broker.java import Java, find_java
from streamkit.broker.probe import describe_cluster
from streamkit.broker.properties import HOST, LOG4J2, render, server_properties
from streamkit.errors import BrokerError

Stopped = Literal["stopped", "killed", "not running"]
"""How `stop` went: `killed` means that SIGTERM was not enough; the next start then recovers the log."""

UNPRIVILEGED = range(20_000, 32_000)
"""Free ports are picked here: below the range from which systems give ports to outgoing connections, so that no
connection sits on the broker's port when it comes back."""


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Where and how the broker runs. A port of 0 is a free one, chosen at the first start and kept from then on."""

    data: Path
    port: int = 9092
    controller_port: int = 0
    heap: str = "1g"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[1-9]\d*[kmgKMG]", self.heap):
            raise BrokerError(f"heap {self.heap!r}: expected a number and k, m or g, for example 1g or 512m")
        if "," in str(self.data):
            raise BrokerError(f"data directory {self.data}: Kafka allows no comma in it; choose another with --data")


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """What is known of a broker; the fields after `data` are None unless it runs."""

    running: bool
    data: Path
    pid: int | None = None
    address: str | None = None
    version: str | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Running:
    """The contents of broker.json; `started` tells the process from a later one of the same pid."""

    pid: int
    started: str
    port: int
    version: str
    since: float


class EmbeddedBroker:
    """Starts, finds again and stops the broker of one data directory.

    The process outlives this object and the program that made it; any number of objects, in any program, may look at
    the same directory.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self.settings = settings
        self.data = settings.data.absolute()
        self.log_file = self.data / "logs" / "broker.log"
        self._jvm_log = self.data / "logs" / "jvm.log"
        self._properties = self.data / "server.properties"
        self._state = self.data / "broker.json"
        self._kafka = self.data / "kafka"

    def start(self, *, on_progress: Callable[[str], None] | None = None, timeout_seconds: float = 60.0) -> str:
        """Start the broker unless it runs already; returns its address once it answers and topics can be made.

        `timeout_seconds` is for the broker alone; a first start also downloads it, with lines of progress.
        Raises BrokerError: no Java, no jars, a port that is taken, or a broker that ends or does not answer in time;
        then with its last log lines.
        """
        say = on_progress or (lambda _line: None)
        with held(self.data / "lock"):
            if running := self._running():
                return f"{HOST}:{running.port}"
            java, jars = find_java(), classpath(say)
            port, controller_port = self._ports()
            self._write_configuration(port, controller_port)
            cluster = self._cluster_id() or self._format(java, jars, say)
            say(f"starting Apache Kafka {KAFKA_VERSION} on {HOST}:{port}")
            self._launch(java, jars, port, cluster, timeout_seconds)
            return f"{HOST}:{port}"

    def stop(self, *, timeout_seconds: float = 30.0) -> Stopped:
        """End the broker: SIGTERM, and SIGKILL after `timeout_seconds`. Its data stay."""
        if not self._state.exists():
            return "not running"
        with held(self.data / "lock"):
            running = self._running()
            outcome: Stopped = "not running"
            if running is not None:
                try:
                    clean = process.end(running.pid, running.started, timeout_seconds=timeout_seconds)
                except PermissionError as error:
                    raise BrokerError(f"the broker (pid {running.pid}) is another user's: stop it as them") from error
                outcome = "stopped" if clean else "killed"
            self._state.unlink(missing_ok=True)
            return outcome

    def status(self) -> BrokerStatus:
        """Whether it runs, and where."""
        running = self._running()
        if running is None:
            return BrokerStatus(False, self.data)
        since = datetime.fromtimestamp(running.since, UTC)
        return BrokerStatus(True, self.data, running.pid, f"{HOST}:{running.port}", running.version, since)

    def logs(self, lines: int = 50) -> str:
        """The last lines of Kafka's log, after what the JVM itself had to say, which is nothing as a rule."""
        return "\n".join(_tail(self._jvm_log, lines) + _tail(self.log_file, lines))

    def remembered_port(self) -> int | None:
        """The port it had when it last ran, None where it never did."""
        ports = self._remembered()
        return ports[0] if ports else None

    def _running(self) -> _Running | None:
        try:
            running = _Running(**json.loads(self._state.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return running if process.start_time(running.pid) == running.started else None

    def _remembered(self) -> tuple[int, int] | None:
        try:
            text = self._properties.read_text()
        except OSError:
            return None
        match = re.search(r"^listeners=PLAINTEXT://[^:]*:(\d+),CONTROLLER://[^:]*:(\d+)$", text, re.MULTILINE)
        return (int(match[1]), int(match[2])) if match else None

    def _ports(self) -> tuple[int, int]:
        """Port and controller port; raises BrokerError where somebody else has the one clients are to use."""
        last_port, last_controller = self._remembered() or (0, 0)
        port = self.settings.port or last_port or _free_port()
        if not _is_free(port):
            raise BrokerError(_port_taken(port))
        controller = self.settings.controller_port
        if controller and not _is_free(controller):
            raise BrokerError(f"controller port {controller} on {HOST} is taken; 0 chooses a free one")
        # Nobody but the broker itself uses the controller's port, so where the last one is gone another does as well.
        return port, controller or (last_controller if last_controller and _is_free(last_controller) else _free_port())

    def _write_configuration(self, port: int, controller_port: int) -> None:
        shutil.rmtree(self.data / "tmp", ignore_errors=True)  # native libraries that a killed JVM left unpacked
        for directory in (self._kafka, self.log_file.parent, self.data / "tmp"):
            directory.mkdir(parents=True, exist_ok=True)
        settings = server_properties(port=port, controller_port=controller_port, log_directory=self._kafka)
        self._properties.write_text(render(settings))
        (self.data / "log4j2.xml").write_text(LOG4J2)
        if self.log_file.exists():  # so that what broker.log says is always of the last start
            self.log_file.replace(self.log_file.with_suffix(".log.previous"))

    def _cluster_id(self) -> str | None:
        """The cluster's id, None where the directory is not formatted yet."""
        try:
            text = (self._kafka / "meta.properties").read_text()
        except OSError:
            return None
        match = re.search(r"^cluster\.id=(.+)$", text, re.MULTILINE)
        return match[1].strip() if match else None

    def _format(self, java: Java, jars: Sequence[Path], say: Callable[[str], None]) -> str:
        say(f"making a new cluster in {self.data}")
        cluster = _new_cluster_id()
        fast = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        tool = ["kafka.tools.StorageTool", "format", "--cluster-id", cluster, "--config", str(self._properties)]
        command = [*self._jvm(java, jars), *fast, *tool]
        told = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if told.returncode:
            raise BrokerError(f"{self._kafka} could not be formatted:\n{_readable(told.stdout.splitlines())}")
        return cluster

    def _jvm(self, java: Java, jars: Sequence[Path]) -> list[str]:
        return [
            str(java.executable),
            *java.flags(),
            "-Djava.awt.headless=true",
            f"-Djava.io.tmpdir={self.data / 'tmp'}",
            f"-Dstreamkit.logs={self.log_file.parent}",
            f"-Dlog4j2.configurationFile={self.data / 'log4j2.xml'}",
            f"-XX:ErrorFile={self.data / 'logs' / 'crash.log'}",
            "-cp",
            os.pathsep.join(map(str, jars)),
        ]

    def _launch(self, java: Java, jars: Sequence[Path], port: int, cluster: str, timeout_seconds: float) -> None:
        memory = [f"-Xmx{self.settings.heap}", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:+ExitOnOutOfMemoryError"]
        command = [*self._jvm(java, jars), *memory, "kafka.Kafka", str(self._properties)]
        pid = process.spawn(command, self._jvm_log)
        started = process.start_time(pid)
        try:
            if started is not None:
                running = _Running(pid, started, port, KAFKA_VERSION, time.time())
                self._state.write_text(json.dumps(asdict(running), indent=1))
            self._await_answer(pid, port, cluster, timeout_seconds)
        except BaseException:  # also a Ctrl-C: who gives up waiting does not want a broker left behind
            if started is not None and process.start_time(pid) == started:
                process.end(pid, started, timeout_seconds=5.0)
            self._state.unlink(missing_ok=True)
            raise

    def _await_answer(self, pid: int, port: int, cluster: str, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while True:
            code = process.exit_code(pid)
            if code is not None:
                raise BrokerError(
                    f"the broker ended with code {code} while starting; its last words:\n{self._last_words()}"
                )
            answer = describe_cluster(HOST, port)
            if answer is not None and answer.id != cluster:  # somebody took the port since we looked
                raise BrokerError(_port_taken(port))
            if answer is not None and answer.brokers:
                return
            if time.monotonic() > deadline:
                waited = f"the broker does not answer on {HOST}:{port} after {timeout_seconds:g} s and was stopped"
                raise BrokerError(f"{waited}; its last words:\n{self._last_words()}")
            time.sleep(process.POLL_SECONDS)

    def _last_words(self) -> str:
        words = _readable(_tail(self._jvm_log, 400) + _tail(self.log_file, 400))
        return f"{words}\n(all of it in {self.log_file.parent})"


def _readable(lines: Sequence[str], most: int = 20) -> str:
    r"""The last lines without stack frames, which would push the line that names the cause out of sight.

    >>> print(_readable(["ERROR no space left", "\tat java.nio.Files.write(Files.java)", "\t... 18 more"]))
    ERROR no space left
    """
    return "\n".join([line for line in lines if not re.match(r"\s+(at |\.\.\. )", line)][-most:])


def _tail(path: Path, lines: int) -> list[str]:
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - lines * 1_000))
            return file.read().decode(errors="replace").splitlines()[-lines:] if lines > 0 else []
    except FileNotFoundError:
        return []


def _new_cluster_id() -> str:
    """16 random bytes in base64url; Kafka too draws again where the first character looks like an option's."""
    while (drawn := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return drawn


def _free_port() -> int:
    for port in random.sample(UNPRIVILEGED, 200):
        if _is_free(port):
            return port
    tried = f"{UNPRIVILEGED.start} to {UNPRIVILEGED.stop}"
    raise BrokerError(f"no free port found on {HOST} from {tried}; name one with --port")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Kafka does: TIME_WAIT does not count
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _port_taken(port: int) -> str:
    if describe_cluster(HOST, port):
        who = f"another Kafka broker, which you may use with --brokers {HOST}:{port}"
    else:
        who = "another program"
    return f"port {port} on {HOST} is taken by {who}; stop it, or choose another port, for example --port {port + 100}"
