"""How the embedded broker is set up: one node, broker and controller in one, for a laptop and for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

HOST = "127.0.0.1"
"""Nothing but this machine gets in: there is no authentication."""

SINGLE_NODE: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    # A single node cannot hold the three copies that Kafka asks for by default: without these no group ever forms.
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # 50 partitions each by default, made when the first group or transaction comes: seconds on a laptop's disk.
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "8",
    "share.coordinator.state.topic.num.partitions": "8",
    # Groups form at once; a worker that dies is missed after 3 s instead of 45, and a partition is handed over between
    # two heartbeats.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "3000",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "500",
    # A dead worker's open transaction holds readers back until it is aborted: look for such every second, not every 10.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # After a kill -9 the controller lets the broker in again only when its old session has run out: 9 s by default.
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "4000",
    # A slip in a topic's name is an error, not an empty topic. How long records live is each topic's own setting.
    "auto.create.topics.enable": "false",
    # Small on disk and in memory: 256 MiB segments need at most 0.8 MB of index; the cleaner takes 128 MiB by default.
    "log.segment.bytes": str(256 << 20),
    "log.index.size.max.bytes": str(2 << 20),
    "log.cleaner.dedupe.buffer.size": str(16 << 20),
    "num.network.threads": "2",
    "num.io.threads": "4",
}
"""What every single-node broker of this project has in common: embedded, test container, docker/compose.yaml."""


def server_properties(*, port: int, controller_port: int, log_directory: Path) -> dict[str, str]:
    """All of the embedded broker's settings."""
    return {
        **SINGLE_NODE,
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "log.dirs": str(log_directory),
    }


def render(properties: Mapping[str, str]) -> str:
    r"""The text of a Java properties file; it is read as Latin-1, with backslash escapes.

    >>> print(render({"node.id": "1", "log.dirs": "/home/zoë/a\\b"}), end="")
    node.id=1
    log.dirs=/home/zo\u00eb/a\\b
    """
    return "".join(f"{key}={_escaped(value)}\n" for key, value in properties.items())


def _escaped(value: str) -> str:
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    pairs = (int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
    return "".join(chr(unit) if 32 <= unit < 127 else f"\\u{unit:04x}" for unit in pairs)


LOG4J2 = """<?xml version="1.0" encoding="UTF-8"?>
<!-- no shutdown hook: it would close the file before Kafka, which logs how it shuts down, is done -->
<Configuration status="WARN" shutdownHook="disable">
  <Appenders>
    <RollingFile name="file" fileName="${sys:streamkit.logs}/broker.log"
                 filePattern="${sys:streamkit.logs}/broker.log.%i">
      <PatternLayout pattern="%d{ISO8601} %-5p %m (%c{1})%n"/>
      <SizeBasedTriggeringPolicy size="10MB"/>
      <DefaultRolloverStrategy max="3"/>
    </RollingFile>
  </Appenders>
  <Loggers>
    <!-- 400 lines of settings at every start, which hide the one line that matters -->
    <Logger name="org.apache.kafka.common.config.AbstractConfig" level="WARN"/>
    <Root level="INFO"><AppenderRef ref="file"/></Root>
  </Loggers>
</Configuration>
"""
