"""Fixtures of all tests: a broker where one can be had, and names that no other test has."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from streamkit.errors import BrokerError
from streamkit.testing.broker import a_broker

KAFKA_TESTS = Path(__file__).parent / "kafka"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What lies in tests/kafka is marked `kafka`, so that `-m 'not kafka'` is what runs without a broker."""
    for item in items:
        if item.path.is_relative_to(KAFKA_TESTS):
            item.add_marker("kafka")


@pytest.fixture(scope="session")
def brokers() -> Iterator[str]:
    """The address of a real broker, one for the whole session: name topics with `unique`."""
    with ExitStack() as stack:
        try:
            address = stack.enter_context(a_broker())
        except BrokerError as error:
            if os.environ.get("CI"):  # a skip nobody sees would let everything that needs Kafka rot
                raise
            pytest.skip(f"no Kafka broker: {error}")
        yield address


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes names of topics and groups that were never used before."""
    return lambda name: f"{name}-{uuid.uuid4().hex}"
