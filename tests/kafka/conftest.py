from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kafka.site import Site, make_site

collect_ignore = ["life_app.py", "mapreduce_app.py", "scheduled_app.py", "spark_app.py", "spark_jobs_app.py"]
"""Topologies for the command line: they need names from the environment."""


@pytest.fixture
def site(brokers: str, unique: Callable[[str], str], tmp_path: Path) -> Site:
    return make_site(brokers, unique("life"), tmp_path)
