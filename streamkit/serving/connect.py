"""`streamkit.connect`: the merge as a library call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from streamkit.changelog.changelogs import Changelogs, existing
from streamkit.changelog.follower import Restoring
from streamkit.errors import StateLocked
from streamkit.folder import DataFolder
from streamkit.log.base import Log
from streamkit.log.kafka import KafkaLog
from streamkit.serving.copies import Copies, LocalStores
from streamkit.serving.merge import Serving
from streamkit.serving.replica import Replica, catch_up_once
from streamkit.serving.results import Results
from streamkit.settings import Connection
from streamkit.topology import Topology
from streamkit.view import Answer, View

_PATIENCE = 1.0


@contextmanager
def connect(
    topology: Topology,
    *,
    brokers: str | None = None,
    data: Path | str | None = None,
    client_config: Path | str | None = None,
    stale_seconds: float = 0.0,
) -> Iterator[Serving]:
    """Within this context the Topology's Views answer `get` and `scan`.

        with sk.connect(app, brokers="localhost:9092"):
            print(campaign.get("c42", window=1_700_000_000_000).value)

    `brokers`, `data` and `client_config` default to STREAMKIT_BROKERS, STREAMKIT_DATA and STREAMKIT_CLIENT_CONFIG;
    `stale_seconds` is how old an Answer's look at the state may be (0: ask anew each time). Raises BrokerUnreachable.
    """
    with (
        closing(KafkaLog(Connection.from_environment(brokers, client_config))) as log,
        open_serving(topology, log, DataFolder.of(topology.name, data), stale_seconds=stale_seconds) as serving,
    ):
        yield serving


@contextmanager
def open_serving(
    topology: Topology,
    log: Log,
    folder: DataFolder,
    *,
    stale_seconds: float = 0.0,
    follow: bool = False,
    on_progress: Callable[[Restoring], None] = lambda _: None,
) -> Iterator[Serving]:
    """As `connect`, on a log that is open.

    Read are the copies of the tasks in the data folder: of the workers there, dead or alive. Where some task has none
    that is up to date, the changelogs are followed to their ends first, into a copy of this reader's own. With `follow`
    they are followed for as long as the context lasts, so that Answers move on whatever becomes of the workers here.
    """
    with ExitStack() as closers:
        stores = LocalStores(folder.stores)
        closers.callback(stores.close)
        changelogs = Changelogs(log, topology.name)
        copies = Copies(changelogs, stores)
        if follow:
            with suppress(StateLocked):  # another reader on this folder follows already, for both
                replica = Replica(topology, log, folder.replica)
                closers.callback(replica.close)
                replica.start()
        elif not _are_here(topology, log, changelogs, copies):
            catch_up_once(topology, log, folder.replica, on_progress)
        serving = Serving(log, topology, folder.batch, copies, stale_seconds=stale_seconds)
        closers.callback(serving.close)
        for view in topology.views.values():
            view.connect(InForce(serving))
            closers.callback(view.connect, None)
        if topology.jobs:
            results = Results(log, topology, folder.mapreduce)
            closers.callback(results.close)
            for job in topology.jobs.values():
                job.connect(results)
                closers.callback(job.connect, None)
        yield serving


def _are_here(topology: Topology, log: Log, changelogs: Changelogs, copies: Copies) -> bool:
    """Are the copies in the data folder where the changelogs end now?

    A worker writes its store a moment after the changelogs; a copy that has not come up after a second is one that
    nobody keeps.
    """
    there = existing(log, topology.name, topology.sources())
    ends = {(topic, n): end for topic in there for n, end in changelogs.ends(topic, committed=True).items() if end}
    deadline = time.monotonic() + _PATIENCE
    while True:
        copies.refresh()
        found = {(topic, n): p.offset for topic in there for n, p in copies.positions(topic).items()}
        # The last record of a changelog may be one of Kafka's own, which the Position does not count.
        if all(found.get(task, 0) + 1 >= end for task, end in ends.items()):
            return True
        if found.keys() < ends.keys() or time.monotonic() > deadline:
            return False
        time.sleep(0.02)


class InForce:
    """Answers by the version of a View that is in force, whichever version is asked."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def get(self, view: View, key: tuple[Any, ...], window: int | tuple[int, int] | None) -> Answer:
        with self._serving.one_look():
            found = self._serving.in_force(view.base)
            # The version in force may have other key parts: no state is kept under the key of this one.
            return self._serving.get(found, found.key(*key), window)

    def scan(self, view: View, key: tuple[Any, ...] | None, start: int | None, end: int | None) -> Iterator[Answer]:
        with self._serving.one_look():
            found = self._serving.in_force(view.base)
            page = self._serving.page(found, None if key is None else found.key(*key), start, end)
        return page.answers
