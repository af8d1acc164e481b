"""A log that is archived is a log: what lies in the archive comes back as it was sent, and as if from the log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Event

import pytest

from streamkit.log.archive.archive import Archive
from streamkit.log.archive.archived import ArchivedLog
from streamkit.log.archive.archiver import Archiver, Limits
from streamkit.log.archive.objects import Objects
from streamkit.log.base import Log, Reader
from streamkit.log.memory import MemoryLog
from streamkit.record import TopicPartition
from streamkit.testing.contracts import LogContract


class AllArchived(ArchivedLog):
    """Every topic is archived, up to where it is when somebody begins to read it."""

    def __init__(self, log: Log, objects: Objects) -> None:
        super().__init__(log, objects, ())
        self._limits = Limits(records=40)

    def archive(self, topic: str) -> Archive:
        return Archive.of(self._objects, self._log.describe(topic))

    def reader(self, positions: Mapping[TopicPartition, int]) -> Reader:
        for topic in {source.topic for source in positions}:
            Archiver(self._log, self.archive(topic), self._limits).run(Event())
        return super().reader(positions)


class TestArchivedLog(LogContract):
    @pytest.fixture(autouse=True)
    def _log(self, tmp_path: Path) -> None:
        self.log, self.objects = MemoryLog(), Objects(str(tmp_path))

    def make_log(self) -> Log:
        return AllArchived(self.log, self.objects)
