"""How the parts of the log reach a Kafka cluster: clients, requests that are asked again, errors in our words."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from streamkit.errors import BrokerUnreachable, DeliveryFailed, LogError
from streamkit.log import client
from streamkit.settings import Connection

logger = logging.getLogger(__name__)
T = TypeVar("T")

REQUEST_SECONDS = 8.0
"""How long a broker may take to answer before it counts as unreachable."""


class _ClientLog:
    """librdkafka's own lines, to `logging` at DEBUG: 20 a second while a broker restarts. What matters is raised."""

    def log(self, level: int, message: str, *args: object) -> None:
        del level
        logger.debug(message, *args)


class Cluster:
    """The cluster at `connection`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.admin: AdminClient = self.client(AdminClient, {}, {})

    def client(self, kind: Callable[..., T], defaults: Mapping[str, Any], required: Mapping[str, Any]) -> T:
        """A librdkafka client with these `settings`."""
        try:
            return kind(self.settings(defaults, required), logger=_ClientLog())
        except KafkaException as failure:
            reason = failure.args[0].str()
            raise LogError(f"Kafka client settings: {reason}; see librdkafka's CONFIGURATION.md") from failure

    def settings(self, defaults: Mapping[str, Any], required: Mapping[str, Any]) -> dict[str, Any]:
        """Our defaults, over them the user's settings, over them what correctness rests on."""
        return {**defaults, **self.connection.client, **required, "bootstrap.servers": self.connection.brokers}

    def ask(self, about: str, request: Callable[[], T]) -> T:
        """Ask again while leadership moves, as it does for some milliseconds after a topic was made."""
        deadline = time.monotonic() + REQUEST_SECONDS
        while True:
            admin = self.admin
            try:
                return request()
            except KafkaException as failure:
                if failure.args[0].name() in client.UNREACHABLE:
                    self._renew(admin)
                if failure.args[0].name() not in client.MOVING or time.monotonic() > deadline:
                    raise self.error(failure, about) from failure
                time.sleep(0.02)
            finally:
                # Hands librdkafka's log lines on; they pile up in its queue otherwise.
                self.admin.poll(0)

    def _renew(self, failed: AdminClient) -> None:
        """Another client for the requests to come.

        One that has asked while a broker restarted may wait for its controller for ever ("Failed while waiting for
        controller", seen with librdkafka 2.16 for as long as anybody looked), though the broker is back.
        """
        if self.admin is failed:  # otherwise another thread has done so
            self.admin = self.client(AdminClient, {}, {})

    def reach(self, about: str) -> None:
        """Raises BrokerUnreachable at once, so that nothing is begun with nobody."""
        self.ask(about, lambda: self.admin.cluster_id(timeout=REQUEST_SECONDS))

    def delivery_failed(self, topic: str, error: KafkaError) -> LogError:
        about = f"a record for topic {topic} was not taken by {self.connection.brokers}: {error.str()} ({error.name()})"
        return (BrokerUnreachable if error.name() == client.TIMED_OUT else DeliveryFailed)(about)

    def error(self, failure: KafkaException | KafkaError, about: str) -> LogError:
        error: KafkaError = failure.args[0] if isinstance(failure, KafkaException) else failure
        return client.log_error(error.name(), error.str(), about, self.connection.brokers)
