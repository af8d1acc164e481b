"""Archivers that are killed between any two durable steps, two of them at once, compaction and retention: each record
is read exactly once, whatever happened before."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamkit.errors import OffsetOutOfRange
from streamkit.log.archive.archive import Archive
from streamkit.log.archive.archived import ArchivedLog
from streamkit.log.archive.archiver import Archiver, Collector, Limits
from streamkit.log.archive.compaction import groups, join
from streamkit.log.archive.iceberg import CUT, IcebergTable
from streamkit.log.archive.index import Index
from streamkit.log.archive.keeper import Keeper
from streamkit.log.archive.objects import Objects
from streamkit.log.memory import MemoryLog
from streamkit.log.scan import read_all

LIMITS = Limits(records=6)
Row = tuple[int, int, bytes | None]


class Process:
    """One archiver's memory: what a kill -9 takes."""

    def __init__(self) -> None:
        self.collector: Collector | None = None
        self.joined: Index | None = None
        self.known: Index | None = None


class Archivers(RuleBasedStateMachine):
    iceberg = False

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.log = MemoryLog()
        info = self.log.create("clicks", partitions=2)
        objects = Objects(self.folder.name)
        self.archive = Archive.of(objects, info)
        self.archived = ArchivedLog(self.log, objects, ["clicks"])
        self.archivers = [Process(), Process()]
        self.sent: list[Row] = []
        self.table = IcebergTable(self.archive, "life", {"type": "sql", "uri": f"sqlite:///{self.folder.name}/db"})

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        if self.iceberg:
            self._check_table()
        for process in self.archivers:
            self._drop(process)
        self.folder.cleanup()

    @rule(partition=st.integers(0, 1), count=st.integers(1, 9), gap=st.booleans())
    def send(self, partition: int, count: int, gap: bool) -> None:
        writer = self.log.writer()
        for _ in range(count):
            offset = self.log.ends("clicks")[partition]
            value = None if offset % 5 == 4 else b"%d/%d" % (partition, offset)
            writer.send("clicks", value, partition=partition, headers=[("h", value)] if offset % 3 == 0 else ())
            self.sent.append((partition, offset, value))
        if gap:
            self.log.gap("clicks", partition)

    @rule()
    def retention(self) -> None:
        """Deletes what is archived, as a short retention does."""
        self.log.delete_records("clicks", self.archive.newest().ends)

    @rule(which=st.integers(0, 1), finish=st.booleans())
    def collect(self, which: int, finish: bool) -> None:
        """Files are written that no index names."""
        process = self.archivers[which]
        if process.collector is None:
            process.collector = Collector(self.log, self.archive, LIMITS)
        try:
            process.collector.poll(0)
        except (
            OffsetOutOfRange
        ):  # the other one is ahead, and what it has archived is deleted: `Archiver.run` begins again
            assert process.collector.base.number < self.archive.newest().number
            self._drop(process)
            return
        for partition in process.collector.open() if finish else ():
            process.collector.close_range(partition)

    @precondition(lambda self: any(p.collector and p.collector.closed for p in self.archivers))
    @rule(which=st.integers(0, 1))
    def commit(self, which: int) -> None:
        process = self.archivers[which]
        if process.collector is not None and process.collector.closed:
            if Archiver(self.log, self.archive, LIMITS).commit(process.collector):
                process.known = process.collector.base
            else:
                self._drop(process)

    @rule(which=st.integers(0, 1), every=st.booleans())
    def join(self, which: int, every: bool) -> None:
        """A file of small ones is written; `replace` puts the index that names it, later or never."""
        index = self.archive.newest()
        for group in groups(index, LIMITS, every=every)[:1]:
            self.archivers[which].joined = index.replace(join(self.archive, group), group, 0)

    @precondition(lambda self: any(p.joined for p in self.archivers))
    @rule(which=st.integers(0, 1))
    def replace(self, which: int) -> None:
        process = self.archivers[which]
        if process.joined is not None and self.archive.commit(process.joined):
            process.known = process.joined
        process.joined = None

    @rule()
    def clean(self) -> None:
        self.archive.clean(grace_seconds=0)

    @rule(which=st.integers(0, 1))
    def crash(self, which: int) -> None:
        self._drop(self.archivers[which])
        self.archivers[which] = Process()

    @invariant()
    def each_record_is_read_once(self) -> None:
        if hasattr(self, "log"):
            read = [(r.partition, r.offset, r.value) for r in read_all(self.archived, "clicks")]
            assert read == sorted(self.sent, key=lambda row: row[:2])
            headers = {(r.partition, r.offset): tuple(r.headers) for r in read_all(self.archived, "clicks")}
            assert headers == {(p, o): (("h", v),) if o % 3 == 0 else () for p, o, v in self.sent}

    def _drop(self, process: Process) -> None:
        if process.collector is not None:
            process.collector.close()
            process.collector = None

    def _check_table(self) -> None:
        index = self.archive.newest()
        if index.files:
            self.table.follow(index)
            table = self.table.load()
            rows = table.scan(selected_fields=("_partition", "_offset")).to_arrow().to_pylist()
            found = sorted((row["_partition"], row["_offset"]) for row in rows)
            assert found == sorted((p, o) for p, o, _ in self.sent if o < index.ends.get(p, 0))


