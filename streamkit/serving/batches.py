"""BatchViews as the serving layer reads them: files in order, the ones in use in memory."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from streamkit.checkpoint import Slot, key_range, slot_of
from streamkit.control import BatchView, File
from streamkit.errors import StateMissing
from streamkit.fold import Fold, State
from streamkit.store.batchfile import BucketFile, checksum, key_hash

_KEPT_SLOTS = 1_000_000
_WINDOW = 16


class BatchFiles:
    """The files below a topology's batch folder, at most about a million Slots of them in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, BucketFile] = OrderedDict()

    def of_key(self, batch: BatchView, key: tuple[Any, ...], begin: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Slots and states of one key from `begin` on, in order."""
        if not batch.files:
            return iter(())
        start, end = key_range(b"", key)
        return self._bucket(batch, start + bytes(_WINDOW)).scan(max(start, begin), end)

    def exactly(self, batch: BatchView, slots: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Those of `slots` that there are, with their states; a key may have a million others."""
        if not batch.files:
            return iter(())
        return itertools.chain.from_iterable(self._bucket(batch, slot).scan(slot, slot + b"\0") for slot in slots)

    def all(self, batch: BatchView, begin: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All Slots and states from `begin` on, in order."""
        return self.read(batch.view, batch.files, begin)

    def read(self, view: str, files: Sequence[File], begin: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All Slots and states of a View's files from `begin` on, in order."""
        return heapq.merge(*(self._file(view, file).scan(begin, None) for file in files))

    def _bucket(self, batch: BatchView, slot: bytes) -> BucketFile:
        return self._file(batch.view, batch.files[key_hash(slot) % len(batch.files)])

    def _file(self, view: str, file: File) -> BucketFile:
        found = self._open.get(file.path)
        if found is None:
            found = self._open[file.path] = self._load(view, file)
            while len(self._open) > 1 and sum(map(len, self._open.values())) > _KEPT_SLOTS:
                self._open.popitem(last=False)
        self._open.move_to_end(file.path)
        return found

    def _load(self, view: str, file: File) -> BucketFile:
        path = self._folder / view / file.path
        if not path.exists():
            raise StateMissing(
                f"{path} is missing: the BatchView of view {view!r} was published from another data folder, or its "
                f"files were deleted. Point --data at that folder, or run `streamkit batch` again"
            )
        if (found := checksum(path)) != file.crc32:
            raise StateMissing(
                f"{path} was damaged since it was published (checksum {found}, manifest {file.crc32}): "
                f"run `streamkit batch` again"
            )
        return BucketFile(path)


def states_of(fold: Fold, folder: Path, files: Sequence[File]) -> Iterator[tuple[Slot, State]]:
    """All states of a batch result, published or not, in order of their keys' bytes."""
    view = fold.view.name
    return ((slot_of(slot), fold.load(state)) for slot, state in BatchFiles(folder).read(view, files))
