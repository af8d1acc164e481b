"""When the local Runner begins a task once more: with tasks so quick that it never sees one of them run."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import pytest

from streamkit.batch.mapreduce import local
from streamkit.batch.mapreduce.local import LocalTasks, Tally
from streamkit.batch.mapreduce.task import Done, Task


class Instant(LocalTasks):
    """The first try at task 0 never ends; every other is done before anybody looks."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._processes = 2
        self.stuck: Future[Any] | None = None

    def begin(self, task: Task, _: Mapping[str, int]) -> Future[Any]:
        future: Future[Any] = Future()
        if self.stuck is None:
            self.stuck = future
            future.set_running_or_notify_cancel()
        else:
            future.set_result(Done(records=task.number))
        return future


@pytest.mark.timeout(20)
def test_a_straggler_is_tried_twice_though_no_other_task_was_ever_seen_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_LEAST_SECONDS", 0.0)
    pool = Instant()
    tasks = [Task(0, number) for number in range(5)]
    done = {task: result.records for task, result in pool.run(tasks, {}, lambda _: None)}
    assert done == {task: task.number for task in tasks}
    assert pool.tally.doubled == 1
