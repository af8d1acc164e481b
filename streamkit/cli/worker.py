"""`streamkit worker`: the speed layer."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from streamkit.cli.options import BROKERS, CLIENT_CONFIG, DATA, TOPOLOGY, check_topics, err, load, open_log
from streamkit.cli.signals import asked_to_stop
from streamkit.errors import StateError
from streamkit.folder import DataFolder
from streamkit.speed.run import run
from streamkit.speed.worker import Worker
from streamkit.store.rocksdb import RocksStore


def worker(
    topology: TOPOLOGY,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
    data: DATA = None,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="Stop at the offsets that are the log's end at the start.")
    ] = False,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0.01, help="Seconds between Checkpoints: what a crash makes the worker read again.")
    ] = 1.0,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take over state that a topology of this name in another file wrote.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress lines.")] = False,
) -> None:
    """Run a topology's Views and Agents until Ctrl-C or SIGTERM, which make a last Checkpoint and leave.

    Killed at any moment and started again, it goes on from its last Checkpoint: Views count every record once.

    Examples:  streamkit worker topologies/ad_clicks.py   |   streamkit worker app.py --until-caught-up
    """
    loaded, folder = load(topology, data)
    with open_log(brokers, client_config) as log, asked_to_stop() as stop, contextlib.ExitStack() as closers:
        check_topics(log, loaded, topology)
        folder.state.parent.mkdir(parents=True, exist_ok=True)
        store = closers.enter_context(contextlib.closing(RocksStore.open(folder.state)))
        closers.enter_context(_note(folder, topology, adopt=adopt))
        running = closers.enter_context(contextlib.closing(Worker(loaded, log, store)))
        ends = running.ends()
        progress = _Progress(running, quiet)
        if not quiet:
            waiting = sum(end - running.positions()[source] for source, end in ends.items())
            err.print(f"worker of {loaded.name!r} runs (state {folder.state}); {waiting:,} records wait")
            if until_caught_up and not any(ends.values()):
                err.print(f"all topics of {loaded.name!r} are empty: nothing to catch up with")
        run(
            running,
            stop=stop,
            checkpoint_seconds=checkpoint_seconds,
            until_caught_up=until_caught_up,
            on_checkpoint=progress.tell,
        )
        progress.last()


class _Progress:
    """A line every two seconds while records come, and one at the end."""

    def __init__(self, worker: Worker, quiet: bool) -> None:
        self._worker, self._quiet = worker, quiet
        self._began = self._told = time.monotonic()
        self._events = 0

    def tell(self, worker: Worker) -> None:
        now = time.monotonic()
        if self._quiet or now - self._told < 2 or self._events == worker.counters.events:
            return
        rate = (worker.counters.events - self._events) / (now - self._told)
        self._told, self._events = now, worker.counters.events
        err.print(f"{self._counts()}, {rate:,.0f} events/s")

    def last(self) -> None:
        if not self._quiet:
            seconds = time.monotonic() - self._began
            err.print(f"{self._counts()} in {seconds:.1f} s; {self._worker.counters.checkpoints} Checkpoints; left")

    def _counts(self) -> str:
        counters = self._worker.counters
        extra = "".join(
            f", {count:,} {name}"
            for name, count in (
                ("sent by agents", counters.emitted),
                ("rejected", counters.rejected),
                ("failed in agents", counters.failed),
            )
            if count
        )
        return f"{counters.events:,} events{extra}"


@contextlib.contextmanager
def _note(folder: DataFolder, topology: str, *, adopt: bool) -> Iterator[None]:
    """Who works here, for people and for the error message of whoever comes second; held while the store is."""
    source = str(Path(topology.partition(":")[0]).resolve()) if ".py" in topology else topology
    before = json.loads(folder.worker.read_text() or "{}") if folder.worker.exists() else {}
    if before.get("topology", source) != source and not adopt:
        raise StateError(
            f"the state in {folder.state} was written by another topology named {folder.topology!r}: that of "
            f"{before['topology']}, this one is {source}. Rename one of them, or give this one another --data folder; "
            f"if the file has only moved: --adopt"
        )
    started = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    note = {"topology": source, "pid": os.getpid(), "started": started}
    with folder.worker.open("a+") as file:
        # Not what keeps a second worker out (the store's own lock does, and we hold that): it tells `batch` and
        # `verify` whether there is anybody to wait for. A look takes it for microseconds, so wait for it.
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(json.dumps(note))
        file.flush()
        yield
