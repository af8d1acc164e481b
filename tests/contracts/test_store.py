"""Both stores pass the store port's contract; and what only a real directory and another process can show."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamkit.errors import StateLocked, StateMissing
from streamkit.native.loader import loader
from streamkit.packed import Packed, Strings
from streamkit.store import sortedfile
from streamkit.store.base import Store, StoreReader, Write
from streamkit.store.memory import MemoryReader, MemoryStore
from streamkit.store.rocksdb import OWNER_NOTE, RocksReader, RocksStore
from streamkit.testing.contracts import PATIENCE, StoreContract, expect

PAIRS = """
import itertools, sys
from streamkit.packed import Packed, Strings
from streamkit.native.loader import loader
from streamkit.store import sortedfile
from streamkit.store.base import Write
from streamkit.store.rocksdb import RocksStore

# Every Write sets all of 50 keys to one number, in a log that grows, is flushed and is compacted as it does; where
# FILES says so, most Writes come in as files.
sortedfile.WORTH = 1
loader.load()
store = RocksStore(sys.argv[1])
first = int((store.get([b"pair-00"])[0] or b"-1").split()[0]) + 1
print("ready", flush=True)
for number in itertools.count(first):
    keys, values = [b"pair-%02d" % i for i in range(50)], [b"%d " % number + bytes(2_000)] * 50
    batch = (b"batch-%08d" % number, b"")
    if FILES and number % 4:
        store.write(Write(puts=[batch], packed=[Packed(Strings.of(keys), Strings.of(values))]))
    else:
        store.write(Write(puts=[*zip(keys, values), batch], ranges=[(b"pair-00", b"pair-25")]))
"""


@contextmanager
def writing(path: Path, *, files: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes PAIRS as fast as it can, until it is killed with SIGKILL."""
    program = f"FILES = {files}\n{PAIRS}"
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            os.kill(process.pid, signal.SIGKILL)


def numbers(reader: Store | StoreReader) -> set[int]:
    """The numbers of the pairs: one, where Writes are atomic, and then there are 50 pairs."""
    values = [value for _, value in reader.scan(b"pair-", b"pair-99")]
    assert len(values) in (0, 50), f"a part of a Write: {len(values)} of 50 pairs"
    return {int(value.split(b" ")[0]) for value in values}


class TestMemoryStore(StoreContract):
    def make_store(self) -> Store:
        return MemoryStore()

    def make_reader(self, store: Store) -> StoreReader:
        assert isinstance(store, MemoryStore)
        return MemoryReader(store)


class TestRocksStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = tmp_path / "below" / "state"
        assert loader.load() is not None, loader.failure  # without them nothing comes in as files

    def make_store(self) -> Store:
        return RocksStore(self.path)

    def make_reader(self, store: Store) -> StoreReader:
        del store
        return RocksReader(self.path)

    def test_it_is_there_when_it_is_opened_again(self) -> None:
        for number in range(3):
            with closing(RocksStore.open(self.path)) as store:
                assert len(list(store.scan(b"", b"\xff"))) == number
                store.write(Write(puts=[(b"%d" % number, b"")]))

    def test_one_process_holds_it_and_the_message_says_who(self) -> None:
        with closing(self.make_store()) as store, expect(StateLocked, str(self.path), "held by this process"):
            RocksStore(self.path)
        store.close()
        with writing(self.path):
            with expect(StateLocked, str(self.path), "is another worker running?"):
                RocksStore(self.path)
            (self.path.parent / OWNER_NOTE).write_text("4711 on host-a\n")
            with expect(StateLocked, str(self.path), "4711 on host-a"):
                RocksStore(self.path)

    def test_a_reader_without_a_store_makes_none(self) -> None:
        with expect(StateMissing, str(self.path), "streamkit worker"):
            RocksReader(self.path)
        assert not self.path.exists()

    @pytest.mark.parametrize("files", [False, True])
    def test_a_killed_writer_leaves_whole_writes(self, files: bool) -> None:
        for _ in range(3):
            with writing(self.path, files=files), closing(RocksReader(self.path)) as reader:
                follow(reader, writes=200)
            with closing(self.make_store()) as store:
                (last,) = numbers(store)
                batches = [key for key, _ in store.scan(b"batch-", b"batch-\xff")]
                assert batches == [b"batch-%08d" % number for number in range(last + 1)]

    @pytest.mark.parametrize("files", [False, True])
    def test_a_reader_sees_whole_writes_while_files_are_flushed_and_compacted(self, files: bool) -> None:
        with (
            writing(self.path, files=files),
            closing(RocksReader(self.path)) as reader,
            closing(RocksReader(self.path)) as idle,
        ):
            shown = list(idle.scan(b"", b"\xff"))
            follow(reader, writes=500 if files else 3_000)
            assert list(idle.scan(b"", b"\xff")) == shown, "a reader that was not refreshed changed"
            assert list(self.path.glob("*.sst")), "nothing was flushed: this showed too little"
            idle.refresh()
            assert len(numbers(idle)) == 1

    def test_a_reader_reads_on_only_where_something_was_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[RocksReader] = []
        catch_up = RocksReader._catch_up

        def counted(reader: RocksReader) -> None:
            read.append(reader)
            catch_up(reader)

        monkeypatch.setattr(RocksReader, "_catch_up", counted)
        with closing(self.make_store()) as store, closing(RocksReader(self.path)) as reader:
            for number in range(5):
                store.write(Write(puts=[(b"key", b"%d" % number)]))
                for _ in range(3):
                    reader.refresh()
                    assert reader.get([b"key"]) == [b"%d" % number]
            store.write(Write(deletes=[b"key"]))
            reader.refresh()
            assert reader.get([b"key"]) == [None]
        assert len(read) <= 6

    def test_a_reader_follows_a_worker_that_was_started_again(self) -> None:
        with writing(self.path):
            reader = RocksReader(self.path)
            follow(reader, writes=20)
        with closing(reader):
            for _ in range(2):
                with writing(self.path):
                    follow(reader, writes=20)

    @pytest.mark.parametrize("what", ["restart", "flush", "flush and write"])
    def test_a_reader_that_lags_behind_a_flush(self, what: str) -> None:
        """RocksDB alone would show old entries of its memtable in front of newer ones in files."""
        pairs = [b"pair-%02d" % i for i in range(50)]
        store = RocksStore(self.path)
        for number in (1, 2, 3):
            store.write(Write(puts=[(key, b"%d " % number) for key in pairs], ranges=[(pairs[0], pairs[25])]))
            if number == 1:
                reader = self.make_reader(store)
        if what == "restart":
            store.close()
            store = RocksStore(self.path)
        else:
            store._db.flush()
        if what == "flush and write":
            store.write(Write(puts=[(b"x", b"")]))
        with closing(store), closing(reader):
            for _ in range(2):
                reader.refresh()
                assert numbers(reader) == {3}
                assert set(reader.get(pairs)) == {b"3 "}

    def test_a_reader_follows_a_store_that_was_made_anew(self, tmp_path: Path) -> None:
        with closing(self.make_store()) as store:
            store.write(Write(puts=[(b"%d" % i, b"old") for i in range(100)]))
            reader = self.make_reader(store)
        self.path.rename(tmp_path / "old")
        with expect(StateMissing, str(self.path)):
            reader.refresh()
        with closing(self.make_store()) as store:
            store.write(Write(puts=[(b"a", b"new")]))
            reader.refresh()
            assert list(reader.scan(b"", b"\xff")) == [(b"a", b"new")]
        reader.close()

    def test_a_reader_leaves_no_directory_behind(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with closing(self.make_store()) as store:
            reader = self.make_reader(store)
            assert len(list(tmp_path.glob("streamkit-reader-*"))) == 1
            reader.close()
        assert not list(tmp_path.glob("streamkit-reader-*"))


def follow(reader: RocksReader, *, writes: int) -> None:
    """Refresh until so many Writes were passed; at each look all pairs must be of one Write."""
    first = last = -1
    deadline = time.monotonic() + PATIENCE
    while last < first + writes or first < 0:
        assert time.monotonic() < deadline, f"only {last - first} of {writes} Writes were seen"
        reader.refresh()
        seen = numbers(reader)
        assert len(seen) <= 1, f"parts of several Writes: {sorted(seen)}"
        if seen:
            before, last = last, seen.pop()
            assert last >= before, "went back"
            first = last if first < 0 else first


Keys, Values = st.binary(max_size=2), st.binary(max_size=3)
Packs = st.dictionaries(Keys, Values, max_size=5).map(
    lambda pairs: Packed(Strings.of(sorted(pairs)), Strings.of([pairs[key] for key in sorted(pairs)]))
)
Writes = st.builds(
    Write,
    puts=st.lists(st.tuples(Keys, Values), max_size=5),
    deletes=st.lists(Keys, max_size=3),
    ranges=st.lists(st.tuples(Keys, Keys), max_size=1),
    packed=st.lists(Packs, max_size=2),
)
Begun = st.tuples(Writes, st.dictionaries(st.sampled_from([b"", b"\0", b"\xff"]), Values, max_size=2))


@pytest.fixture
def _files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sortedfile, "WORTH", 1)
    assert loader.load() is not None, loader.failure


