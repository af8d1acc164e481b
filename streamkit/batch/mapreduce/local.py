"""The local Runner of MapReduce: tasks in processes of their own; what is lost is tried again, what is slow, twice.

Of pebble's pool we need that a process which is killed costs its task alone, and that a task which runs can be stopped:
a straggler whose second try was quicker.
"""

from __future__ import annotations

import concurrent.futures
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from pebble import ProcessExpired, ProcessPool

from streamkit.batch.local import begin_process
from streamkit.batch.mapreduce.shuffle import relax_collector
from streamkit.batch.mapreduce.stage import Stages
from streamkit.batch.mapreduce.task import Done, Task, TaskFailed
from streamkit.errors import BadRecord, BrokerUnreachable, StreamkitError
from streamkit.loading import load_topology
from streamkit.log.archive import open_source
from streamkit.log.kafka import KafkaLog
from streamkit.mapreduce import MapReduce
from streamkit.settings import Connection

TRIES = 3
"""How often a task is begun whose process dies, or that cannot reach a disk or a broker."""
SLOW = 2.0
"""A task that takes so many times the median of its stage, while a process has nothing to do, is begun once more."""
_LEAST_SECONDS = 2.0
_BASE = 200 << 20
"""What a process takes that has imported all and holds no data yet."""
LEAST_MEMORY = 64 << 20


Tell = Callable[[int], None]


class JobRunner(Protocol):
    """Where the tasks of a stage run."""

    def run(self, tasks: Sequence[Task], counters: Mapping[str, int], tell: Tell, /) -> Iterator[tuple[Task, Done]]:
        """Yields tasks as they are done; `tell` hears of how many that are done and not yielded yet.

        Raises TaskFailed, BadRecord, DefinitionError, StreamkitError.
        """

    def close(self) -> None: ...


