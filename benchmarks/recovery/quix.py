"""Quix Streams: quix_count.py, run in a virtual environment that has the newest Quix Streams from PyPI.

Quix Streams' defaults, but for: exactly-once; a commit a second; what `Job.member` says; a transactional id that stays
the same. By default it has a new one at each start, and what a killed worker had open ends only by its timeout.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.process import launch
from benchmarks.recovery.load import Expected
from benchmarks.recovery.peer import COMMIT_SECONDS, TRANSACTION_TIMEOUT_MS, Job, RecoveryError
from benchmarks.recovery.totals import Changelog, Integers
from benchmarks.setup import python_with, versions_in

SOURCE = Path(__file__).parent / "quix_count.py"


class Quix:
    """See `Peer`."""

    name = "quix"

    def __init__(self, job: Job) -> None:
        self.group, self.state_dir = job.group, job.directory / "state"
        self._job = job
        self._python: Path
        changelog = f"changelog__{self.group}--{job.topic}--default"
        self._changelog = Changelog(job.brokers, changelog, job.keys, decode)

    def prepare(self) -> None:
        self._python = python_with("quix", "quixstreams", upgrade=True)

    @property
    def version(self) -> str:
        quix, python = versions_in(self._python, "quixstreams")
        return f"Quix Streams {quix}, Python {python}"

    def start(self, state_dir: Path) -> subprocess.Popen[bytes]:
        application = {
            "broker_address": self._job.brokers,
            "consumer_group": self.group,
            "auto_offset_reset": "earliest",
            "commit_interval": COMMIT_SECONDS,
            "state_dir": str(state_dir),
            "processing_guarantee": "exactly-once",
            "consumer_extra_config": self._job.member,
            "producer_extra_config": {
                "transactional.id": self.group,
                "transaction.timeout.ms": str(TRANSACTION_TIMEOUT_MS),
            },
        }
        told = json.dumps({"topic": self._job.topic, "application": application})
        # -P: beside the source lies a module named as another package is.
        return launch([self._python, "-P", SOURCE, told], self._job.directory)

    def check(self, expected: Expected) -> None:
        if wrong := self._changelog.wrong(expected):
            raise RecoveryError(f"{self.name}: {wrong}")


def decode(values: Sequence[bytes]) -> Integers:
    """Totals as quix_count.py writes them.

    >>> decode([b"[1,256]", b"[2,512]"])
    array([[  1, 256],
           [  2, 512]])
    """
    return np.array(msgspec.json.decode(b"[%b]" % b",".join(values)), np.int64).reshape(-1, 2)