class ArchiversWithTables(Archivers):
    """Each archiver also brings the table up to what it knows, late, twice or never."""

    iceberg = True

    @precondition(lambda self: any(p.known for p in self.archivers))
    @rule(which=st.integers(0, 1))
    def register(self, which: int) -> None:
        known = self.archivers[which].known
        # Files of an older index may be deleted: within the hour of grace they are not, and here there is none.
        if known is not None and set(known.files) <= set(self.archive.newest().files):
            self.table.follow(known)
            summary: Any = self.table.load().current_snapshot()
            cut = json.loads(summary.summary[CUT])
            assert all(cut[str(partition)] >= end for partition, end in known.ends.items())


TestArchivers = Archivers.TestCase
TestArchivers.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestArchiversWithTables = ArchiversWithTables.TestCase
TestArchiversWithTables.settings = settings(max_examples=6, stateful_step_count=30, deadline=None)


def test_an_archiver_that_slept_through_a_pruning_is_refused(tmp_path: Path) -> None:
    """Stopped between reading an index and putting the next one, it wakes when that number is free again."""
    log = MemoryLog()
    archive = Archive.of(Objects(str(tmp_path)), log.create("clicks", partitions=1))

    def collected() -> Collector:
        log.writer().send("clicks", b"x", partition=0)
        made = Collector(log, archive, LIMITS)
        made.poll(0)
        made.close_range(0)
        return made

    sleeper, archiver = collected(), Archiver(log, archive, LIMITS)
    for _ in range(30):
        other = collected()
        assert archiver.commit(other)
        other.close()
    before = archive.newest()
    assert not archiver.commit(sleeper)
    assert archive.newest() == before
    sleeper.close()


def test_of_two_archivers_that_read_the_same_one_is_refused(tmp_path: Path) -> None:
    log = MemoryLog()
    archive = Archive.of(Objects(str(tmp_path)), log.create("clicks", partitions=1))
    log.writer().send("clicks", b"x", partition=0)
    both = [Collector(log, archive, LIMITS), Collector(log, archive, LIMITS)]
    for collector in both:
        collector.poll(0)
        collector.close_range(0)
    archiver = Archiver(log, archive, LIMITS)
    assert [archiver.commit(collector) for collector in both] == [True, False]
    assert archive.newest() == both[0].base
    assert archiver.run(Event()) == 0
    for collector in both:
        collector.close()


@pytest.fixture
def make() -> Callable[[Path], tuple[MemoryLog, Archive]]:
    def made(folder: Path) -> tuple[MemoryLog, Archive]:
        log = MemoryLog()
        return log, Archive.of(Objects(str(folder)), log.create("clicks", partitions=1))

    return made


def test_replaced_files_stay_for_readers_of_the_index_before(
    tmp_path: Path, make: Callable[[Path], tuple[MemoryLog, Archive]]
) -> None:
    log, archive = make(tmp_path)
    keeper = Keeper(log, archive, LIMITS)
    for number in range(3):
        log.writer().send("clicks", b"%d" % number, partition=0)
        keeper.run(Event(), follow=False, on_progress=lambda *_: None)
    old = archive.newest()
    assert keeper.tidy(every=True) == 3
    assert [len(archive.content(file)) > 0 for file in old.files] == [True] * 3
    [new] = archive.newest().files
    assert (new.start, new.end, new.records) == (0, 3, 3)
    assert archive.clean(grace_seconds=0) == 3