class InlineTasks:
    """Tasks in this process."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages

    def run(self, tasks: Sequence[Task], counters: Mapping[str, int], _: Tell) -> Iterator[tuple[Task, Done]]:
        return ((task, self._stages.run(task, counters)) for task in tasks)

    def close(self) -> None:
        """Nothing to let go."""


@dataclass(frozen=True)
class Share:
    """What each process may use: `memory` for a task's data, in bytes."""

    processes: int
    memory: int

    @classmethod
    def of(cls, processes: int, memory: int | None) -> Share:
        """Fewer processes where the memory for all of them, and for this one, is too little.

        >>> Share.of(4, 512 << 20).processes
        1
        """
        if memory is None:
            return cls(processes, 256 << 20)
        fit = max(1, min(processes, (memory - _BASE) // (_BASE + LEAST_MEMORY)))
        return cls(fit, max(LEAST_MEMORY, (memory - _BASE) // fit - _BASE))


@dataclass
class _Try:
    task: Task
    number: int
    began: float | None = None


@dataclass
class Tally:
    """What went otherwise than planned."""

    retried: int = 0
    doubled: int = 0
    told: list[str] = field(default_factory=list)


class LocalTasks:
    """Tasks in processes, each of which imports the topology (named as on the command line) again."""

    def __init__(
        self,
        topology: str,
        job: MapReduce,
        connection: Connection,
        archive: str | None,
        folder: Path,
        partitions: int,
        share: Share,
    ) -> None:
        self.tally = Tally()
        self._processes = share.processes
        self._pool = ProcessPool(
            share.processes,
            context=get_context("spawn"),
            initializer=_start,
            initargs=(topology, job.name, job.skip, connection, archive, folder, partitions, share.memory),
        )

    def run(self, tasks: Sequence[Task], counters: Mapping[str, int], _: Tell) -> Iterator[tuple[Task, Done]]:
        return _StageRun(self, tasks, counters).results()

    def begin(self, task: Task, counters: Mapping[str, int]) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = self._pool.schedule(_run, args=(task, dict(counters)))
        return future

    @property
    def processes(self) -> int:
        return self._processes

    def close(self) -> None:
        """Ends what runs: the folder of an unfinished task has no name yet."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()


class _StageRun:
    """The tasks of one stage, and the tries at them that are under way."""

    def __init__(self, pool: LocalTasks, tasks: Sequence[Task], counters: Mapping[str, int]) -> None:
        self._pool, self._counters = pool, counters
        self._left = dict.fromkeys(tasks, TRIES)
        self._tries: dict[concurrent.futures.Future[Any], _Try] = {}
        self._took: list[float] = []
        for task in tasks:
            self._begin(task)

    def results(self) -> Iterator[tuple[Task, Done]]:
        try:
            while self._left:
                ended, _ = concurrent.futures.wait(self._tries, 0.1, concurrent.futures.FIRST_COMPLETED)
                for future in ended:
                    attempt = self._tries.pop(future)
                    if (done := self._outcome(future, attempt)) is not None:
                        yield attempt.task, done
                self._watch()
        finally:
            for future in self._tries:
                future.cancel()

    def _begin(self, task: Task, number: int = 1) -> None:
        self._tries[self._pool.begin(task, self._counters)] = _Try(task, number)

    def _outcome(self, future: concurrent.futures.Future[Any], attempt: _Try) -> Done | None:
        """None where the task goes on in another try. Raises what it failed by for good."""
        if future.cancelled() or attempt.task not in self._left:
            return None
        try:
            done: Done | _Failure = future.result()
        except ProcessExpired as death:
            self._lost(attempt, f"its process ended (exit code {death.exitcode})")
            return None
        if isinstance(done, _Failure):
            if not done.again:
                raise done.error()
            self._lost(attempt, done.message)
            return None
        del self._left[attempt.task]
        now = time.monotonic()  # a try that began and ended between two looks was never seen: it took less than one
        self._took.append(now - (now if attempt.began is None else attempt.began))
        for other, same in list(self._tries.items()):
            if same.task == attempt.task:  # the try that was slower
                other.cancel()
                del self._tries[other]
        return done

    def _lost(self, attempt: _Try, reason: str) -> None:
        if any(other.task == attempt.task for other in self._tries.values()):
            return  # another try at it is under way
        self._left[attempt.task] -= 1
        if not self._left[attempt.task]:
            raise TaskFailed(f"task {attempt.task.name} was given up after {TRIES} tries; the last: {reason}")
        self._pool.tally.retried += 1
        self._pool.tally.told.append(f"task {attempt.task.name} is tried again: {reason}")
        self._begin(attempt.task, attempt.number + 1)

    def _watch(self) -> None:
        """Begin a straggler once more. Whichever try is first gives the folder its name; the other finds it there."""
        now = time.monotonic()
        running = [t for f, t in self._tries.items() if f.running()]
        for attempt in running:
            attempt.began = attempt.began or now
        if len(self._tries) > len(running) or len(running) >= self._pool.processes or len(self._took) < 3:
            return
        limit = max(_LEAST_SECONDS, SLOW * statistics.median(self._took))
        for attempt in running:
            alone = sum(t.task == attempt.task for t in self._tries.values()) == 1
            if alone and attempt.began is not None and now - attempt.began > limit:
                self._pool.tally.doubled += 1
                self._begin(attempt.task, attempt.number + 1)
                return


@dataclass(frozen=True)
class _Failure:
    """An error on its way between processes: not all errors can be pickled."""

    kind: str
    message: str
    trace: str = ""
    again: bool = False

    def error(self) -> StreamkitError:
        return TaskFailed(self.message, self.trace)


_stages: Stages | None = None


def _start(
    topology: str,
    name: str,
    skip: int,
    connection: Connection,
    archive: str | None,
    folder: Path,
    partitions: int,
    memory: int,
) -> None:
    global _stages
    begin_process()
    relax_collector()
    job = load_topology(topology).find_job(name).skipping(skip)
    log = open_source(KafkaLog(connection), archive, [topic.name for topic in job.topics])
    _stages = Stages(log, job, folder, partitions, memory)


def _run(task: Task, counters: Mapping[str, int]) -> Done | _Failure:
    assert _stages is not None
    try:
        return _stages.run(task, counters)
    except TaskFailed as error:
        return _Failure("TaskFailed", str(error), error.trace)
    except BadRecord as error:
        return _Failure("BadRecord", str(error))
    except BrokerUnreachable as error:
        return _Failure(type(error).__name__, str(error), again=True)
    except StreamkitError as error:
        return _Failure(type(error).__name__, str(error))
    except Exception as error:  # a full disk, memory that is not to be had, ...: the user's own code raises TaskFailed
        return _Failure(type(error).__name__, f"{type(error).__name__}: {error}", traceback.format_exc(), again=True)


def cores() -> int:
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
