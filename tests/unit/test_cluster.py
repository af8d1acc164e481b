"""What a cluster is asked again for, and what is an error at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError, KafkaException

from streamkit.errors import BrokerUnreachable, LogError
from streamkit.log.kafka.cluster import Cluster
from streamkit.settings import Connection
from streamkit.testing.contracts import expect


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(Connection("localhost:1"))


def failing(*codes: int) -> Callable[[], str]:
    """A request that fails by these errors, one after the other, and then is answered."""
    left = list(codes)

    def request() -> str:
        if left:
            raise KafkaException(KafkaError(left.pop(0)))
        return "answer"

    return request


def test_it_asks_again_where_the_client_has_given_up_the_broker_that_was_asked(cluster: Cluster) -> None:
    # While it waited for the answer; seen after a restart of the only broker.
    assert cluster.ask("topic", failing(KafkaError._DESTROY_BROKER, KafkaError.NOT_CONTROLLER)) == "answer"


def test_what_does_not_pass_is_told_at_once(cluster: Cluster) -> None:
    request = failing(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with expect(LogError, "topic clicks", "TOPIC_AUTHORIZATION_FAILED"):
        cluster.ask("topic clicks", request)
    assert request() == "answer", "it was asked once"


def test_another_client_asks_next_where_no_broker_answers(cluster: Cluster) -> None:
    before = cluster.admin
    with expect(BrokerUnreachable, "topic clicks", "localhost:1"):
        cluster.ask("topic clicks", failing(KafkaError._TRANSPORT))
    assert cluster.admin is not before
