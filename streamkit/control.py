"""Control records: what the layers tell each other, on one topic with one partition, so that there is one order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from streamkit.cut import Cut

CONTROL_CONFIG = {"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"}


def control_topic(topology: str) -> str:
    return f"streamkit.{topology}.control"


class SealRequest(msgspec.Struct, frozen=True, tag="seal_request"):
    """Asks the workers to seal the open Segments of `view` at their next Checkpoints."""

    id: str
    view: str


class Sealed(msgspec.Struct, frozen=True, tag="sealed"):
    """A worker has sealed: `ends` are by partition, its own ones. `starts` tell how far down its Segments reach."""

    request: str
    view: str
    fingerprint: str
    topic_id: str
    starts: dict[int, int]
    ends: dict[int, int]


class File(msgspec.Struct, frozen=True):
    """One file of a BatchView; `path` is relative to the topology's batch folder."""

    path: str
    rows: int
    bytes: int
    crc32: str


class Proof(msgspec.Struct, frozen=True):
    """What the comparison with `batch(old Cut) + Segments` gave before the BatchView was published.

    Where no Segments lead to its Cut, a full result is compared at the old Cut with the BatchView there: `against` is
    that one's id.
    """

    slots: int
    differences: int
    first: str = ""
    against: str = ""


Kind = Literal["full", "incremental"]
"""A recomputation from the log's start, or from the last BatchView on."""


class BatchView(msgspec.Struct, frozen=True, tag="batch_view"):
    """The manifest of an immutable result of one View at one Cut: all records in `[starts, offsets)`.

    `base` is the id of the BatchView it was computed from, empty where it was computed from the log's start.
    """

    id: str
    view: str
    fingerprint: str
    topic: str
    topic_id: str
    starts: dict[int, int]
    offsets: dict[int, int]
    files: tuple[File, ...]
    slots: int
    events: int
    rejected: int
    created: int
    proof: Proof | None = None
    base: str = ""

    @property
    def kind(self) -> Kind:
        return "incremental" if self.base else "full"

    @property
    def cut(self) -> Cut:
        return Cut(self.topic, self.topic_id, self.offsets)


class JobResult(msgspec.Struct, frozen=True, tag="job_result"):
    """The manifest of a MapReduce result: of all records before `cuts`, by topic. `files` are by output ("" is the main
    one), their paths relative to the job's `results` folder; `sent` counts the records of outputs that are topics."""

    id: str
    job: str
    fingerprint: str
    cuts: dict[str, Cut]
    files: dict[str, tuple[File, ...]]
    sent: dict[str, int]
    counters: dict[str, int]
    records: int
    rejected: int
    skipped: int
    created: int


class JobSent(msgspec.Struct, frozen=True, tag="job_sent"):
    """So many rows of a result's outputs to topics are on the log: written in the transaction that put them there."""

    job: str
    id: str
    rows: int


class Reset(msgspec.Struct, frozen=True, tag="reset"):
    """All BatchViews of `view` before this record are void, and so is the speed layer's state of it."""

    view: str
    id: str = ""


class Promoted(msgspec.Struct, frozen=True, tag="promoted"):
    """Readers of View `view` are from now on answered by its version `name`."""

    view: str
    name: str


class KeptOn(msgspec.Struct, frozen=True, tag="kept"):
    """The state of a source topic's tasks is kept on the changelog with this id; on none yet where it is empty.

    Were the changelog deleted and nobody the wiser, the next worker would make an empty one, take every copy for that
    of a changelog before a reset, and let agents send all again: with this it knows that there was no reset.
    """

    topic: str
    changelog_id: str


Trigger = Literal["by hand", "first", "scheduled", "missed"]
"""`first`: scheduled, and there was no BatchView yet; `missed`: its time had passed while no scheduler ran."""


class RunStarted(msgspec.Struct, frozen=True, tag="run_started"):
    """A recomputation of `view` begins. `due` is the time it is scheduled for, 0 where there is none; `kind` is what
    was asked for. Times are milliseconds since the epoch."""

    id: str
    view: str
    fingerprint: str
    kind: Kind
    trigger: Trigger
    due: int
    time: int
    by: str


class RunEnded(msgspec.Struct, frozen=True, tag="run_ended"):
    """It has ended, in which way; one that was killed says nothing. `kind` is what it was in the end."""

    run: str
    outcome: Literal["published", "failed", "stopped"]
    time: int
    kind: Kind
    reason: str = ""
    offsets: dict[int, int] = {}
    records: int = 0
    states: int = 0
    rejected: int = 0
    proof: Proof | None = None
    batch: str = ""


