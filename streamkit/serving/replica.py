"""A reader's own copy of all tasks: follows the changelogs, so that reads need neither a worker nor its disk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from streamkit.changelog.changelogs import Changelogs, existing
from streamkit.changelog.follower import Follower, Restoring
from streamkit.changelog.state import claim_format
from streamkit.errors import BrokerUnreachable, StateError, StateLocked, StreamkitError
from streamkit.log.base import Log
from streamkit.record import TopicPartition
from streamkit.store.rocksdb import RocksStore
from streamkit.topology import Topology

logger = logging.getLogger(__name__)
_LOOK_SECONDS = 2.0


class Replica:
    """Follows all changelogs of a topology into the store at `path`. Raises StateLocked where another one does."""

    def __init__(self, topology: Topology, log: Log, path: Path) -> None:
        self._topology, self._log = topology, log
        self._changelogs = Changelogs(log, topology.name)
        self._store = RocksStore.open(path)
        try:
            claim_format(self._store, f"the replica of topology {topology.name!r} in {path}")
        except StateError:
            self._store.close()
            raise
        self._follower = Follower(log, self._changelogs, self._store)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Follow what has come to be since: workers make changelogs, topics get partitions, a reset begins anew."""
        self._changelogs.renew()
        there = existing(self._log, self._topology.name, self._topology.sources())
        tasks = [TopicPartition(topic, number) for topic, count in there.items() for number in range(count)]
        self._follower.follow(tasks)

    def catch_up(self, on_progress: Callable[[Restoring], None] = lambda _: None) -> None:
        """Restore every copy to where its changelog ends now."""
        self.look()
        while (restoring := self._follower.restoring()).tasks:
            on_progress(restoring)
            self._follower.step(0.1)

    def start(self) -> None:
        """Follow, in a thread of its own, until `close`."""
        self._thread = threading.Thread(target=self._run, name="streamkit-replica", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._follower.close()
        self._store.close()

    def _run(self) -> None:
        said = ""
        while not self._stop.is_set():
            try:
                self.look()
                for _ in range(int(_LOOK_SECONDS / 0.1)):
                    if not self._stop.is_set() and not self._follower.step(0.1):
                        self._stop.wait(0.0 if self._follower.following() else 0.1)
                said = ""
            except StreamkitError as error:
                # A broker that is away: what is here goes on being served, with the lag that it has.
                if str(error) != said:
                    logger.warning("the changelogs cannot be followed now: %s", error)
                said = str(error)
                if not isinstance(error, BrokerUnreachable):  # a changelog is gone: another reader, for what comes
                    self._follower.drop(self._follower.following())
                self._stop.wait(1.0)


def catch_up_once(
    topology: Topology, log: Log, path: Path, on_progress: Callable[[Restoring], None] = lambda _: None
) -> None:
    """Bring the replica at `path` up to date; nothing where another process keeps it so."""
    try:
        replica = Replica(topology, log, path)
    except StateLocked:
        return
    with closing(replica):
        replica.catch_up(on_progress)
