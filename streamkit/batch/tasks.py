"""What runs for one View, wherever it runs: fold one Split, merge one bucket."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from streamkit.batch.base import read_base
from streamkit.batch.plan import Split, read_plan
from streamkit.checkpoint import slot_of
from streamkit.control import File
from streamkit.decode import Decoded, Decoder, Rejected
from streamkit.errors import BadRecord
from streamkit.fold import FOLD_ROWS, Fold, States, fields_of
from streamkit.log.base import Log
from streamkit.record import TopicPartition
from streamkit.store.batchfile import COUNTS, bucket_bytes, read_partial, write_bucket, write_partial
from streamkit.view import View

_POLL = 50_000


class Tasks:
    """The tasks of one View's run in `folder`."""

    def __init__(self, log: Log, view: View, folder: Path) -> None:
        self._log, self._view, self._folder = log, view, folder
        self._fold = Fold(view)
        self._decode = Decoder(view.topic, fields_of(view))

    def fold(self, split: Split) -> Split:
        """Read the Split's records and write its states."""
        states: dict[int, States] = {}
        counts = dict.fromkeys(COUNTS, 0)
        for batches, rejected in self._read(split):
            found, bad = self._fold.states(batches) if batches else ({}, [])
            self._fold.merge_into(states, found)
            counts["rejected"] += len(rejected) + len(bad)
            counts["events"] += sum(map(len, batches)) - len(bad)
            self._check_policy([*rejected, *bad])
        merged = self._fold.merge_slots(states.get(split.partition, {}).items())
        write_partial(split_file(self._folder, split), self._fold, merged, counts)
        return split

    def merge(self, splits: Iterable[Split], bucket: int, buckets: int, result: str) -> File:
        """Merge one bucket of all Splits, and of the BatchView that the Plan starts from, into a file of the result."""
        states = self._fold.merge_slots(
            (slot_of(slot), self._fold.load(state)) for slot, state in self._parts(splits, bucket, buckets)
        )
        content = bucket_bytes(self._view, self._fold, states)
        return write_bucket(self._folder, result, bucket, len(states), content)

    def _parts(self, splits: Iterable[Split], bucket: int, buckets: int) -> Iterator[tuple[bytes, bytes]]:
        # From the Plan on disk, which says it once and for all: a run that goes on after a kill goes on with the same.
        plan = read_plan(self._folder)
        if plan is not None and plan.base is not None:
            yield from read_base(plan.base, self._folder, bucket, buckets)
        for split in splits:
            yield from read_partial(split_file(self._folder, split), bucket, buckets)

    def _read(self, split: Split) -> Iterator[tuple[list[Decoded], list[Rejected]]]:
        """The Split's values, many at a time."""
        source = TopicPartition(self._view.topic.name, split.partition)
        with contextlib.closing(self._log.reader({source: split.start})) as reader:
            batches: list[Decoded] = []
            rejected: list[Rejected] = []
            while reader.positions()[source] < split.end:
                for chunk in reader.poll(_POLL, 1.0):
                    decoded, bad = self._decode(chunk)
                    inside = decoded.before(split.end)
                    batches += [inside] if len(inside) else []
                    rejected += [r for r in bad if r.offset < split.end]
                if sum(map(len, batches)) >= FOLD_ROWS:
                    yield batches, rejected
                    batches, rejected = [], []
            yield batches, rejected

    def _check_policy(self, rejected: list[Rejected]) -> None:
        """The speed layer has dead-lettered or counted them; only `fail` concerns the batch layer."""
        if rejected and self._view.topic.errors == "fail":
            first = rejected[0]
            raise BadRecord(*first.source, first.offset, f"{first.reason} (error policy `fail`)")


def split_file(folder: Path, split: Split) -> Path:
    return folder / "splits" / f"{split.name}.parquet"
