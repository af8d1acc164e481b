"""The local Runner: a Plan's Splits over all cores of this machine.

    plan.json                   written first: a run that is killed goes on with the same Cut
    splits/P-START-END.parquet  one a Split, states by Slot; a Split whose file is there is done
    ID/part-00000.parquet       the result, merged by bucket

Only the manifest on the control topic, which `batch.publish` writes, makes a result a BatchView.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from streamkit.batch.plan import Plan, Split
from streamkit.checkpoint import slot_of
from streamkit.control import File
from streamkit.decode import Decoded, Decoder, Rejected
from streamkit.errors import BadRecord, OffsetOutOfRange, StateLocked, TopicChanged
from streamkit.fold import FOLD_ROWS, Fold, States, fields_of
from streamkit.log.base import Log
from streamkit.log.kafka import KafkaLog
from streamkit.record import TopicPartition
from streamkit.settings import Connection
from streamkit.store.batchfile import (
    COUNTS,
    bucket_count,
    read_counts,
    read_partial,
    write_bucket,
    write_partial,
)
from streamkit.topology import load_topology
from streamkit.view import View

B = TypeVar("B")

_POLL = 50_000


@dataclass(frozen=True)
class Progress:
    """How far a run is; `records` are offsets read of `total`."""

    records: int
    total: int
    splits: int
    all_splits: int
    rejected: int


@dataclass(frozen=True)
class Result:
    """A finished recomputation, not yet published."""

    plan: Plan
    id: str
    files: tuple[File, ...]
    slots: int
    events: int
    rejected: int
    seconds: float


class Tasks:
    """What runs for one View, wherever it runs: fold one Split, merge one bucket."""

    def __init__(self, log: Log, view: View, folder: Path) -> None:
        self._log, self._view, self._folder = log, view, folder
        self._fold = Fold(view)
        self._decode = Decoder(view.topic, fields_of(view))

    def fold(self, split: Split) -> Split:
        """Read the Split's records and write its states."""
        states: dict[int, States] = {}
        counts = dict.fromkeys(COUNTS, 0)
        for batches, rejected in self._read(split):
            found, bad = self._fold.states(batches) if batches else ({}, [])
            self._fold.merge_into(states, found)
            counts["rejected"] += len(rejected) + len(bad)
            counts["events"] += sum(map(len, batches)) - len(bad)
            self._check_policy([*rejected, *bad])
        merged = self._fold.merge_slots(states.get(split.partition, {}).items())
        counts["slots"] = len(merged)
        write_partial(split_file(self._folder, split), self._fold, merged, counts)
        return split

    def merge(self, splits: Iterable[Split], bucket: int, buckets: int, result: str) -> File:
        """Merge one bucket of all Splits into a file of the result."""
        parts = (
            (slot_of(slot), self._fold.load(state))
            for split in splits
            for slot, state in read_partial(split_file(self._folder, split), bucket, buckets)
        )
        states = self._fold.merge_slots(parts)
        path = self._folder / result / f"part-{bucket:05}.parquet"
        file = write_bucket(path, self._view, self._fold, states)
        return msgspec.structs.replace(file, path=f"{result}/{file.path}")

    def _read(self, split: Split) -> Iterator[tuple[list[Decoded], list[Rejected]]]:
        """The Split's values, many at a time."""
        source = TopicPartition(self._view.topic.name, split.partition)
        with contextlib.closing(self._log.reader({source: split.start})) as reader:
            batches: list[Decoded] = []
            rejected: list[Rejected] = []
            while reader.positions()[source] < split.end:
                for chunk in reader.poll(_POLL, 1.0):
                    decoded, bad = self._decode(chunk)
                    inside = decoded.before(split.end)
                    batches += [inside] if len(inside) else []
                    rejected += [r for r in bad if r.offset < split.end]
                if sum(map(len, batches)) >= FOLD_ROWS:
                    yield batches, rejected
                    batches, rejected = [], []
            yield batches, rejected

    def _check_policy(self, rejected: list[Rejected]) -> None:
        """The speed layer has dead-lettered or counted them; only `fail` concerns the batch layer."""
        if rejected and self._view.topic.errors == "fail":
            first = rejected[0]
            raise BadRecord(*first.source, first.offset, f"{first.reason} (error policy `fail`)")


