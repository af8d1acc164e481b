"""Publication of a MapReduce result: outputs to topics in transactions, the manifest last.

Each transaction holds some thousand records and, on the control topic, how many rows are on the log with it (JobSent).
A run that is killed in between goes on behind the last of them: every row is sent once. The transactional id is the
job's, so a second publisher fences the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import polars as pl

from streamkit import control
from streamkit.batch.mapreduce.outputs import TIMESTAMP
from streamkit.batch.mapreduce.pairs import KEY, VALUE
from streamkit.batch.mapreduce.run import Finished
from streamkit.control import JobResult, JobSent, control_topic
from streamkit.log.base import Log
from streamkit.log.control import ControlTopic
from streamkit.mapreduce import MapReduce
from streamkit.record import TopicPartition
from streamkit.topic import REPLAYABLE, Topic

SEND_ROWS = 20_000
"""Rows of a transaction: it is over well before the broker would end it."""


def publish(
    log: Log,
    topology: str,
    job: MapReduce,
    folder: Path,
    finished: Finished,
    *,
    now: Callable[[], float] = time.time,
    on_sent: Callable[[int], None] = lambda _: None,
) -> JobResult:
    """Send what goes to topics, then the manifest: from the moment this returns, readers are answered by the result."""
    result = _manifest(job, finished, now)
    with closing(ControlTopic(log, topology)) as topic:
        messages = topic.catch_up()
        if not result.sent:
            topic.append(result)
            return result
        before = max((m.rows for m in messages if isinstance(m, JobSent) and m.id == result.id), default=0)
    _send(log, topology, job, folder, finished, result, before, on_sent)
    return result


def kept(log: Log, topology: str, job: str) -> list[str]:
    """The ids of the results that readers may hold."""
    with closing(ControlTopic(log, topology)) as topic:
        topic.catch_up()
        return [result.id for result in topic.published.results(job)]


def _manifest(job: MapReduce, finished: Finished, now: Callable[[], float]) -> JobResult:
    to_topics = {output for output, target in job.outputs.items() if isinstance(target, Topic)}
    plan = finished.plan
    return JobResult(
        id=plan.id,
        job=plan.job,
        fingerprint=plan.fingerprint,
        cuts=plan.cuts,
        files={output: files for output, files in finished.files.items() if output not in to_topics},
        sent={output: rows for output, rows in finished.rows.items() if output in to_topics},
        counters=dict(finished.counters),
        records=finished.records,
        rejected=finished.rejected,
        skipped=len(finished.skipped),
        created=int(now() * 1000),
    )


class _Nobody:
    """Listens to a group whose members read nothing: it is there because a Committer asks for a member."""

    def assigned(self, sources: object) -> None: ...

    def revoked(self, sources: object) -> None: ...

    def lost(self, sources: object) -> None: ...


def _send(
    log: Log,
    topology: str,
    job: MapReduce,
    folder: Path,
    finished: Finished,
    result: JobResult,
    before: int,
    on_sent: Callable[[int], None],
) -> None:
    """Rows `before` are on the log."""
    there, own = set(log.topics()), control_topic(topology)
    for output in result.sent:
        target = job.outputs[output]
        assert isinstance(target, Topic)
        if target.name not in there:
            log.create(target.name, partitions=target.partitions, config=REPLAYABLE)
    name = f"streamkit.{topology}.mapreduce.{job.name}"
    member = log.join(name, [own], _Nobody(), name=name)
    sent = 0
    with closing(log.committer(name)) as committer:
        try:
            for topic, rows in _outputs(job, folder, finished):
                for frame in rows.iter_slices(SEND_ROWS):
                    sent += len(frame)
                    if sent <= before:
                        continue
                    for key, value, moment in frame.select(KEY, VALUE, TIMESTAMP).iter_rows():
                        committer.send(topic.name, value, key=key, timestamp=moment)
                    committer.send(own, control.encode(JobSent(result.job, result.id, sent)), partition=0)
                    committer.commit(_NO_CHANGES, {}, member)
                    on_sent(sent)
            committer.send(own, control.encode(result), partition=0)
            committer.commit(_NO_CHANGES, {}, member)
        finally:
            member.leave()


_NO_CHANGES: dict[TopicPartition, list[tuple[bytes, bytes | None]]] = {}


def _outputs(job: MapReduce, folder: Path, finished: Finished) -> Iterator[tuple[Topic, pl.DataFrame]]:
    """The rows for each topic, in the order of the parts."""
    for output, target in job.outputs.items():
        if isinstance(target, Topic):
            for file in finished.files[output]:
                yield target, pl.read_parquet(folder / "results" / file.path)
