"""The data folder: where a topology's state and BatchViews lie on disk."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

DEFAULT_FOLDER = ".streamkit"


@dataclass(frozen=True)
class DataFolder:
    """One topology's part of the data folder.

    >>> DataFolder("ads", Path("/data")).state
    PosixPath('/data/ads/state')
    """

    topology: str
    root: Path

    @classmethod
    def of(cls, topology: str, root: Path | str | None = None) -> DataFolder:
        """`root`, or STREAMKIT_DATA, or .streamkit in this directory."""
        return cls(topology, Path(root or os.environ.get("STREAMKIT_DATA") or DEFAULT_FOLDER))

    @property
    def state(self) -> Path:
        """The worker's RocksDB."""
        return self.root / self.topology / "state"

    @property
    def batch(self) -> Path:
        """A folder for each View, with its BatchViews."""
        return self.root / self.topology / "batch"

    @property
    def worker(self) -> Path:
        """A note of the worker that runs here, or ran last; locked while it runs."""
        return self.root / self.topology / "worker.json"

    def worker_runs(self) -> bool:
        """True while a worker holds the state."""
        try:
            with self.worker.open() as note:
                fcntl.flock(note, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False
