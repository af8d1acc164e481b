"""The Driver: a Topology in one process, on a log in memory, with one verb for each durable step.

Between any two verbs a test can `crash`; what was durable stays, all else is gone.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from streamkit.batch.local import Inline, LocalRunner, Result, Tasks
from streamkit.batch.plan import make_plan
from streamkit.batch.publish import discard_old, manifest, publish
from streamkit.checkpoint import segment_prefix, states_range
from streamkit.control import BatchView, Proof, Sealed, SealRequest
from streamkit.cut import Cut
from streamkit.deadletter import DeadLetter
from streamkit.errors import CutMismatch
from streamkit.fold import Fold
from streamkit.log.control import ControlTopic
from streamkit.log.memory import MemoryLog
from streamkit.log.scan import read_all
from streamkit.record import Headers, Record
from streamkit.serving.batches import states_of
from streamkit.serving.merge import Serving
from streamkit.serving.proof import compare
from streamkit.speed.worker import Worker, caught_up
from streamkit.store.memory import MemoryReader, MemoryStore
from streamkit.topic import Topic
from streamkit.topology import Topology
from streamkit.view import Answer, View


class Driver:
    """Runs a Topology step by step.

    >>> import msgspec, streamkit as sk
    >>> class Click(msgspec.Struct):
    ...     campaign: str
    >>> app = sk.Topology("ads")
    >>> clicks = app.topic("clicks", value=Click, key="campaign")
    >>> spend = app.view("spend", clicks, key="campaign", aggregates={"clicks": sk.Count()})
    >>> with Driver(app) as driver:
    ...     driver.send(clicks, Click("acme"), Click("acme"))
    ...     driver.step(); driver.checkpoint()
    ...     driver.send(clicks, Click("acme"))
    ...     driver.step(); driver.crash()         # the third click was read, and forgotten
    ...     driver.step(); driver.checkpoint()    # it comes again
    ...     driver.ask(spend, "acme").value
    {'clicks': 3}
    """

    def __init__(self, topology: Topology, *, log: MemoryLog | None = None, split_records: int = 250_000) -> None:
        self.topology = topology
        self.log = log or MemoryLog()
        self._store = MemoryStore()
        self._split_records = split_records
        self._folder = tempfile.TemporaryDirectory(prefix="streamkit-driver-")
        for topic in topology.topics.values():
            self.log.create(topic.name, partitions=topic.partitions)
        self._control = ControlTopic(self.log, topology.name)
        self._serving = Serving(self.log, topology.name, self.folder, MemoryReader(self._store))
        self._writer = self.log.writer()
        self._worker: Worker | None = None
        self._results: dict[str, Result] = {}

    @property
    def folder(self) -> Path:
        """The batch folder."""
        return Path(self._folder.name)

    @property
    def serving(self) -> Serving:
        """What answers, as a reader in another process would."""
        return self._serving

    @property
    def worker(self) -> Worker:
        """The worker, started if none runs."""
        if self._worker is None:
            self._worker = Worker(self.topology, self.log, self._store)
        return self._worker

    # -- the log ------------------------------------------------------------------------------------------------------

    def send(self, topic: Topic, *values: Any) -> None:
        """Put values on a topic as their producer would: keyed, and with their event time as the timestamp."""
        for value in values:
            key, timestamp = topic.key_of(value), topic.time_of(value)
            self._writer.send(topic.name, topic.encode(value), key=key, timestamp=timestamp)
        self._writer.flush()

    def send_bytes(self, topic: Topic, value: bytes | None, *, key: bytes | None = None, headers: Headers = ()) -> None:
        """Put a record on a topic as it is."""
        self._writer.send(topic.name, value, key=key, headers=headers)
        self._writer.flush()

    def records(self, topic: str) -> list[Record]:
        """All records of a topic, by partition and offset."""
        return list(read_all(self.log, topic))

    def values(self, topic: Topic) -> list[Any]:
        """All values of a topic, by partition and offset."""
        return [topic.decode(r.value) for r in self.records(topic.name) if r.value is not None]

    def dead_letters(self, topic: Topic) -> list[DeadLetter]:
        return [DeadLetter.of(r) for r in self.records(topic.dead_letters)]

    # -- the speed layer ----------------------------------------------------------------------------------------------

    def step(self, max_records: int = 20_000) -> None:
        """Read once; nothing of it is durable yet."""
        self.worker.step(max_records)

    def settle(self) -> None:
        """Outputs and dead letters are on the log."""
        self.worker.settle()

    def commit(self) -> None:
        """State and offsets are durable, and the seals that were asked for."""
        self.worker.commit()

    def report(self) -> None:
        """The seals are known to the batch layer."""
        self.worker.report()

    def adopt(self) -> None:
        """Segments that a BatchView has made superfluous are gone."""
        self.worker.adopt()

    def checkpoint(self) -> None:
        """`settle`, `commit`, `report`, `adopt`."""
        self.worker.listen()
        self.worker.checkpoint()

    def catch_up(self) -> None:
        """Step until the log's end, then a Checkpoint."""
        while not caught_up(self.worker.positions(), self.worker.ends()):
            self.worker.step()
        self.checkpoint()

    def crash(self) -> None:
        """The worker is gone at once, and all that was not durable."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    # -- the batch layer ----------------------------------------------------------------------------------------------

    def seal(self, view: View) -> None:
        """Ask the worker to seal; it does at its next `commit`, and tells of it at its next `report`."""
        self._control.append(SealRequest(f"{view.name}-{self.log.ends(view.topic.name)}", view.name))
        if self._worker is not None:
            self._worker.listen()

    def cut(self, view: View) -> Cut:
        """Where the batch layer would cut: at the newest seal reported, or else at the log's end."""
        info = self.log.describe(view.topic.name)
        with closing(ControlTopic(self.log, self.topology.name)) as control:
            sealed = [m for m in control.catch_up() if isinstance(m, Sealed) and m.view == view.name]
        return Cut(view.topic.name, info.id, sealed[-1].ends) if sealed else self.end(view)

    def end(self, view: View) -> Cut:
        """The log's end, where the batch layer cuts when it hears of no worker."""
        return Cut(view.topic.name, self.log.describe(view.topic.name).id, self.log.ends(view.topic.name))

    def batch(self, view: View, cut: Cut | None = None) -> Result:
        """Recompute the View at a Cut (see `cut`); nobody sees it before `publish`."""
        folder = self.folder / view.name
        runner = LocalRunner(self.log, view, folder)
        plan = make_plan(view, cut or self.cut(view), self.log.starts(view.topic.name), {}, self._split_records)
        result = runner.run(plan, Inline(Tasks(self.log, view, folder)))
        runner.finish()
        self._results[view.name] = result
        return result

    def publish(self, view: View) -> BatchView:
        """Put the last `batch` in force."""
        batch = manifest(self._results.pop(view.name), None)
        publish(self._control, batch)
        discard_old(self._control, view.name, self.folder / view.name)
        if self._worker is not None:
            self._worker.listen()
        return batch

    def prove(self, view: View) -> Proof | None:
        """Compare the last `batch` with what the serving layer has at its Cut; None where no Segment ends there."""
        result = self._results[view.name]
        try:
            seam = self._serving.seam_at(view, result.plan.cut)
        except CutMismatch:
            return None
        fold = Fold(view)
        return compare(fold, self._serving.merged(view, seam), states_of(fold, self.folder, result.files))

    # -- the serving layer --------------------------------------------------------------------------------------------

    def ask(self, view: View, *key: Any, window: int | tuple[int, int] | None = None) -> Answer:
        """The merged Answer, as a reader in another process would get it."""
        return self._serving.get(view, view.key(*key), window)

    def scan(self, view: View) -> list[Answer]:
        """All Answers, by key and window."""
        return list(self._serving.scan(view))

    def orphans(self, view: View) -> int:
        """States in the store that belong to no Segment: 0, or released ones were left."""
        live = tuple(
            segment_prefix(view.name, partition, start)
            for partition, segments in self._serving.segments(view).items()
            for start, _ in segments.all()
        )
        return sum(not key.startswith(live) for key, _ in self._store.scan(*states_range(view.name)))

    def close(self) -> None:
        self.crash()
        self._serving.close()
        self._control.close()
        self._writer.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
