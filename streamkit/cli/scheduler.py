"""`streamkit scheduler`: Views are recomputed by themselves, when they say."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Annotated, NamedTuple

import typer

from streamkit.cli.batch_history import moment
from streamkit.cli.batch_run import BatchRun, Wish
from streamkit.cli.options import ARCHIVE, BROKERS, CLIENT_CONFIG, DATA, TOPOLOGY, check_topics, err, load, open_log
from streamkit.cli.signals import asked_to_stop
from streamkit.control import History, Message
from streamkit.errors import BrokerUnreachable, DefinitionError, RunStopped, StateLocked, StreamkitError
from streamkit.log.base import Log
from streamkit.log.control import ControlTopic
from streamkit.log.leader import Leader
from streamkit.schedule import Due, next_run
from streamkit.topology import Topology
from streamkit.view import View

logger = logging.getLogger(__name__)
_TURN_SECONDS = 0.25
_LOCKED_MS = _JOIN_MS = _START_MS = 5_000
"""How long to leave a View alone that another run holds; to hear the group; and to give workers that start beside the
scheduler, to be there for the first run."""
ROLE = "scheduler"

Recompute = Callable[[View, Wish], object]


def scheduler(
    topology: TOPOLOGY,
    processes: Annotated[int | None, typer.Option(min=1, help="For each run.", show_default="all cores")] = None,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
    data: DATA = None,
    archive: ARCHIVE = None,
) -> None:
    """Recompute Views when they say, app.view(..., batch_every="1h", batch_full_every="1d"), until Ctrl-C or SIGTERM.

    Times are UTC: "1h" is on the hour. One run at a time; a run whose time passed while no scheduler ran is made up for
    at the start, once, however many were missed. A run that fails is tried again, later and later. Several schedulers
    may run, on one machine or on many with a shared --data folder: one acts, another takes over when it is gone.
    Stopped in the midst of a run, the next start goes on from its finished splits. What was run:
    `streamkit batch history`.

    Examples:  streamkit scheduler topologies/ad_clicks.py   |   streamkit scheduler app.py --processes 2
    """
    loaded, folder = load(topology, data)
    check_scheduled(loaded)
    with open_log(brokers, client_config) as log, asked_to_stop() as stop:
        check_topics(log, loaded, topology)

        def recompute(view: View, wish: Wish) -> object:
            return BatchRun(loaded, topology, view, log, folder, processes, archive=archive).recompute(wish)

        with closing(Scheduler(loaded, log, recompute)) as running:
            running.run(stop)
    err.print("stopped")


def check_scheduled(topology: Topology) -> None:
    """Raises DefinitionError where no View has a schedule."""
    if not any(view.schedule for view in topology.views.values()):
        raise DefinitionError(
            f"no view of topology {topology.name!r} says when it is to be recomputed: "
            f'app.view(..., batch_every="1h") has it done each hour'
        )


class Next(NamedTuple):
    """The run that is to be made next, of all Views'."""

    view: View
    due: Due


