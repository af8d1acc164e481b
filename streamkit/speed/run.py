"""The worker's loop: read, make a Checkpoint when it is time, begin again when fenced, stop when told or caught up."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress

import msgspec

from streamkit.changelog.state import unpack_mark
from streamkit.checkpoint import MARK_KEY, position_range, source_of, task_prefix
from streamkit.errors import BrokerUnreachable, Fenced, TopicMissing
from streamkit.interval import Measured, Observation, Pacer
from streamkit.log.base import Log
from streamkit.record import TopicPartition
from streamkit.speed.worker import Worker
from streamkit.store.base import Store
from streamkit.topology import Topology

logger = logging.getLogger(__name__)
_LISTEN_SECONDS = 0.05
_LOOK_SECONDS = 0.05
_POLL_SECONDS = 0.05
_CHECK_SECONDS = 1.0
_AWAY_SECONDS = 0.5
_WARN_SECONDS = 60.0
_BATCH = 20_000


class Run:
    """One worker's run: until `stop` is set, or, with `until_caught_up`, until the ends that the log had at the start.

    `make` makes the Worker, and another one when it was fenced, or when the broker had gone away and is back: what it
    had not committed is void, and the new one begins at its last Checkpoint. `began` is when this process did
    (`time.monotonic`). `on_checkpoint` is called after each Checkpoint, `on_turn` some times a second.
    """

    def __init__(
        self,
        make: Callable[[], Worker],
        pacer: Pacer,
        *,
        stop: threading.Event,
        began: float,
        until_caught_up: dict[TopicPartition, int] | None = None,
        on_checkpoint: Callable[[Worker], None] = lambda _: None,
        on_turn: Callable[[Worker], None] = lambda _: None,
    ) -> None:
        self._make, self._pacer, self._stop, self._ends = make, pacer, stop, until_caught_up
        self._on_checkpoint, self._on_turn = on_checkpoint, on_turn
        self._began = began
        self._made = self._started = False
        self._warned = float("-inf")
        self._looked = 0.0

    def run(self) -> None:
        """The last act is a Checkpoint, and leaving the group.

        Python's cyclic collector is off meanwhile: with it on, it walks over every record that is held and takes half
        of the time. What is garbage by cycles is collected after a Checkpoint, when hardly anything is held.
        """
        collecting = gc.isenabled()
        gc.disable()
        try:
            while not self._is_over():
                continue
        finally:
            if collecting:
                gc.enable()

    def _is_over(self) -> bool:
        """Work until the end; False where the worker was fenced, or the broker went away, and it is to begin again."""
        try:
            with closing(self._make()) as worker:
                self._made = True
                try:
                    self._loop(worker)
                    self._checkpoint(worker, 0.0, 0, 0.0)
                except Fenced as fenced:
                    logger.warning("%s", fenced)
                    return False
        except BrokerUnreachable as away:
            if not self._made:  # a wrong address is told at once
                raise
            logger.warning("%s; still trying", away)
            return self._stop.wait(_AWAY_SECONDS)
        return True

    def _loop(self, worker: Worker) -> None:
        last = time.monotonic()
        listened, checked, records = last, last, 0
        while not self._stop.is_set() and not self._done(worker):
            records += worker.step(_BATCH, self._patience(last, records))
            now = time.monotonic()
            if not self._started and worker.tasks():
                self._started = True
                self._pacer.started(now - self._began)
                self._pacer.restored(*worker.restored())
            if now - listened >= _LISTEN_SECONDS:
                worker.listen()
                self._on_turn(worker)
                listened = now
            if now - checked >= _CHECK_SECONDS:
                worker.check()  # no record tells that its topic was deleted, nor does the group
                checked = now
            if worker.asked() or ((records or worker.moved()) and self._pacer.due(now - last, records)):
                self._checkpoint(worker, now - last, records, worker.take_busy())
                last, records = time.monotonic(), 0

    def _patience(self, last: float, records: int) -> float:
        """How long to wait for records: what was read is not to wait with them for longer than its Checkpoint."""
        if not records:
            return _POLL_SECONDS
        return min(_POLL_SECONDS, max(0.0, last + self._pacer.interval - time.monotonic()))

    def _checkpoint(self, worker: Worker, since: float, records: int, busy: float) -> None:
        worker.measured = msgspec.msgpack.encode(self._pacer.measured)
        begin = time.monotonic()
        worker.settle()
        settled = time.monotonic()
        worker.commit()
        worker.write()
        worker.report()
        seconds, busy = time.monotonic() - settled, busy + settled - begin
        if records:
            arrived = worker.take_arrived() if self._pacer.pace.recovery is not None else None
            seen = Observation(since, seconds, records, busy, worker.changed, worker.changed_bytes, arrived)
            self._pacer.observe(seen)
        if self._pacer.warning and begin - self._warned > _WARN_SECONDS:
            logger.warning("topology %r: %s", worker.topology.name, self._pacer.warning)
            self._warned = begin
        self._on_checkpoint(worker)
        gc.collect(1)

    def _done(self, worker: Worker) -> bool:
        if self._ends is None or not worker.is_through(self._ends):
            return False
        now = time.monotonic()  # the group is asked only now and then
        if now - self._looked < _LOOK_SECONDS:
            return False
        self._looked = now
        return worker.reached(self._ends)


def ends_of(topology: Topology, log: Log) -> dict[TopicPartition, int]:
    """The log's ends as they are now, of all that a topology's Views and Agents read."""
    ends = {TopicPartition(t, p): end for t in topology.sources() for p, end in log.ends(t).items()}
    for topic in topology.sources().values():
        with suppress(TopicMissing):
            ends |= {TopicPartition(topic.replays, p): end for p, end in log.ends(topic.replays).items()}
    return ends


def last_measured(store: Store, worker: str) -> Measured | None:
    """What this worker's last life has measured, as its store has it; None where there is nothing."""
    newest: tuple[int, Measured | None] = (-1, None)
    for at, _ in store.scan(*position_range()):
        task = source_of(at)
        found = store.get([task_prefix(task) + MARK_KEY])[0]
        mark = None if found is None else unpack_mark(found, task)
        if mark is not None and mark.worker == worker and mark.measured and mark.time > newest[0]:
            newest = mark.time, msgspec.msgpack.decode(mark.measured, type=Measured)
    return newest[1]
