"""Fixtures of the unit tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.unit.agents_bench import Bench
from tests.unit.promises import App


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for host in bench.hosts:
        host.stop()
    assert not any(t.name == "streamkit-agents" for t in threading.enumerate())


@pytest.fixture
def a() -> App:
    return App()
