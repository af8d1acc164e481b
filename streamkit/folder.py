"""The data folder: where a topology's state and BatchViews lie on disk."""

from __future__ import annotations

import datetime as dt
import fcntl
import itertools
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from streamkit.errors import StateError

DEFAULT_FOLDER = ".streamkit"
_PATIENCE = 0.05


@dataclass(frozen=True)
class Slot:
    """One worker's part of the data folder."""

    path: Path

    @property
    def state(self) -> Path:
        """The worker's RocksDB: its copies of tasks."""
        return self.path / "state"

    @property
    def note(self) -> Path:
        """Who runs here, or ran last; locked while it runs."""
        return self.path / "worker.json"

    @property
    def name(self) -> str:
        """Tells this worker from every other; stays the same when it starts again, so that Kafka can tell, too."""
        file = self.path / "name"
        if not file.exists():
            new = file.with_suffix(".new")  # a disk that is full leaves an empty file, and no two may have one name
            new.write_text(f"{socket.gethostname()}-{self.path.name}-{uuid.uuid4().hex[:8]}")
            new.replace(file)
        return file.read_text().strip()

    def runs(self) -> bool:
        """True while a worker works here."""
        try:
            with self.note.open() as note:
                fcntl.flock(note, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


@dataclass(frozen=True)
class DataFolder:
    """One topology's part of the data folder.

    >>> DataFolder("ads", Path("/data")).batch
    PosixPath('/data/ads/batch')
    """

    topology: str
    root: Path

    @classmethod
    def of(cls, topology: str, root: Path | str | None = None) -> DataFolder:
        """`root`, or STREAMKIT_DATA, or .streamkit in this directory."""
        return cls(topology, Path(root or os.environ.get("STREAMKIT_DATA") or DEFAULT_FOLDER))

    @property
    def path(self) -> Path:
        return self.root / self.topology

    @property
    def batch(self) -> Path:
        """A folder for each View, with its BatchViews."""
        return self.path / "batch"

    @property
    def archive(self) -> str:
        """Where topics are archived, unless it is said: STREAMKIT_ARCHIVE, or a folder."""
        return os.environ.get("STREAMKIT_ARCHIVE") or str(self.path / "archive")

    @property
    def replica(self) -> Path:
        """A reader's own copy of all tasks, where it follows the changelogs."""
        return self.path / "replica"

    def slot(self, number: int) -> Slot:
        return Slot(self.path / "workers" / str(number))

    @property
    def mapreduce(self) -> Path:
        """Below it a folder a MapReduce job: its run, and its results."""
        return self.path / "mapreduce"

    def slots(self) -> list[Slot]:
        """Those in which a worker has ever run."""
        return [Slot(path) for path in sorted((self.path / "workers").glob("*")) if path.is_dir()]

    def stores(self) -> list[Path]:
        """The stores that there are, which hold copies of tasks."""
        found = [*(slot.state for slot in self.slots()), self.replica]
        return [path for path in found if (path / "CURRENT").is_file()]

    def worker_runs(self) -> bool:
        """True while a worker works in this folder."""
        return any(slot.runs() for slot in self.slots())

    @contextmanager
    def claim(self, source: str, *, adopt: bool = False) -> Iterator[Slot]:
        """A Slot that nobody works in, for as long as the context lasts; `source` says which topology works there.

        Raises StateError where another topology of this name wrote the state, unless it is to be adopted.
        """
        for number in itertools.count():
            slot = self.slot(number)
            slot.path.mkdir(parents=True, exist_ok=True)
            with slot.note.open("a+") as file:
                if not _locked(file):
                    continue
                _write_note(file, self, slot, source, adopt=adopt)
                yield slot
                return


def _locked(file: IO[str]) -> bool:
    """Take the lock; somebody who looks whether a worker runs takes it for microseconds, so try for a moment."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        else:
            return True


def _write_note(file: IO[str], folder: DataFolder, slot: Slot, source: str, *, adopt: bool) -> None:
    file.seek(0)
    before = json.loads(file.read() or "{}")
    if before.get("topology", source) != source and not adopt:
        raise StateError(
            f"the state in {slot.path} was written by another topology named {folder.topology!r}: that of "
            f"{before['topology']}, this one is {source}. Rename one of them, or give this one another --data folder; "
            f"if the file has only moved: --adopt"
        )
    started = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    file.truncate(0)
    file.write(json.dumps({"topology": source, "pid": os.getpid(), "started": started}))
    file.flush()
