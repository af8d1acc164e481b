"""A broker for tests: the one in the environment, else one in a container, else the embedded one; one interface."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from streamkit.broker import KAFKA_VERSION, BrokerSettings, EmbeddedBroker, describe_cluster
from streamkit.broker.properties import SINGLE_NODE
from streamkit.errors import BrokerError

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0


@contextmanager
def a_broker() -> Iterator[str]:
    """The address of a Kafka broker, which is stopped at the end unless it was there before.

    1. `STREAMKIT_BROKERS`, where it is set; 2. the official image by testcontainers, where a Docker engine answers;
    3. the embedded broker, on a free port, its data in a temporary directory.
    Raises BrokerError where none can be had.
    """
    if given := os.environ.get("STREAMKIT_BROKERS"):
        yield given
        return
    with ExitStack() as stack:
        if not docker_answers():
            yield stack.enter_context(embedded())
            return
        try:
            address = stack.enter_context(container())
        except Exception as error:  # an engine without the image and without a network is as good as none
            logger.info("no broker by Docker, the embedded one instead: %s", error)
            address = stack.enter_context(embedded())
        yield address


@contextmanager
def embedded() -> Iterator[str]:
    """An embedded broker that leaves nothing behind."""
    with TemporaryDirectory(prefix="streamkit-broker-", ignore_cleanup_errors=True) as directory:
        broker = EmbeddedBroker(BrokerSettings(Path(directory), port=0, heap="512m"))
        try:
            yield broker.start(on_progress=logger.info)
        finally:
            broker.stop()


@contextmanager
def container() -> Iterator[str]:
    """Kafka's official image, set up as the embedded broker is."""
    from testcontainers.core.container import DockerContainer

    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    kafka = DockerContainer(f"apache/kafka:{KAFKA_VERSION}").with_bind_ports(port, port)
    host = kafka.get_container_host_ip()
    for name, value in container_environment(host, port).items():
        kafka = kafka.with_env(name, value)
    with kafka:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not ((cluster := describe_cluster(host, port)) and cluster.brokers):
            if time.monotonic() > deadline:
                raise BrokerError(f"the container does not answer on {host}:{port} after {PATIENCE_SECONDS:g} s")
            time.sleep(0.1)
        yield f"{host}:{port}"


def container_environment(host: str, port: int) -> dict[str, str]:
    """The image's environment variables (KIP-975): clients come by `host:port`, the node itself by INTERNAL.

    The node is a client of its own, for transaction markers and share groups, and may not reach itself from outside.

    >>> environment = container_environment("localhost", 4711)
    >>> environment["KAFKA_ADVERTISED_LISTENERS"], environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"]
    ('PLAINTEXT://localhost:4711,INTERNAL://localhost:29092', 'false')
    """
    properties = {
        **SINGLE_NODE,
        "listeners": f"PLAINTEXT://:{port},INTERNAL://localhost:29092,CONTROLLER://localhost:29093",
        "advertised.listeners": f"PLAINTEXT://{host}:{port},INTERNAL://localhost:29092",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "INTERNAL",
        "controller.quorum.voters": "1@localhost:29093",
    }
    return {"KAFKA_" + key.upper().replace(".", "_"): value for key, value in properties.items()}


def docker_answers(*, timeout_seconds: float = 1.0) -> bool:
    """Whether a Docker engine answers a ping, at DOCKER_HOST or the usual socket; never waits longer than it is told.

    Asked on a plain socket: Docker's own client retries, and leaves sockets open where nobody answers. An engine behind
    ssh or TLS counts as none.
    """
    kind, _, where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").partition("://")
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    if kind not in ("unix", "tcp") or os.environ.get("DOCKER_TLS_VERIFY"):
        return False
    try:
        host, _, port = where.rpartition(":")
        with socket.socket(family) as engine:
            engine.settimeout(timeout_seconds)
            engine.connect(where if kind == "unix" else (host, int(port)))
            engine.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in engine.recv(64)
    except (OSError, ValueError):
        return False
