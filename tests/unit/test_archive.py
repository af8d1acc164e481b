"""What an archive refuses, the files it writes, other readers of them, and an object store that is none of ours."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Event

import duckdb
import msgspec
import pytest
from pyiceberg.table import Table

from streamkit.errors import ArchiveDamaged, ArchiveUnreachable, OffsetOutOfRange, TopicChanged
from streamkit.log.archive import open_source
from streamkit.log.archive.archive import Archive
from streamkit.log.archive.archived import ArchivedLog
from streamkit.log.archive.archiver import Limits
from streamkit.log.archive.iceberg import CUT, INDEX, SCHEMA, TOPIC_ID, IcebergTable
from streamkit.log.archive.index import index_path
from streamkit.log.archive.keeper import Keeper, problems
from streamkit.log.archive.objects import Objects
from streamkit.log.base import TopicInfo
from streamkit.log.memory import MemoryLog
from streamkit.log.scan import read_all
from streamkit.record import FlatChunk, Record, TopicPartition
from streamkit.testing.contracts import expect

LIMITS = Limits(records=20)


def send(log: MemoryLog, count: int) -> None:
    writer = log.writer()
    for number in range(count):
        headers = [("source", b"web"), ("trace", None)] if number % 4 == 0 else []
        key = None if number % 3 == 0 else b"key%d" % (number % 5)
        value = [None, b"", b"value %d" % number][number % 3]
        writer.send("clicks", value, key=key, headers=headers, partition=number % 2, timestamp=number + 1)


def keep(log: MemoryLog, archive: Archive, properties: dict[str, str] | None = None, topology: str = "ads") -> Keeper:
    keeper = Keeper(log, archive, LIMITS)
    if properties is not None:
        keeper.register(topology, properties)
    keeper.run(Event(), follow=False, on_progress=lambda *_: None)
    return keeper


def records(log: MemoryLog | ArchivedLog) -> list[Record]:
    return [
        Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
        for r in read_all(log, "clicks")
    ]


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    log.create("clicks", partitions=2)
    return log


@pytest.fixture
def archive(log: MemoryLog, tmp_path: Path) -> Archive:
    return Archive.of(Objects(str(tmp_path)), log.describe("clicks"))


def archived(log: MemoryLog, archive: Archive) -> ArchivedLog:
    return ArchivedLog(log, archive.objects, ["clicks"])


def test_what_was_archived_is_read_without_an_object_a_record(log: MemoryLog, archive: Archive) -> None:
    send(log, 90)
    before = records(log)
    keep(log, archive)
    log.delete_records("clicks", log.ends("clicks"))
    send(log, 7)
    after = sorted(before + records(log), key=lambda r: (r.partition, r.offset))
    assert records(archived(log, archive)) == after
    source = TopicPartition("clicks", 1)
    [chunk] = archived(log, archive).reader({source: 3}).poll(10, 0)
    assert isinstance(chunk, FlatChunk)
    assert chunk.offsets == list(range(3, 13))
    assert chunk.flat.data[-FlatChunkPadding:].tolist() == [0] * FlatChunkPadding


FlatChunkPadding = 16


def test_what_is_deleted_under_a_readers_eyes_is_read_from_the_archive(log: MemoryLog, archive: Archive) -> None:
    sources = {TopicPartition("clicks", partition): 0 for partition in range(2)}
    read: list[tuple[int, int]] = []
    with closing(archived(log, archive).reader(sources)) as reader:
        for _ in range(4):
            send(log, 50)
            keep(log, archive)
            log.delete_records("clicks", log.ends("clicks"))
            log.gap("clicks", 0)
            while reader.positions() != {source: log.ends("clicks")[source.partition] for source in sources}:
                read += [(chunk.source.partition, offset) for chunk in reader.poll(7, 0) for offset in chunk.offsets]
    assert len(read) == 200
    assert sorted(read) == [(r.partition, r.offset) for r in records(archived(log, archive))]


def test_ranges_end_at_multiples_and_name_their_offsets(log: MemoryLog, archive: Archive) -> None:
    send(log, 90)
    keep(log, archive)
    index = archive.newest()
    assert [(f.start, f.end, f.records) for f in index.of[1]] == [(0, 20, 20), (20, 40, 20), (40, 45, 5)]
    assert f"data/00001/{20:020}-{40:020}-" in index.of[1][1].path
    assert archive.url.endswith(f"clicks/{log.describe('clicks').id}")


def test_records_deleted_before_they_were_archived_are_told(log: MemoryLog, archive: Archive) -> None:
    send(log, 40)
    keep(log, archive)
    send(log, 40)
    log.delete_records("clicks", {0: 30})
    for refused in (lambda: archived(log, archive).starts("clicks"), lambda: keep(log, archive)):
        with expect(OffsetOutOfRange, "clicks/0", "[20, 30)", "neither in the archive", "--archive"):
            refused()


def test_a_topic_made_anew_is_another_one(log: MemoryLog, archive: Archive) -> None:
    send(log, 10)
    keep(log, archive)
    log.delete("clicks")
    made = log.create("clicks", partitions=2)
    with expect(TopicChanged, archive.topic_id, made.id, "another archive"):
        archived(log, archive).starts("clicks")
    send(log, 40)
    with expect(TopicChanged, archive.topic_id, made.id, "while it was archived"):
        keep(log, archive)
    assert archive.newest().ends == {0: 5, 1: 5}


def test_files_that_are_not_what_was_written_are_named(log: MemoryLog, archive: Archive) -> None:
    send(log, 90)
    keep(log, archive)
    assert list(problems(archive)) == []
    folder = archive.objects.folder
    assert folder is not None
    damaged, missing = archive.newest().of[0][0], archive.newest().of[1][2]
    path = folder / "clicks" / archive.topic_id / damaged.path
    path.write_bytes(path.read_bytes()[:-50] + bytes(50))
    (folder / "clicks" / archive.topic_id / missing.path).unlink()
    first, second = problems(archive)
    assert "clicks/0: [0, 20)" in first
    assert "SHA-256" in first
    assert "clicks/1: [40, 45)" in second
    assert "is missing" in second
    with expect(ArchiveDamaged, "clicks/0: [0, 20)", "Bring it back"):
        records(archived(log, archive))


def test_ranges_that_do_not_lead_on_are_refused(log: MemoryLog, archive: Archive) -> None:
    send(log, 90)
    keep(log, archive)
    index = archive.newest()
    lacking = msgspec.structs.replace(index, files=tuple(f for f in index.files if f != index.of[0][1]))
    with expect(ArchiveDamaged, "clicks/0", "leads from [0, 20) to [40, 45): expected a range from 20 on"):
        lacking.add([])
    (first, *_), number = index.of[0], index.number + 1
    broken = msgspec.structs.replace(index, number=number, files=(*index.files, first))
    assert archive.objects.create(f"clicks/{archive.topic_id}/{index_path(number)}", msgspec.json.encode(broken))
    with expect(ArchiveDamaged, "clicks/0", "[0, 20)"):
        records(archived(log, archive))


def test_an_id_with_slashes_is_one_folder(tmp_path: Path) -> None:
    made = Archive(Objects(str(tmp_path)), "clicks", "a/b+c/d")
    assert made.commit(made.newest().add([]))
    assert Archive.of(made.objects, TopicInfo("clicks", "a/b+c/d", 2)).newest().number == 1
    assert made.objects.folders("clicks") == ["a_b-c_d"]


def test_an_index_of_another_topic_is_refused(log: MemoryLog, archive: Archive, tmp_path: Path) -> None:
    send(log, 10)
    keep(log, archive)
    log.create("others", partitions=1)
    other = log.describe("others")
    (tmp_path / "others").mkdir()
    (tmp_path / "clicks" / archive.topic_id).rename(tmp_path / "others" / other.id)
    with expect(TopicChanged, "moved by hand", archive.topic_id, other.id):
        Archive.of(archive.objects, other).newest()


def test_topics_without_an_archive_are_the_logs(log: MemoryLog, archive: Archive, tmp_path: Path) -> None:
    assert open_source(log, str(tmp_path / "nowhere"), ["clicks"]) is log
    assert not (tmp_path / "nowhere").exists()
    assert open_source(log, str(tmp_path), ["clicks"]) is log
    send(log, 10)
    keep(log, archive)
    assert open_source(log, str(tmp_path), ["others"]) is log
    assert isinstance(open_source(log, str(tmp_path), ["clicks"]), ArchivedLog)


def test_other_readers_find_each_record_once(log: MemoryLog, archive: Archive, tmp_path: Path) -> None:
    """By the Iceberg table: pyiceberg, polars, and DuckDB of the files that the table's metadata names."""
    catalog = {"type": "sql", "uri": f"sqlite:///{tmp_path}/iceberg.sqlite"}
    for _ in range(3):
        send(log, 14)
        keep(log, archive, catalog)
    assert len(archive.newest().files) == 4
    assert len(archive.newest().dropped) == 6
    table = IcebergTable(archive, "ads", catalog).load()
    assert table.schema().as_struct() == SCHEMA.as_struct()
    summary = table.current_snapshot().summary  # type: ignore[union-attr]
    assert summary is not None
    assert (json.loads(summary[CUT] or ""), summary[TOPIC_ID]) == ({"0": 21, "1": 21}, archive.topic_id)
    expected = sorted((r.partition, r.offset, r.key, r.value) for r in records(log) if r.value is not None)
    files = [task.file.file_path.removeprefix("file://") for task in table.scan().plan_files()]
    columns = "_partition, _offset, _key, _value"
    query = f"select {columns} from read_parquet($files) where _value is not null order by 1, 2"
    assert duckdb.execute(query, {"files": files}).fetchall() == expected
    with table.scan().to_duckdb("clicks") as connection:
        assert connection.sql("select count(*), max(len(_headers)) from clicks").fetchall() == [(42, 2)]
    assert len(table.scan().to_polars()) == 42