@pytest.mark.usefixtures("_files")
@pytest.mark.parametrize("key_bytes", [1, 300, 70_000])
@pytest.mark.parametrize("value_bytes", [0, 200, 70_000])
def test_files_hold_keys_and_values_of_any_length(tmp_path: Path, key_bytes: int, value_bytes: int) -> None:
    """Long ones are blocks of their own, and take the most room beside themselves."""
    rows = [(b"%02d" % n + b"k" * key_bytes, bytes(value_bytes)) for n in range(40)]
    packed = Packed(*(Strings.of([row[i] for row in rows[::2]]) for i in (0, 1)))
    with closing(RocksStore(tmp_path / "state")) as store:
        store.begin(Write(puts=rows[1::2], packed=[packed])).finish([(b"", b"x" * value_bytes)])
        assert list(store.scan(b"", b"\xff")) == [(b"", b"x" * value_bytes), *rows]
        assert store.get([key for key, _ in rows]) == [value for _, value in rows]
        assert [path.suffix for path in store.path.glob("*.sst")] == [".sst"], "it did not come in as a file"


@pytest.mark.usefixtures("_files")
def test_a_file_is_made_while_something_else_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, make = threading.Event(), sortedfile._write

    def waits(*what: Any) -> Any:
        assert begun.wait(PATIENCE), "`begin` waited for the file"
        return make(*what)

    monkeypatch.setattr(sortedfile, "_write", waits)
    with closing(RocksStore(tmp_path / "state")) as store:
        write = store.begin(Write(packed=[Packed(Strings.of([b"b"]), Strings.of([b"2"]))]))
        begun.set()
        write.finish([(b"a", b"1")])
        assert list(store.scan(b"", b"\xff")) == [(b"a", b"1"), (b"b", b"2")]


@pytest.mark.usefixtures("_files")
def test_no_file_is_left_of_what_was_never_finished(tmp_path: Path) -> None:
    packed = Packed(Strings.of([b"b"]), Strings.of([b"2"]))
    for _ in range(2):
        with closing(RocksStore(tmp_path / "state")) as store:
            assert not list(store.path.glob("incoming*")), "one of a process that was killed is left"
            store.begin(Write(packed=[packed])).finish([(b"a", b"1")])
            store.begin(Write(packed=[packed])).finish([(b"c", b"1")])  # goes another way
            assert not list(store.path.glob("incoming*"))
            store.begin(Write(packed=[packed]))
        assert not list(store.path.glob("incoming*"))
        (store.path / "incoming-0").write_bytes(b"half a fi")


@pytest.mark.usefixtures("_files")
@settings(max_examples=100, deadline=None)
@given(writes=st.lists(Begun, max_size=8), start=Keys, end=Keys)
def test_both_stores_agree(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[Write, dict[bytes, bytes]]], start: bytes, end: bytes
) -> None:
    with closing(RocksStore(tmp_path_factory.mktemp("state"))) as rocks, closing(MemoryStore()) as memory:
        for write, last in writes:
            for store in (rocks, memory):
                store.begin(write).finish(list(last.items()))
        assert list(rocks.scan(start, end)) == list(memory.scan(start, end))
        assert list(rocks.scan(b"", b"\xff\xff\xff")) == list(memory.scan(b"", b"\xff\xff\xff"))
        assert rocks.get([start, end]) == memory.get([start, end])
