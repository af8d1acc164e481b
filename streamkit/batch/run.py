"""A run of a Plan: what it leaves on disk, so that a killed one goes on, and how far it is.

    plan.json                   written first: a run that is killed goes on with the same Cut, from the same base
    splits/P-START-END.parquet  one a Split, states by Slot; a Split whose file is there is done
    ID/part-00000.parquet       the result, merged by bucket
    ID-before/part-...          the result at the Cut of the BatchView before, where it is compared with that one

Only the manifest on the control topic, which `batch.publish` writes, makes a result a BatchView.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from streamkit.batch.lock import alone
from streamkit.batch.plan import Plan, Split, plan_file, read_plan
from streamkit.batch.tasks import split_file
from streamkit.control import File
from streamkit.errors import OffsetOutOfRange, TopicChanged
from streamkit.log.base import Log
from streamkit.store.batchfile import COUNTS, bucket_count, read_counts, read_population
from streamkit.store.population import Population
from streamkit.view import View


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


@dataclass(frozen=True)
class Computed:
    """What a Runner has made of a Plan, already in its files."""

    files: tuple[File, ...]
    events: int
    rejected: int


Tell = Callable[[Progress], None]


class Runner(Protocol):
    """Where Tasks run, Split by Split: what is done stays, so that a killed run goes on."""

    def fold(self, splits: list[Split]) -> Iterator[Split]:
        """Yields the Splits as they are done."""

    def merge(self, splits: list[Split], buckets: int, result: str) -> list[File]: ...


@runtime_checkable
class Engine(Protocol):
    """Computes a Plan as a whole, with means of its own against what fails meanwhile: Spark."""

    def compute(self, plan: Plan, result: str, on_progress: Tell) -> Computed:
        """Put the files into the folder `result` of the run's own."""


class Run:
    """Runs the Plans of one View in `folder`; one run at a time."""

    def __init__(self, log: Log, view: View, folder: Path) -> None:
        self._log, self._view, self._folder = log, view, folder
        self._holds = False

    def unfinished(self) -> Plan | None:
        """The Plan of a run that was killed, if it is still of this definition and this topic."""
        plan = read_plan(self._folder)
        if plan is None:
            return None
        same = plan.fingerprint == self._view.fingerprint
        return plan if same and plan.topic_id == self._log.describe(plan.topic).id else None

    def run(self, plan: Plan, runner: Runner | Engine, *, on_progress: Tell = lambda _: None) -> Result:
        """Do the Plan in `runner`, going on from the Splits that are done where it goes by Splits.

        Raises BadRecord, TopicChanged, OffsetOutOfRange, and StateLocked where another run is under way.
        """
        began = time.monotonic()
        with self.alone():
            self._begin(plan)
            result = f"{time.time_ns():x}"
            compute = runner.compute if isinstance(runner, Engine) else partial(self._by_splits, runner)
            made = compute(plan, result, on_progress)
            slots, seconds = sum(file.rows for file in made.files), time.monotonic() - began
            return Result(plan, result, made.files, slots, made.events, made.rejected, seconds)

    def merge_before(self, result: Result, runner: Runner) -> tuple[File, ...]:
        """What a full run that is not finished yet has at the Cut of the BatchView before; nothing is read again."""
        splits = result.plan.splits_before()
        slots = Population.union(read_population(split_file(self._folder, split)) for split in splits).estimate
        return tuple(runner.merge(splits, bucket_count(slots), f"{result.id}-before")) if splits else ()

    def finish(self) -> None:
        """Drop what only an unfinished run needs; comes after the publication."""
        plan_file(self._folder).unlink(missing_ok=True)
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
        path = plan_file(self._folder)
        if read_plan(self._folder) == plan:
            return
        self.finish()
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.encode(plan))
        temporary.replace(path)

    def _by_splits(self, runner: Runner, plan: Plan, result: str, on_progress: Tell) -> Computed:
        splits = plan.splits()
        self._fold(plan, splits, runner, on_progress)
        done = [split_file(self._folder, split) for split in splits]
        counts = [read_counts(path) for path in done]
        events, rejected = (sum(c[name] for c in counts) for name in COUNTS)
        slots, base = Population.union(map(read_population, done)).estimate, plan.base
        if base is not None:
            slots, events, rejected = slots + base.slots, events + base.events, rejected + base.rejected
        files = runner.merge(splits, bucket_count(slots), result) if splits or base else []
        return Computed(tuple(files), events, rejected)

    def _fold(self, plan: Plan, splits: list[Split], runner: Runner, on_progress: Tell) -> None:
        left = [s for s in splits if not split_file(self._folder, s).exists()]
        done = [s for s in splits if s not in set(left)]

        def tell() -> None:
            rejected = sum(read_counts(split_file(self._folder, s))["rejected"] for s in done)
            on_progress(Progress(sum(s.end - s.start for s in done), plan.records, len(done), len(splits), rejected))

        tell()
        for split in runner.fold(left):
            done.append(split)
            tell()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the View's folder; may be entered again within. Raises StateLocked where another run holds it."""
        if self._holds:
            yield
            return
        with alone(self._folder, f"the batch of view {self._view.name!r}"):
            self._holds = True
            try:
                yield
            finally:
                self._holds = False
