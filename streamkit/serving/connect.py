"""`streamkit.connect`: the merge as a library call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from streamkit.errors import StateMissing
from streamkit.folder import DataFolder
from streamkit.log.base import Log
from streamkit.log.kafka import KafkaLog
from streamkit.serving.merge import Serving
from streamkit.settings import Connection
from streamkit.store.base import StoreReader
from streamkit.store.memory import MemoryReader, MemoryStore
from streamkit.store.rocksdb import RocksReader
from streamkit.topology import Topology


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
def open_serving(topology: Topology, log: Log, folder: DataFolder, *, stale_seconds: float = 0.0) -> Iterator[Serving]:
    """As `connect`, on a log that is open."""
    with ExitStack() as closers:
        serving = Serving(log, topology.name, folder.batch, _WorkersState(folder), stale_seconds=stale_seconds)
        closers.callback(serving.close)
        for view in topology.views.values():
            view.connect(serving)
            closers.callback(view.connect, None)
        yield serving


class _WorkersState:
    """A look at the worker's state: an empty one until a worker has run, as a BatchView alone can answer."""

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._reader: StoreReader | None = None
        self._nothing = MemoryReader(MemoryStore())
        self.refresh()

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return (self._reader or self._nothing).get(keys)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        return (self._reader or self._nothing).scan(start, end)

    def refresh(self) -> None:
        if self._reader is not None:
            self._reader.refresh()
            return
        # A server may be started before the first worker, and must not stay blind to it.
        with suppress(StateMissing):
            self._reader = RocksReader(self._folder.state)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
