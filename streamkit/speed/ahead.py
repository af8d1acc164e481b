"""Reading ahead: while a Checkpoint is made, another thread reads on and decodes, so that neither waits for the other.

Nothing else is done with what it reads until the Checkpoint is over, and nobody sees that it was read: positions are
those of what was taken. So a Checkpoint is of exactly what was taken before it, whenever it ends, or fails.

    the worker       take, take, settle | commit, write                | take, take, ...
    the other thread                    | poll, decode, poll, decode   |
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from streamkit.decode import Decoded, Rejected
from streamkit.log.base import Reader
from streamkit.record import Chunk, TopicPartition

BULK = 5_000
"""Records of one poll from which on it is worth a thread."""
MOST = 200_000
"""Records that are read ahead at most: they wait in memory."""
_POLL, _PATIENCE = 20_000, 0.05


@dataclass(frozen=True, slots=True)
class Read:
    """A Chunk, its values, and its records that are none."""

    chunk: Chunk
    decoded: Decoded
    rejected: list[Rejected]


class ReadAhead:
    """A Reader whose Chunks come decoded. Between `begin` and `end` it reads in a thread of its own.

    Each of the other methods ends that first. Not thread-safe itself.
    """

    def __init__(self, reader: Reader, decode: Callable[[Chunk], Read]) -> None:
        self._reader, self._decode = reader, decode
        self._ahead: list[Read] = []
        self._taken: dict[TopicPartition, int] = {}
        """Positions of what was taken, while there is something ahead of it."""
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._last = 0

    def begin(self) -> None:
        """Read on, if the last poll brought many records."""
        if self._last < BULK or self._ahead or self._failure:
            return
        self._taken = self._reader.positions()
        self._stop.clear()
        self._thread = threading.Thread(target=self._read_on, name="streamkit-ahead", daemon=True)
        self._thread.start()

    def end(self) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def poll(self, max_records: int, timeout: float) -> list[Read]:
        """As `Reader.poll`; what was read ahead comes all at once."""
        self.end()
        if self._ahead:
            ahead, self._ahead = self._ahead, []
            return ahead
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        chunks = self._reader.poll(max_records, timeout)
        self._last = sum(map(len, chunks))
        return [self._decode(chunk) for chunk in chunks]

    def positions(self) -> dict[TopicPartition, int]:
        """As `Reader.positions`, of what `poll` has returned."""
        self.end()
        return dict(self._taken) if self._ahead or self._failure else self._reader.positions()

    def seek(self, source: TopicPartition, offset: int) -> None:
        self._drop([source])
        self._reader.seek(source, offset)
        self._taken[source] = offset

    def add(self, positions: Mapping[TopicPartition, int]) -> None:
        self._drop(positions)
        self._reader.add(positions)
        self._taken |= positions

    def remove(self, sources: Collection[TopicPartition]) -> None:
        self._drop(sources)
        self._reader.remove(sources)
        for source in sources:
            self._taken.pop(source, None)

    def close(self) -> None:
        self.end()
        self._reader.close()

    def _drop(self, sources: Collection[TopicPartition]) -> None:
        self.end()
        self._ahead = [read for read in self._ahead if read.chunk.source not in sources]

    def _read_on(self) -> None:
        try:
            read = self._last
            while not self._stop.is_set() and read and sum(len(some.chunk) for some in self._ahead) < MOST:
                chunks = self._reader.poll(_POLL, _PATIENCE)
                read = sum(map(len, chunks))
                self._ahead += map(self._decode, chunks)
        except BaseException as failure:  # told to who polls next, after what came before it
            self._failure = failure
