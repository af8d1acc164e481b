"""The store on RocksDB, by rocksdict. The only module that imports it.

A Store holds the directory's lock. A StoreReader is a RocksDB secondary instance: it opens the primary's files from
another process and follows its write-ahead log when it is refreshed.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import starmap
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, cast

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DbClosedError,
    DBCompressionType,
    IngestExternalFileOptions,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
)

from streamkit.errors import StateError, StateLocked, StateMissing
from streamkit.store.base import Begun, Write
from streamkit.store.sortedfile import SortedFile

MIB = 1024 * 1024
OWNER_NOTE = "worker.json"
"""A file beside the store in which its worker says who it is; shown to whoever finds the store locked."""


_INCOMING = "incoming-"
_IN_MEMORY = ("rocksdb.num-entries-active-mem-table", "rocksdb.num-entries-imm-mem-tables")


class RocksStore:
    """The Store in directory `path`, made where there is none. Raises StateLocked where another one holds it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._failed = False
        self._files: list[SortedFile] = []
        """In the making."""
        self._begun = itertools.count()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._db = Rdict(str(self.path), _options(block_cache=96 * MIB))
        except Exception as error:
            raise self._unusable(error) from error
        for left in self.path.glob(f"{_INCOMING}*"):  # by a process that was killed
            left.unlink()

    @classmethod
    def open(cls, path: str | Path) -> RocksStore:
        return cls(path)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return cast("list[bytes | None]", self._db.get(list(keys)))

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return _scan(self._db, start, end)

    def write(self, write: Write) -> None:
        """Survives `kill -9`; after a power cut the last writes may be gone, as whole Writes from the end.

        Raises StateError where the disk does not take it, and from then on.
        """
        self.begin(write).finish(())

    def begin(self, write: Write) -> Begun:
        file = SortedFile.of(write, self.path / f"{_INCOMING}{next(self._begun)}")
        self._files += [] if file is None else [file]
        return _Begun(self, write, file)

    def _finish(self, write: Write, file: SortedFile | None, puts: Sequence[tuple[bytes, bytes]]) -> None:
        try:
            if file is not None and file.can_begin_with(puts):
                self._take_in(file, puts)
            else:
                self._db.write(_batch(write, puts))
            if file is not None:
                self._drop(file)
        except Exception as error:
            self._failed = True
            raise StateError(
                f"state at {self.path} cannot be written: {error}. Nothing is lost: the changelogs have it all. Make "
                f"room, or mend the disk, and start again; or delete this directory: it is made anew from them"
            ) from error

    def _take_in(self, file: SortedFile, puts: Sequence[tuple[bytes, bytes]]) -> None:
        file.write(puts)
        # What is taken in survives a power cut at once; what was written before it must then, too, or the copy would be
        # said to be further than it is. So the log of that comes to the disk first.
        self._db.flush_wal(True)
        moved = IngestExternalFileOptions()
        moved.set_move_files(True)
        self._db.ingest_external_file([str(file.path)], moved)

    def _drop(self, *files: SortedFile) -> None:
        for file in files:
            file.drop()
            self._files.remove(file)

    def close(self) -> None:
        """Let the directory go. A scan that was begun keeps it locked until it is dropped."""
        self._drop(*self._files)
        # RocksDB that could not write says so once more: it was told, and nothing that was written is lost.
        with suppress(Exception if self._failed else DbClosedError):
            self._db.close()

    def _unusable(self, error: Exception) -> StateError:
        if "lock" not in str(error).lower():
            return StateError(f"state at {self.path} cannot be opened: {error}")
        if "current process" in str(error):
            return StateLocked(
                f"state at {self.path} is held by this process: by a store not closed, or a scan not dropped"
            )
        note = self.path.parent / OWNER_NOTE
        owner = f" It says: {note.read_text(encoding='utf-8').strip()}." if note.is_file() else ""
        return StateLocked(f"state at {self.path} is held by another process: is another worker running?{owner}")


@dataclass(frozen=True)
class _Begun:
    store: RocksStore
    write: Write
    file: SortedFile | None

    def finish(self, puts: Sequence[tuple[bytes, bytes]]) -> None:
        self.store._finish(self.write, self.file, puts)