def test_a_topology_may_be_named_as_its_topic(log: MemoryLog, archive: Archive, tmp_path: Path) -> None:
    catalog = {"type": "sql", "uri": f"sqlite:///{tmp_path}/iceberg.sqlite"}
    send(log, 40)
    keep(log, archive, catalog, topology="clicks")
    again = Archive.of(archive.objects, log.describe("clicks"))  # takes no folder of the table's for a topic's id
    assert again.newest().ends == {0: 20, 1: 20}
    send(log, 40)
    keep(log, again, catalog, topology="clicks")
    assert len(IcebergTable(again, "clicks", catalog).load().scan().to_polars()) == 80


class Overtaken(IcebergTable):
    """Somebody else commits between its look at the table and its own commit."""

    meanwhile: Callable[[], object] | None = None

    def load(self) -> Table:
        table = super().load()
        act, self.meanwhile = self.meanwhile, None
        if act is not None:
            act()
        return table


def test_a_table_never_goes_back_to_an_older_index(log: MemoryLog, archive: Archive, tmp_path: Path) -> None:
    catalog = {"type": "sql", "uri": f"sqlite:///{tmp_path}/iceberg.sqlite"}
    indexes = []
    for _ in range(3):
        send(log, 10)
        keep(log, archive)
        indexes.append(archive.newest())
    first, second, third = indexes
    slow, quick = Overtaken(archive, "ads", catalog), IcebergTable(archive, "ads", catalog)
    assert slow.follow(first)
    slow.meanwhile = lambda: quick.follow(third)
    assert not slow.follow(second)
    assert not slow.follow(first)
    table = quick.load()
    assert table.scan().to_arrow().num_rows == 30
    assert table.current_snapshot().summary[INDEX] == "3"  # type: ignore[union-attr,index]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 that speaks HTTP on this machine."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    name = f"bucket-{uuid.uuid4().hex}"
    for variable, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(variable, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=name)
    client.close()
    yield name
    server.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")
def test_an_object_store_is_an_archive_like_any_other(log: MemoryLog, bucket: str, tmp_path: Path) -> None:
    objects = Objects(f"s3://{bucket}/archive")
    assert [objects.create("once", b"1"), objects.create("once", b"2")] == [True, False]
    assert bytes(objects.read("once")) == b"1"
    archive = Archive.of(objects, log.describe("clicks"))
    catalog = {"type": "sql", "uri": f"sqlite:///{tmp_path}/iceberg.sqlite"}
    for _ in range(2):
        send(log, 50)
        keeper = keep(log, archive, catalog)
    before = records(log)
    keeper.tidy(every=True)
    assert archive.clean(grace_seconds=0) > 0
    log.delete_records("clicks", log.ends("clicks"))
    assert records(archived(log, archive)) == before
    assert list(problems(archive)) == []
    table = IcebergTable(archive, "ads", catalog).load()
    assert table.scan().to_arrow().num_rows == 100
    with expect(ArchiveUnreachable, "s3://nowhere", "--archive", "credentials"):
        Objects("s3://nowhere/archive").folders()
