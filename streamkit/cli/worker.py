"""`streamkit worker`: the speed layer."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from streamkit.cli.options import BROKERS, CLIENT_CONFIG, DATA, TOPOLOGY, check_topics, err, load, open_log
from streamkit.cli.signals import asked_to_stop
from streamkit.cli.supervise import supervise
from streamkit.errors import DefinitionError
from streamkit.interval import Pace, Pacer, parse_duration, show_seconds
from streamkit.record import TopicPartition
from streamkit.speed.run import Run, ends_of, last_measured
from streamkit.speed.worker import Worker
from streamkit.store.rocksdb import RocksStore


def worker(
    topology: TOPOLOGY,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the partitions.")] = 1,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
    data: DATA = None,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="Stop at the offsets that are the log's end at the start.")
    ] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Time between Checkpoints: 1s, 500ms. Instead of what the topology says.", show_default="1s"),
    ] = None,
    recovery: Annotated[
        str | None,
        typer.Option(
            help="How long a killed worker may take until it has caught up: the worker sets the time between "
            "Checkpoints by it. Instead of what the topology says.",
            show_default=False,
        ),
    ] = None,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take over state that a topology of this name in another file wrote.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress lines.")] = False,
) -> None:
    """Run a topology's Views and Agents until Ctrl-C or SIGTERM, which make a last Checkpoint and leave.

    Killed at any moment and started again, it goes on from its last Checkpoint. Workers share the partitions, on one
    machine or on many: start another, and it takes its share; whichever is killed, the others take over.

    Under load records are read without a Python object for each (needs numba; STREAMKIT_COLUMNS=off does without), and
    without librdkafka where no TLS and no SASL is between (STREAMKIT_DIRECT=off never).

    Examples:  streamkit worker app.py --workers 2   |   streamkit worker app.py --until-caught-up
    """
    pace = _pace(checkpoint, recovery)
    if workers > 1:
        sys.exit(supervise(workers))
    began = time.monotonic() - time.process_time()  # imports take most of a start, and hardly wait for anything
    loaded, folder = load(topology, data)
    with open_log(brokers, client_config) as log, asked_to_stop() as stop, contextlib.ExitStack() as closers:
        check_topics(log, loaded, topology)
        source = str(Path(topology.partition(":")[0]).resolve()) if ".py" in topology else topology
        slot = closers.enter_context(folder.claim(source, adopt=adopt))
        store = closers.enter_context(contextlib.closing(RocksStore.open(slot.state)))
        ends = ends_of(loaded, log)
        progress = _Progress(quiet)
        if not quiet:
            err.print(f"worker of {loaded.name!r} runs (state {slot.state})")
            if until_caught_up and not any(ends.values()):
                err.print(f"all topics of {loaded.name!r} are empty: nothing to catch up with")

        pacer = Pacer(pace or loaded.pace, measured=last_measured(store, slot.name))
        Run(
            lambda: progress.of(Worker(loaded, log, store, name=slot.name)),
            pacer,
            stop=stop,
            began=began,
            until_caught_up=ends if until_caught_up else None,
            on_checkpoint=progress.tell,
            on_turn=progress.tell_of_tasks,
        ).run()
        progress.last()


def _pace(checkpoint: str | None, recovery: str | None) -> Pace | None:
    """What the options ask for; None where they say nothing. Raises DefinitionError."""
    if checkpoint is None and recovery is None:
        return None
    if checkpoint is not None and recovery is not None:
        raise DefinitionError("--checkpoint fixes the time between Checkpoints, --recovery sets it: give one of them")
    if checkpoint is not None:
        return Pace(fixed=parse_duration(checkpoint))
    return Pace(recovery=parse_duration(recovery or ""))


class _Progress:
    """A line every two seconds while records come or state is restored, and one at the end."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._began = self._told = time.monotonic()
        self._events = self._before = self._checkpoints = 0
        self._tasks: frozenset[TopicPartition] = frozenset()
        self._worker: Worker | None = None

    def of(self, worker: Worker) -> Worker:
        """Counts go on where the worker was fenced and made anew."""
        if self._worker is not None:
            self._before += self._worker.counters.events
            self._checkpoints += self._worker.counters.checkpoints
        self._worker = worker
        return worker

    def tell(self, worker: Worker) -> None:
        now, events = time.monotonic(), self._before + worker.counters.events
        if self._quiet or now - self._told < 2 or self._events == events:
            return
        rate = (events - self._events) / (now - self._told)
        self._told, self._events = now, events
        err.print(f"{self._counts(worker)}, {rate:,.0f} events/s")

    def tell_of_tasks(self, worker: Worker) -> None:
        """What is given to this worker, and how far it is restored."""
        if self._quiet:
            return
        restoring = worker.restoring()
        if restoring is not None and time.monotonic() - self._told >= 2 and restoring.total:
            self._told = time.monotonic()
            left = "" if restoring.left is None else f", {show_seconds(restoring.left)} left"
            err.print(
                f"restoring {restoring.tasks} partitions: {restoring.done:,} of {restoring.total:,} changelog records "
                f"({restoring.done / restoring.total:.0%}){left}"
            )
        if worker.tasks() != self._tasks and restoring is None:
            self._tasks = worker.tasks()
            mine = ", ".join(map(str, sorted(worker.tasks()))) or "none: others have them all"
            waiting = sum(end - worker.positions().get(s, end) for s, end in worker.ends().items())
            err.print(f"partitions of this worker: {mine}; {waiting:,} records wait")

    def last(self) -> None:
        if not self._quiet and self._worker is not None:
            seconds = time.monotonic() - self._began
            count = self._checkpoints + self._worker.counters.checkpoints
            err.print(f"{self._counts(self._worker)} in {seconds:.1f} s; {count} Checkpoints; left")

    def _counts(self, worker: Worker) -> str:
        counters = worker.counters
        extra = "".join(
            f", {count:,} {name}"
            for name, count in (
                ("sent by agents", counters.emitted),
                ("rejected", counters.rejected),
                ("failed in agents", counters.failed),
            )
            if count
        )
        return f"{self._before + counters.events:,} events{extra}"
