"""Spark's Kafka connector: its coordinate, and client settings in the names of Kafka's Java client, by which it reads.

librdkafka and the Java client agree on most names, and differ where it hurts: files of certificates, and how a user and
a password are told.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from streamkit.errors import RunnerFailed
from streamkit.settings import Connection

_SAME = {
    "client.id", "client.rack", "client.dns.lookup", "metadata.max.age.ms", "reconnect.backoff.ms", "retry.backoff.ms",
    "reconnect.backoff.max.ms", "connections.max.idle.ms", "security.protocol", "sasl.kerberos.service.name",
    "ssl.keystore.location", "ssl.keystore.password", "ssl.key.password", "ssl.cipher.suites", "fetch.max.bytes",
    "fetch.min.bytes", "max.partition.fetch.bytes",
}  # fmt: skip
_RENAMED = {
    "sasl.mechanisms": "sasl.mechanism",
    "sasl.mechanism": "sasl.mechanism",
    "ssl.ca.pem": "ssl.truststore.certificates",
    "ssl.certificate.pem": "ssl.keystore.certificate.chain",
    "ssl.key.pem": "ssl.keystore.key",
    "fetch.wait.max.ms": "fetch.max.wait.ms",
    "fetch.message.max.bytes": "max.partition.fetch.bytes",
    "socket.timeout.ms": "request.timeout.ms",
}
_FILES = {  # Java wants the texts themselves
    "ssl.ca.location": "ssl.truststore.certificates",
    "ssl.certificate.location": "ssl.keystore.certificate.chain",
    "ssl.key.location": "ssl.keystore.key",
}
_LOGIN = {"sasl.username", "sasl.password"}
_IDLE = (
    "queue", "queued.", "debug", "log", "statistics.", "socket.", "broker.address.", "broker.version.", "api.version.",
    "topic.metadata.", "topic.blacklist", "linger.ms", "batch.", "compression.", "message.", "acks", "retries",
    "enable.idempotence", "transaction", "partitioner", "sticky.", "delivery.", "request.", "group.", "session.",
    "heartbeat.", "max.poll.", "auto.offset.", "enable.auto.", "auto.commit.", "isolation.level", "check.crcs",
    "fetch.queue", "fetch.error", "internal.termination", "allow.auto.", "builtin.features", "max.in.flight",
)  # fmt: skip
"""How settings begin that tune librdkafka, a producer or a group, and change nothing of which records are read."""

_MODULES = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}


def connector_of(spark_version: str) -> str:
    """The Kafka connector's Maven coordinate; of Spark's own version, and of the Scala that Spark is built with.

    >>> connector_of("4.2.0")
    'org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0'
    """
    scala = "2.12" if spark_version.startswith("3.") else "2.13"
    return f"org.apache.spark:spark-sql-kafka-0-10_{scala}:{spark_version}"


def java_settings(connection: Connection) -> dict[str, str]:
    """The Java client's settings for a Connection. Raises RunnerFailed for what has no counterpart there.

    >>> login = {"sasl.mechanisms": "PLAIN", "sasl.username": "u", "sasl.password": "p"}
    >>> settings = java_settings(Connection("kafka:9092", {"security.protocol": "sasl_ssl", **login}))
    >>> settings["security.protocol"], settings["sasl.mechanism"], settings["sasl.jaas.config"].split()[-2:]
    ('SASL_SSL', 'PLAIN', ['username="u"', 'password="p";'])
    """
    java = {"bootstrap.servers": connection.brokers}
    for name, value in connection.client.items():
        if name in _SAME:
            java[name] = value
        elif name in _RENAMED:
            java[_RENAMED[name]] = value
        elif name in _FILES:
            java[_FILES[name]] = _text(name, Path(value))
        elif name == "ssl.endpoint.identification.algorithm":
            java[name] = "" if value == "none" else value
        elif name == "enable.ssl.certificate.verification" and value == "true":
            pass
        elif name not in _LOGIN and not name.startswith(_IDLE):
            raise RunnerFailed(
                f"client setting {name!r} has no counterpart that is known here in Kafka's Java client, by which Spark "
                f"reads. Leave it out of the client settings of this run, and give Java's own by "
                f"--spark-conf kafka.NAME=VALUE"
            )
    return {**_stores(java), **_login(connection.client, java)}


def portable(connection: Connection) -> Connection:
    """The Connection for other machines: files of certificates as the texts themselves. Raises RunnerFailed."""
    client = dict(connection.client)
    for name in _FILES:
        if name in client and Path(client[name]).is_file():
            path = Path(client.pop(name))
            client[name.replace(".location", ".pem")] = _text(name, path)
    return Connection(connection.brokers, client)


def _stores(java: dict[str, str]) -> dict[str, str]:
    if "security.protocol" in java:
        java["security.protocol"] = java["security.protocol"].upper()
    if "ssl.truststore.certificates" in java:
        java["ssl.truststore.type"] = "PEM"
    if "ssl.keystore.key" in java:
        java["ssl.keystore.type"] = "PEM"
    elif "ssl.keystore.location" in java:
        java["ssl.keystore.type"] = "PKCS12"
    return java


def _login(client: Mapping[str, str], java: Mapping[str, str]) -> dict[str, str]:
    if "sasl.username" not in client:
        return {}
    mechanism = java.get("sasl.mechanism", "").upper()
    if mechanism not in _MODULES:
        raise RunnerFailed(
            f"client setting 'sasl.mechanism' is {mechanism or 'missing'!r}; with a user name Spark's Kafka client can "
            f"be told {', '.join(_MODULES)}. For others give --spark-conf kafka.sasl.jaas.config=..."
        )
    user, password = (_quoted(client.get(name, "")) for name in ("sasl.username", "sasl.password"))
    return {"sasl.jaas.config": f"{_MODULES[mechanism]} required username={user} password={password};"}


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise RunnerFailed(f"client setting {name!r}: {path} cannot be read as a PEM file: {error}") from None
