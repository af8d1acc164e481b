"""What one task of a job does, wherever it runs: reduce what the stage before has shuffled, map, and pass rows on.

A job of n steps has n + 1 stages: the first maps the input; each after it reduces the step before and maps the next, in
one go; the last reduces. What lies between two stages is the shuffle alone. Where rows come from and go to is the
runner's to say: see `Ports`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from streamkit.batch.mapreduce import columns as frames
from streamkit.batch.mapreduce.outputs import FramePart, Part, check_output, frame_part, part
from streamkit.batch.mapreduce.pairs import Pairs
from streamkit.batch.mapreduce.records import Mapper, Pair, Shuffled, reduced
from streamkit.batch.mapreduce.shuffle import Waiting
from streamkit.batch.mapreduce.source import Batch
from streamkit.batch.mapreduce.task import Done, TaskContext
from streamkit.decode import Rejected
from streamkit.errors import BadRecord, DefinitionError
from streamkit.mapreduce import MAIN, MapReduce, Step, To
from streamkit.topic import Topic

PAIRS = 1_000
"""Reduced pairs that are passed on together."""

Rejecting = Callable[[Topic, list[Rejected]], None]


@dataclass(frozen=True)
class Ports:
    """What a task reads and writes.

    `batches` are the values of the first stage's input; it is given what is to be told of records that are none.
    `rows(order)` are those of this task's partition, sorted, in later stages. `shuffle(order, rows)` takes rows for the
    next stage, in no order. `target(output)` is where the Parquet of an output goes.
    """

    batches: Callable[[Rejecting], Iterator[Batch]]
    rows: Callable[[Sequence[str]], Iterator[pl.DataFrame]]
    shuffle: Callable[[Sequence[str], pl.DataFrame], None]
    target: Callable[[str], Path | io.BytesIO]


class Work:
    """One try of one task. `memory` is what its data may take, in bytes."""

    def __init__(
        self, job: MapReduce, stage: int, partitions: int, memory: int, counters: Mapping[str, int], ports: Ports
    ) -> None:
        self._job, self._partitions, self._memory, self._ports = job, partitions, memory, ports
        self._context = TaskContext(job.files, counters)
        steps = job.make()  # of a class: an instance of its own
        self._before: Step | None = steps[stage - 1] if stage else None
        self._step: Step | None = steps[stage] if stage < len(steps) else None
        self._parts: dict[str, Part | FramePart] = {}
        self._waiting: Waiting | None = None

    def go(self) -> Iterator[None]:
        """Do it; comes back now and then, as what is passed on may have to go on at once."""
        yield from self._columns() if self._job.batches else self._records()
        if self._waiting is not None:
            self._waiting.close()

    def finish(self) -> Done:
        """Close the outputs; what has been counted."""
        done = self._context.done
        if self._waiting is not None:
            done.shuffled = self._waiting.rows
        for output, written in self._parts.items():
            written.close()
            done.rows[output] = written.rows
        return done

    # -- records ------------------------------------------------------------------------------------------------------

    def _records(self) -> Iterator[None]:
        shuffled = self._shuffled()
        emit = shuffled.emit if shuffled is not None else self._result_pairs
        if self._before is None:
            assert self._step is not None
            mapper = Mapper(self._step, self._context, emit, self._aside, self._job.skip)
            for batch in self._batches():
                mapper.feed(batch.objects, batch.where)
                yield
        else:
            yield from self._reduce_records(self._before, emit)
        if shuffled is not None:
            shuffled.close()

    def _reduce_records(self, before: Step, emit: Callable[[list[Pair]], None]) -> Iterator[None]:
        step, served, last = self._step, self._job.served and self._step is None, None
        if step is not None and step.map is not None:
            emit = Mapper(step, self._context, emit, self._aside, 0).pairs
        pairs, made = Pairs(before, self._partitions), list[Pair]()
        for key, pair in reduced(before, pairs, self._context, self._ports.rows(pairs.order)):
            if isinstance(pair, To):
                self._aside(pair)
                continue
            if served:
                _check_served(key, pair, last)
                last = (key,)
            made.append(pair)
            if len(made) == PAIRS:
                emit(made)
                made = []
                yield
        emit(made)
        yield

    def _shuffled(self) -> Shuffled | None:
        """None where the pairs are the result."""
        step = self._step
        if step is None or step.reduce is None:
            return None
        pairs = Pairs(step, self._partitions)
        return Shuffled(step, pairs, self._context, self._wait(pairs.order).add, self._memory)

    def _result_pairs(self, pairs: list[Pair]) -> None:
        self._part(MAIN).extend(pairs)

    def _aside(self, pair: To) -> None:
        self._part(pair.output).add(pair.key, pair.value)

    def _part(self, output: str) -> Part:
        if output not in self._parts:
            check_output(self._job, output)
            self._parts[output] = part(self._job, output, self._ports.target(output))
        found = self._parts[output]
        assert isinstance(found, Part)
        return found

    # -- columns ------------------------------------------------------------------------------------------------------

    def _columns(self) -> Iterator[None]:
        step = self._step
        for frame in self._incoming():
            if step is None:
                self._result(frame)
            else:
                for mapped in (frame,) if step.map is None else frames.call("map", step.map, self._context, frame):
                    self._result(mapped) if step.reduce is None else self._spread(step, mapped)
            yield

    def _incoming(self) -> Iterator[pl.DataFrame]:
        before = self._before
        if before is None:
            for batch in self._batches():
                self._context.where = f"{batch.where(0)} to {batch.where(len(batch) - 1)}"
                yield batch.frame()
            return
        assert before.reduce is not None
        for whole in frames.whole_keys(before, self._ports.rows(frames.order_of(before)), self._context):
            self._context.where = f"keys {whole.select(before.keys).row(0)} to {whole.select(before.keys).row(-1)}"
            yield from frames.call("reduce", before.reduce, self._context, whole)

    def _spread(self, step: Step, frame: pl.DataFrame) -> None:
        placed = frames.placed(step, frame, self._partitions)
        if self._waiting is None:
            self._wait(frames.order_of(step), frames.combiner(step, self._context, self._partitions))
        assert self._waiting is not None
        self._waiting.add(placed)

    def _result(self, frame: pl.DataFrame) -> None:
        if MAIN not in self._parts:
            self._parts[MAIN] = frame_part(self._job, MAIN, self._ports.target(MAIN))
        found = self._parts[MAIN]
        assert isinstance(found, FramePart)
        found.add(frame)

    # -- both ---------------------------------------------------------------------------------------------------------

    def _batches(self) -> Iterator[Batch]:
        for batch in self._ports.batches(self._rejected):
            self._context.done.records += len(batch)
            yield batch

    def _rejected(self, topic: Topic, rejected: list[Rejected]) -> None:
        """The speed layer has dead-lettered or counted them; only `fail` concerns the batch layer."""
        if topic.errors == "fail":
            first = rejected[0]
            raise BadRecord(*first.source, first.offset, f"{first.reason} (error policy `fail`)")
        self._context.done.rejected += len(rejected)

    def _wait(self, order: list[str], combine: Any = None) -> Waiting:
        # What sorts the rows holds them twice, and what writes them once more.
        self._waiting = Waiting(self._memory // 6, lambda rows: self._ports.shuffle(order, rows), combine)
        return self._waiting


def _check_served(key: Any, made: tuple[Any, Any], last: tuple[Any] | None) -> None:
    if made[0] != key or type(made[0]) is not type(key):
        raise DefinitionError(
            f"served=True: reduce must yield the key that it was given, {key!r}, and yielded {made[0]!r}; "
            f"add a Step that groups by it"
        )
    if last is not None and last[0] == key and type(last[0]) is type(key):
        raise DefinitionError(f"served=True: reduce must yield one pair a key, and yielded several for {key!r}")
