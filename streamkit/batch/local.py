"""The local Runner: tasks over all cores of this machine."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

from streamkit.batch.plan import Split
from streamkit.batch.tasks import Tasks
from streamkit.control import File
from streamkit.loading import load_topology
from streamkit.log.archive import open_source
from streamkit.log.kafka import KafkaLog
from streamkit.settings import Connection

B = TypeVar("B")


class Inline:
    """Tasks in this process: for a log that lives in memory, and for small work."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    def fold(self, splits: list[Split]) -> Iterator[Split]:
        return map(self._tasks.fold, splits)

    def merge(self, splits: list[Split], buckets: int, result: str) -> list[File]:
        return [self._tasks.merge(splits, bucket, buckets, result) for bucket in range(buckets)]


@dataclass(frozen=True)
class Processes:
    """Tasks in processes of their own, each of which imports the topology (named as on the command line) again."""

    topology: str
    view: str
    connection: Connection
    folder: Path
    processes: int
    here: Tasks
    """What is not worth a process, which takes a second to start, is done by these."""
    archive: str | None = None
    """Where the topic's archive is, if anywhere."""

    def fold(self, splits: list[Split]) -> Iterator[Split]:
        return self._map(_fold, [(split,) for split in splits])

    def merge(self, splits: list[Split], buckets: int, result: str) -> list[File]:
        if buckets == 1:
            return Inline(self.here).merge(splits, buckets, result)
        files = self._map(_merge, [(splits, bucket, buckets, result) for bucket in range(buckets)])
        return sorted(files, key=lambda file: file.path)

    def _map(self, function: Callable[..., B], arguments: list[tuple[Any, ...]]) -> Iterator[B]:
        """As they are done. Left early (Ctrl-C, an error) it waits for what is running: seconds, and none is lost."""
        executor = ProcessPoolExecutor(
            min(self.processes, len(arguments)) or 1,
            mp_context=get_context("spawn"),
            initializer=_start,
            initargs=(self.topology, self.view, self.connection, self.folder, self.archive),
        )
        try:
            for done in as_completed([executor.submit(function, *a) for a in arguments]):
                yield done.result()
        finally:
            executor.shutdown(cancel_futures=True)


_tasks: Tasks | None = None


def _start(topology: str, view: str, connection: Connection, folder: Path, archive: str | None) -> None:
    global _tasks
    begin_process()
    found = load_topology(topology).find_view(view)
    _tasks = Tasks(open_source(KafkaLog(connection), archive, [found.topic.name]), found, folder)


def begin_process() -> None:
    """What a process of a Runner does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent tells us when to stop
    threading.Thread(target=leave_with_parent, daemon=True).start()


def leave_with_parent() -> None:
    """A parent killed by -9 tells nobody: without this its processes would wait for work for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _fold(split: Split) -> Split:
    assert _tasks is not None
    return _tasks.fold(split)


def _merge(splits: list[Split], bucket: int, buckets: int, result: str) -> File:
    assert _tasks is not None
    return _tasks.merge(splits, bucket, buckets, result)