class Pool(Protocol):
    """Where Tasks run."""

    def fold(self, splits: list[Split]) -> Iterator[Split]:
        """Yields the Splits as they are done."""

    def merge(self, splits: list[Split], buckets: int, result: str) -> list[File]: ...


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

    def fold(self, splits: list[Split]) -> Iterator[Split]:
        return self._map(_fold, [(split,) for split in splits])

    def merge(self, splits: list[Split], buckets: int, result: str) -> list[File]:
        files = self._map(_merge, [(splits, bucket, buckets, result) for bucket in range(buckets)])
        return sorted(files, key=lambda file: file.path)

    def _map(self, function: Callable[..., B], arguments: list[tuple[Any, ...]]) -> Iterator[B]:
        """As they are done. Left early (Ctrl-C, an error) it waits for what is running: seconds, and none is lost."""
        executor = ProcessPoolExecutor(
            min(self.processes, len(arguments)) or 1,
            mp_context=get_context("spawn"),
            initializer=_start,
            initargs=(self.topology, self.view, self.connection, self.folder),
        )
        try:
            for done in as_completed([executor.submit(function, *a) for a in arguments]):
                yield done.result()
        finally:
            executor.shutdown(cancel_futures=True)


_tasks: Tasks | None = None


def _start(topology: str, view: str, connection: Connection, folder: Path) -> None:
    global _tasks
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent tells us when to stop
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _tasks = Tasks(KafkaLog(connection), load_topology(topology).find_view(view), folder)


def _leave_with_parent() -> None:
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


class LocalRunner:
    """Runs the Plans of one View in `folder`; one run at a time."""

    def __init__(self, log: Log, view: View, folder: Path) -> None:
        self._log, self._view, self._folder = log, view, folder

    def unfinished(self) -> Plan | None:
        """The Plan of a run that was killed, if it is still of this definition and this topic."""
        path = self._folder / "plan.json"
        if not path.exists():
            return None
        plan = msgspec.json.decode(path.read_bytes(), type=Plan)
        same = plan.fingerprint == self._view.fingerprint
        return plan if same and plan.topic_id == self._log.describe(plan.topic).id else None

    def run(self, plan: Plan, pool: Pool, *, on_progress: Callable[[Progress], None] = lambda _: None) -> Result:
        """Do the Plan in `pool`, going on from the Splits that are done.

        Raises BadRecord, TopicChanged, OffsetOutOfRange, and StateLocked where another run is under way.
        """
        began = time.monotonic()
        with self._alone():
            self._begin(plan)
            splits = plan.splits()
            self._fold(plan, splits, pool, on_progress)
            counts = [read_counts(split_file(self._folder, split)) for split in splits]
            slots, events, rejected = (sum(c[name] for c in counts) for name in COUNTS)
            result = f"{time.time_ns():x}"
            files = pool.merge(splits, bucket_count(slots), result) if splits else []
            slots = sum(file.rows for file in files)
            return Result(plan, result, tuple(files), slots, events, rejected, time.monotonic() - began)

    def finish(self) -> None:
        """Drop what only an unfinished run needs; comes after the publication."""
        (self._folder / "plan.json").unlink(missing_ok=True)
        shutil.rmtree(self._folder / "splits", ignore_errors=True)

    def _begin(self, plan: Plan) -> None:
        topic_id = self._log.describe(plan.topic).id
        if topic_id != plan.topic_id:
            raise TopicChanged(f"topic {plan.topic!r} was deleted and made again (id {topic_id}, Cut {plan.topic_id})")
        for partition, end in self._log.ends(plan.topic).items():
            if plan.offsets.get(partition, 0) > end:  # it would wait for ever for records that nobody sends
                raise OffsetOutOfRange(
                    f"{plan.topic}/{partition}: the Cut {plan.offsets[partition]} of view {plan.view!r} is beyond the "
                    f"log's end {end}: was the log truncated? `streamkit reset TOPOLOGY {plan.view}` begins anew"
                )
        path = self._folder / "plan.json"
        if path.exists() and msgspec.json.decode(path.read_bytes(), type=Plan) == plan:
            return
        self.finish()
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.encode(plan))
        temporary.replace(path)

    def _fold(self, plan: Plan, splits: list[Split], pool: Pool, on_progress: Callable[[Progress], None]) -> None:
        left = [s for s in splits if not split_file(self._folder, s).exists()]
        done = [s for s in splits if s not in set(left)]

        def tell() -> None:
            rejected = sum(read_counts(split_file(self._folder, s))["rejected"] for s in done)
            on_progress(Progress(sum(s.end - s.start for s in done), plan.records, len(done), len(splits), rejected))

        tell()
        for split in pool.fold(left):
            done.append(split)
            tell()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise StateLocked(
                    f"another batch run of view {self._view.name!r} is under way (pid {lock.read().strip() or '?'}) "
                    f"in {self._folder}; wait for it, or stop it"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield


def split_file(folder: Path, split: Split) -> Path:
    return folder / "splits" / f"{split.name}.parquet"