class RocksReader:
    """A StoreReader of the Store at `path`, which another process may be writing, compacting or opening anew.

    Several readers at once need a `secondary` directory each (RocksDB's own notes go there); without one, a temporary
    directory is made and removed. Safe for threads. Raises StateMissing where there is no Store.
    """

    def __init__(self, path: str | Path, secondary: str | Path | None = None) -> None:
        self.path = Path(path)
        self._temporary = TemporaryDirectory(prefix="streamkit-reader-") if secondary is None else None
        self._secondary = str(secondary or cast("TemporaryDirectory[str]", self._temporary).name)
        # Reads take it too: half of a `refresh` may show parts of several Writes.
        self._lock = threading.Lock()
        self._opened: _Primary | None = None
        self._seen: _Primary | None = None
        try:
            self.refresh()
        except StateError:
            self._remove()
            raise

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._lock:
            return cast("list[bytes | None]", self._db.get(list(keys)))

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """A scan that has begun is not changed by `refresh`."""
        with self._lock:
            return _scan(self._db, start, end)

    def refresh(self) -> None:
        """Raises StateMissing where the Store is gone; follows one that was removed and made again.

        Where its files are as they were before the last refresh read them, nothing was written since: a look at them is
        a tenth of what it costs to read on.
        """
        with self._lock:
            before, after = None, _Primary.look(self.path)
            if after == self._seen:
                return
            self._seen = None
            # A flush while it caught up may have taken away a log it had not read: then once more, for the files.
            while before is None or not before.is_as(after):
                before = after
                if self._opened is None or before.is_another(self._opened) or (before.log_is_empty and self._replayed):
                    self._open(before)
                else:
                    self._catch_up()
                after = _Primary.look(self.path)
            self._seen = before

    def close(self) -> None:
        with suppress(DbClosedError):
            self._db.close()
        self._remove()

    def _open(self, primary: _Primary) -> None:
        # A secondary that was there is let go, not closed: scans of it may be under way.
        access = AccessType.secondary(self._secondary)
        try:
            self._db = Rdict(str(self.path), _options(block_cache=32 * MIB), access_type=access)
        except Exception as error:
            if primary.is_as(_Primary.look(self.path)):
                raise StateError(f"state at {self.path} cannot be read: {error}") from error
        else:
            self._opened = primary

    @property
    def _replayed(self) -> bool:
        """Has it anything in memory that it has read in a log?"""
        return any(map(self._db.property_int_value, _IN_MEMORY))

    def _catch_up(self) -> None:
        try:
            self._db.try_catch_up_with_primary()
        except Exception:
            # The primary deleted a file between its manifest being read and the file being opened.
            self._open(_Primary.look(self.path))

    def _remove(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()


class _Primary(NamedTuple):
    """How far a primary's files are.

    A secondary replays the log into its memtable, and RocksDB takes what is in a memtable for newer than what is in
    files. That is wrong for one that has replayed a log which the primary has flushed since, until the first entry of
    the next log has replaced the memtable: where it lagged behind, or the primary has taken in a file since, `get` then
    returns old values, and `scan` lets old range deletes hide new entries. So it is opened anew where it has replayed
    something and the newest log is empty, and where the primary was opened anew, which flushes too.
    """

    identity: bytes
    manifest: str
    manifest_size: int
    log: str
    log_size: int

    @property
    def log_is_empty(self) -> bool:
        return self.log_size == 0

    @classmethod
    def look(cls, path: Path) -> _Primary:
        for _ in range(100):
            # Looked at first: RocksDB would make the missing directory.
            if not (path / "CURRENT").is_file():
                raise StateMissing(f"no state at {path}: has a worker run? `streamkit worker` makes it")
            with suppress(FileNotFoundError):  # CURRENT has moved on meanwhile
                manifest = (path / "CURRENT").read_text(encoding="ascii").strip()
                identity = (path / "IDENTITY").read_bytes()
                newest = max(path.glob("*.log"), key=lambda log: int(log.stem), default=None)
                log, size = (newest.name, newest.stat().st_size) if newest else ("", 0)
                return cls(identity, manifest, (path / manifest).stat().st_size, log, size)
        raise StateError(f"state at {path} is damaged: its CURRENT names a manifest that is not there")

    def is_as(self, other: _Primary) -> bool:
        return self[:3] == other[:3]

    def is_another(self, opened: _Primary) -> bool:
        """Was it opened anew, or made anew?"""
        return self[:2] != opened[:2]


def _scan(db: Rdict, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
    # The iterator is made here, not at the first `next`: it is the snapshot.
    bounds = ReadOptions()
    bounds.set_iterate_upper_bound(end)
    return _holding(cast("Iterator[tuple[bytes, bytes]]", db.items(from_key=start, read_opt=bounds)), bounds)


def _holding(items: Iterator[tuple[bytes, bytes]], bounds: ReadOptions) -> Iterator[tuple[bytes, bytes]]:
    """The items, with their bounds kept alive: RocksDB reads the upper bound where it lies in `bounds`, and once that
    is freed and written over, a scan ends early (seen: the last of four entries was missing)."""
    yield from items
    del bounds


def _batch(write: Write, last: Sequence[tuple[bytes, bytes]]) -> WriteBatch:
    batch = WriteBatch(raw_mode=True)
    # RocksDB applies a batch in its order, so the order is Write's.
    for start, end in write.ranges:
        # A reversed range is refused only while it is applied, and then every later write fails too.
        if start < end:
            batch.delete_range(start, end)
    for key in write.deletes:
        batch.delete(key)
    # In the order of keys, so that each finds the way of the one before in the processor's cache: a quarter of the
    # time. The sort is stable: of several puts to a key the last remains the last.
    puts: list[tuple[bytes, bytes]] = sorted(write.puts, key=itemgetter(0))
    deque(starmap(batch.put, puts), maxlen=0)
    for packed in write.packed:
        deque(map(batch.put, packed.keys.tolist(), packed.values.tolist()), maxlen=0)
    deque(starmap(batch.put, last), maxlen=0)
    return batch


def _options(*, block_cache: int) -> Options:
    """Bounded memory: index and filters are in the block cache, and there are at most 3 write buffers."""
    table = BlockBasedOptions()
    table.set_block_cache(Cache(block_cache))
    table.set_block_size(16 * 1024)
    table.set_bloom_filter(10, False)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_bottommost_compression_type(DBCompressionType.zstd())
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_write_buffer_size(64 * MIB)
    options.set_max_write_buffer_number(3)
    # A key that is not there, as most of a View with many are, is found missing without a search.
    options.set_memtable_prefix_bloom_ratio(0.1)
    options.set_memtable_whole_key_filtering(True)
    options.set_max_total_wal_size(128 * MIB)
    # Twice the usual number: files that are taken in are smaller than a memtable, and a Filter spares most reads.
    options.set_level_zero_file_num_compaction_trigger(8)
    options.set_max_background_jobs(2)
    # A secondary must hold every file open, or the primary's compaction takes it away.
    options.set_max_open_files(-1)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(4 * MIB)
    return options
