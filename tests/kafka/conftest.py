from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from streamkit.batch.spark.java import java_home
from streamkit.errors import RunnerFailed
from tests.kafka.site import Site, make_site

collect_ignore = ["life_app.py", "mapreduce_app.py", "scheduled_app.py", "spark_app.py", "spark_jobs_app.py"]
"""Topologies for the command line: they need names from the environment."""


@pytest.fixture(scope="session")
def spark_java() -> Path:
    """The Java that Spark runs on. Without one tests are skipped, and fail in CI."""
    try:
        return java_home()
    except RunnerFailed as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


@pytest.fixture
def site(brokers: str, unique: Callable[[str], str], tmp_path: Path) -> Site:
    return make_site(brokers, unique("life"), tmp_path)
