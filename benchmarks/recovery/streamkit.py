"""StreamKit: to be filled in; see `Peer` in peer.py for what each member must do."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

from benchmarks.recovery.load import Expected
from benchmarks.recovery.peer import Job

MISSING = "the StreamKit side of this benchmark is not written yet: leave it out with --peers kafka-streams quix"


class StreamKit:
    """See `Peer`."""

    name = "streamkit"

    def __init__(self, job: Job) -> None:
        self.group, self.state_dir = job.group, job.directory / "state"
        self._job = job

    def prepare(self) -> None:
        raise NotImplementedError(MISSING)

    @property
    def version(self) -> str:
        return f"StreamKit {version('streamkit')}"

    def start(self, state_dir: Path) -> subprocess.Popen[bytes]:
        raise NotImplementedError(MISSING)

    def check(self, expected: Expected) -> None:
        raise NotImplementedError(MISSING)