class Scheduler:
    """Does what is due, while it leads.

    What may go wrong between two of them, A and B. A begins a run and is stopped (SIGSTOP, a paused machine) for longer
    than its session; B leads, makes the run for that time, and publishes; A wakes. Before it publishes A asks the
    broker whether it leads still: it does not, and its run stops. If A is stopped just after it has asked, it publishes
    after all, and there are two BatchViews: each is exact at its own Cut, so no Answer is wrong. Should the later
    published have the earlier Cut, readers that find no Segments there go on with the other one, of the two that are
    kept, and workers read again from it. The history has both runs, and that is how it is told.
    """

    def __init__(
        self, topology: Topology, log: Log, recompute: Recompute, *, now: Callable[[], float] = time.time
    ) -> None:
        """`now` gives seconds since the epoch. Raises BrokerUnreachable."""
        self._topology, self._recompute, self._clock = topology, recompute, now
        self._control = ControlTopic(log, topology.name)
        self._history = History()
        self._leader = Leader(log, topology.name, ROLE)
        self._views = [view for view in topology.views.values() if view.schedule]
        self._locked: dict[str, int] = {}
        self._since: int | None = None
        self._told = ""
        self._began = self._now()

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def close(self) -> None:
        self._leader.leave()
        self._control.close()

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. What fails for want of a broker is tried again."""
        schedules = ", ".join(f"{view.name} {view.schedule}" for view in self._views)
        err.print(f"scheduler of {self._topology.name!r} runs: {schedules}", markup=False)
        while not stop.is_set():
            try:
                self.turn(stop)
            except BrokerUnreachable as away:
                self._tell(f"{away}; still trying")
                stop.wait(1.0)

    def turn(self, stop: threading.Event) -> None:
        """Do what is due now, or wait for a moment."""
        if not self._leader.poll(_TURN_SECONDS):
            self._since = None
            if self._now() - self._began > _JOIN_MS:  # so long it takes to hear the group at all
                self._tell("another scheduler leads: this one stands by")
            return
        if self._since is None:
            self._since = self._now()
            self._hear(self._control.catch_up())
        self._hear(self._control.poll())
        coming = self.coming()
        if coming.due.begin <= self._now():
            self._hear(self._control.catch_up())  # somebody may have done it by hand, just now
            coming = self.coming()
        if coming.due.begin > self._now():
            self._tell(f"next: view {coming.view.name}, {coming.due.kind}, at {moment(coming.due.begin)}")
            return
        self._begin(coming, stop)

    def coming(self) -> Next:
        """The run that is to be made next, as far as the history is known."""
        now, found = self._now(), []
        for view in self._views:
            assert view.schedule is not None
            due = next_run(view.schedule, self._history.of(view.name, view.fingerprint), now)
            found.append(Next(view, due.not_before(max(self._locked.get(view.name, 0), self._began + _START_MS))))
        return min(found, key=lambda one: (max(now, one.due.begin), one.due.at))

    def _hear(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._history.apply(message)

    def _begin(self, coming: Next, stop: threading.Event) -> None:
        view, due = coming
        trigger = due.trigger(self._since or 0)
        self._tell(f"view {view.name}: {due.kind} run, {trigger} for {moment(due.at)}{_missed(due)}")
        cancelled = threading.Event()

        def check() -> None:
            if cancelled.is_set():
                raise RunStopped("asked to stop; the next start goes on from the finished splits")

        def check_lead() -> None:
            check()
            if not self._leader.confirmed():
                raise RunStopped("this scheduler leads no more: another one has taken over")

        wish = Wish(due.kind, trigger, due.at, check=check, last_check=check_lead)
        failed: list[Exception] = []
        work = threading.Thread(target=self._work, args=(view, wish, failed), name=f"batch-{view.name}")
        work.start()
        while work.is_alive():
            if stop.is_set() or not self._leads():
                cancelled.set()
            work.join(_TURN_SECONDS if cancelled.is_set() else 0.0)
        self._tell_failure(view, failed)

    def _leads(self) -> bool:
        """Does this scheduler lead? While the broker is away, as far as is known."""
        try:
            return self._leader.poll(_TURN_SECONDS)
        except BrokerUnreachable:
            return self._leader.leads

    def _work(self, view: View, wish: Wish, failed: list[Exception]) -> None:
        try:
            self._recompute(view, wish)
        except Exception as error:  # the process goes on, whatever is wrong with one View
            failed.append(error)

    def _tell_failure(self, view: View, failed: list[Exception]) -> None:
        for error in failed:
            if isinstance(error, StateLocked):
                self._locked[view.name] = self._now() + _LOCKED_MS
            if isinstance(error, RunStopped):
                self._tell(f"view {view.name}: stopped before publication: {error}")
                continue
            if not isinstance(error, StreamkitError):
                logger.error("view %s: the run failed", view.name, exc_info=error)
            self._tell(f"view {view.name}: the run failed: {error}")

    def _tell(self, line: str) -> None:
        """Once, until there is something else to tell."""
        if line != self._told:
            self._told = line
            err.print(line, markup=False)


def _missed(due: Due) -> str:
    """
    >>> _missed(Due(0, 0, "full", passed=3))
    ', which makes up for 3 more that were missed'
    """
    return f", which makes up for {due.passed} more that were missed" if due.passed else ""
