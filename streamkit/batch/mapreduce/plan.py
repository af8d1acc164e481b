"""Plans of MapReduce runs: which records are read, and how the work is divided; fixed before anything is done."""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec
import polars as pl

from streamkit.batch.mapreduce.source import file_splits
from streamkit.batch.mapreduce.task import Split, Task, TopicSplit
from streamkit.cut import Cut
from streamkit.errors import OffsetOutOfRange
from streamkit.log.base import Log
from streamkit.mapreduce import Files, MapReduce
from streamkit.topic import Topic

SPLIT_RECORDS = 250_000
MOST_PARTITIONS = 64
LOCAL, SPARK = "local", "spark"
LAYOUT = 2
"""Of what tasks leave behind: a run that was stopped before it changed begins anew."""


class JobPlan(msgspec.Struct, frozen=True):
    """A run: its Cuts (one a topic), the Splits of its first stage, and the partitions of its shuffles.

    `id` is the result's from the beginning: what of it has been sent to topics is known by it after a crash.
    """

    id: str
    job: str
    fingerprint: str
    cuts: dict[str, Cut]
    splits: tuple[Split, ...]
    partitions: int
    versions: str = f"layout {LAYOUT}, polars {pl.__version__}"
    """What the tasks that are done were done by: rows are shared out by polars' hash, another in each version."""
    runner: str = LOCAL
    """Where they were done: what Spark has shuffled is gone with it, so its tasks are done anew."""

    def tasks(self, stage: int) -> list[Task]:
        """The tasks of a stage."""
        if stage == 0:
            return [Task(0, number, split) for number, split in enumerate(self.splits)]
        return [Task(stage, number) for number in range(self.partitions)]


def make_plan(
    job: MapReduce, log: Log, cuts: Mapping[str, Cut] | None = None, split_records: int = SPLIT_RECORDS
) -> JobPlan:
    """A plan at these Cuts, or at the topics' ends. Raises TopicMissing, DefinitionError, OffsetOutOfRange."""
    splits: list[Split] = []
    at: dict[str, Cut] = {}
    for source in job.inputs:
        if isinstance(source, Files):
            splits += file_splits(source)
        else:
            at[source.name] = (cuts or {}).get(source.name) or end_of(log, source)
            splits += _topic_splits(log, at[source.name], split_records)
    partitions = job.partitions or min(MOST_PARTITIONS, max(1, len(splits)))
    return JobPlan(f"{time.time_ns():x}", job.name, job.fingerprint, at, tuple(splits), partitions)


def end_of(log: Log, topic: Topic) -> Cut:
    return Cut(topic.name, log.describe(topic.name).id, log.ends(topic.name))


def _topic_splits(log: Log, cut: Cut, split_records: int) -> list[TopicSplit]:
    starts, ends = log.starts(cut.topic), log.ends(cut.topic)
    for partition, end in cut.offsets.items():
        if end > ends.get(partition, 0):
            raise OffsetOutOfRange(
                f"{cut.topic}/{partition}: the Cut {end} is beyond the log's end {ends.get(partition)}"
            )
    found = [
        TopicSplit(cut.topic, p, start, min(start + split_records, end))
        for p, end in cut.offsets.items()
        for start in range(min(starts.get(p, 0), end), end, split_records)
    ]
    return sorted(found, key=lambda s: (s.start, s.partition))