Message = SealRequest | Sealed | BatchView | JobResult | JobSent | Reset | Promoted | KeptOn | RunStarted | RunEnded

encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
decode = _decoder.decode


class Published:
    """The BatchViews in force, by replaying control records.

    >>> published = Published()
    >>> published.apply(Reset("clicks"))
    >>> published.of("clicks", "fingerprint")
    ()
    """

    def __init__(self) -> None:
        self._views: dict[str, tuple[BatchView, ...]] = {}
        self._promoted: dict[str, str] = {}
        self._changelogs: dict[str, str] = {}
        self._jobs: dict[str, tuple[JobResult, ...]] = {}

    def apply(self, message: Message) -> None:
        if isinstance(message, BatchView):
            self._views[message.view] = (*self._views.get(message.view, ()), message)[-KEPT:]
        elif isinstance(message, JobResult):
            self._jobs[message.job] = (*self._jobs.get(message.job, ()), message)[-KEPT:]
        elif isinstance(message, Reset):
            self._views.pop(message.view, None)
        elif isinstance(message, Promoted):
            self._promoted[message.view] = message.name
        elif isinstance(message, KeptOn):
            self._changelogs[message.topic] = message.changelog_id

    def changelog(self, topic: str) -> str:
        """The id of the changelog that a source topic's state is kept on; empty where there is none yet."""
        return self._changelogs.get(topic, "")

    def results(self, job: str) -> tuple[JobResult, ...]:
        """The results of a MapReduce job that are kept, newest first."""
        return self._jobs.get(job, ())[::-1]

    def version(self, view: str) -> str | None:
        """The name of the version that is in force; None where none was ever promoted."""
        return self._promoted.get(view)

    def of(self, view: str, fingerprint: str) -> tuple[BatchView, ...]:
        """Newest first; none where the newest was computed by another definition."""
        views = self._views.get(view, ())
        return tuple(v for v in reversed(views) if v.fingerprint == fingerprint)

    def latest(self, view: str) -> BatchView | None:
        """The newest, whatever its definition."""
        views = self._views.get(view, ())
        return views[-1] if views else None

    def all(self) -> Mapping[str, tuple[BatchView, ...]]:
        return self._views


KEPT = 2
"""BatchViews of a View that stay readable: the one in force and the one before, which readers may still hold."""


@dataclass(frozen=True)
class Ran:
    """A run as the history has it; `overtaken` where another one of its View has begun since."""

    started: RunStarted
    ended: RunEnded | None = None
    overtaken: bool = False

    @property
    def outcome(self) -> str:
        """`published`, `failed`, `stopped`; without an end `killed` once another one has begun, else `running`."""
        if self.ended is not None:
            return self.ended.outcome
        return "killed" if self.overtaken else "running"

    @property
    def kind(self) -> Kind:
        return self.started.kind if self.ended is None else self.ended.kind


class History:
    """The runs of the batch layer, by replaying control records.

    >>> history = History()
    >>> for id in ("a", "b"):
    ...     history.apply(RunStarted(id, "clicks", "f", "full", "by hand", 0, 0, "host"))
    >>> history.apply(RunEnded("b", "published", 10, "full"))
    >>> [run.outcome for run in history.of("clicks")]
    ['killed', 'published']
    """

    def __init__(self) -> None:
        self._runs: dict[str, list[RunStarted]] = {}
        self._ends: dict[str, RunEnded] = {}

    def apply(self, message: Message) -> None:
        if isinstance(message, RunStarted):
            self._runs.setdefault(message.view, []).append(message)
        elif isinstance(message, RunEnded):
            self._ends[message.run] = message

    def of(self, view: str, fingerprint: str | None = None) -> list[Ran]:
        """The runs of a View, oldest first; those of one definition where that is given."""
        runs = self._runs.get(view, [])
        all_ = [Ran(run, self._ends.get(run.id), run is not runs[-1]) for run in runs]
        return [ran for ran in all_ if fingerprint in (None, ran.started.fingerprint)]

    def all(self) -> list[Ran]:
        """The runs of all Views, oldest first."""
        return sorted((ran for view in self._runs for ran in self.of(view)), key=lambda ran: ran.started.time)
