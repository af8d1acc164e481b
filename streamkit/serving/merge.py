"""The merge: `batch(Cut) + sealed Segments after it + open Segment`, or a refusal that says why.

Order of reading, and what would go wrong in the other order. A reader refreshes its look at the copies first and reads
the control topic to its end second. The worker publishes nothing; it releases Segments only after it has seen the
BatchView that covers them on the control topic. So whatever release the refreshed copies show, the BatchView that
makes up for it is on the topic by the time the topic is read. The other way round: topic read (no BatchView yet),
BatchView published, worker releases [0, 10), copy refreshed: the Segments [10, 15) would stand alone and the answer
be short by ten records. `Segments.after` would refuse it, for want of a BatchView that ends at 10, and the reader
would have to begin again.

The partitions' copies may be of different Checkpoints: each is right at its own offsets, and the Cut says which.

While the broker is away, Answers go on from the last look: they are as exact at their Cut as ever, and say that nobody
knows their lag. Should the broker have gone between the two steps of a look, the copies are newer than what is known
of the control topic: that is the other order, in which the worst is a refusal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from streamkit.checkpoint import (
    Origin,
    Segments,
    Slot,
    origin_key,
    segments_key,
    task_prefix,
)
from streamkit.control import BatchView, control_topic
from streamkit.cut import Cut
from streamkit.errors import (
    BrokerUnreachable,
    CutMismatch,
    DefinitionChanged,
    DefinitionError,
    StateMissing,
    StreamkitError,
    TopicChanged,
)
from streamkit.fold import State
from streamkit.log.base import Log, TopicInfo
from streamkit.log.control import ControlTopic
from streamkit.record import TopicPartition
from streamkit.serving.batches import BatchFiles
from streamkit.serving.broker import Broker
from streamkit.serving.copies import Copies
from streamkit.serving.parts import Parts
from streamkit.serving.seam import Seam, furthest, meet
from streamkit.topology import Topology
from streamkit.view import Answer, View

_unpack_segments = msgspec.msgpack.Decoder(Segments).decode
_unpack_origin = msgspec.msgpack.Decoder(Origin).decode


@dataclass(frozen=True)
class Page:
    """Answers at one Seam; `lag` counts the records on the log that are in none of them (None: see Answer)."""

    seam: Seam
    lag: int | None
    answers: Iterator[Answer]


class Serving:
    """Answers for the Views of one Topology, from the batch folder and a look at the copies of its tasks.

    `stale_seconds` is how old that look may be; 0 asks anew each time. Threads may share it.
    """

    def __init__(
        self, log: Log, topology: Topology, batch_folder: Path, copies: Copies, *, stale_seconds: float = 0.0
    ) -> None:
        self._topology = topology
        self.copies = copies
        self._control = ControlTopic(log, topology.name)
        self._parts = Parts(BatchFiles(batch_folder), copies)
        self._broker = Broker(log, control_topic(topology.name))
        self._seams: dict[View, Seam] = {}
        self._stale_seconds = stale_seconds
        self._looked = float("-inf")
        self._failed: StreamkitError | None = None
        self._holding = False
        self._lock = threading.RLock()

    def close(self) -> None:
        self._broker.close()
        self._control.close()

    @contextmanager
    def one_look(self) -> Iterator[None]:
        """All that this thread asks within is answered by one look at the copies and the broker; others wait."""
        with self._lock:
            self._refresh()
            self._holding = True
            try:
                yield
            finally:
                self._holding = False

    # -- versions -----------------------------------------------------------------------------------------------------

    def in_force(self, base: str) -> View:
        """The version of a View that answers: the one promoted last, else the first that is declared.

        Raises DefinitionError for a View that is not declared, DefinitionChanged where the one promoted is not.
        """
        versions = self._topology.versions(base)
        if not versions:
            return self._topology.find_view(base)
        with self._lock:
            self._refresh()
            promoted = self._control.published.version(base)
        if promoted is None:
            return versions[0]
        for view in versions:
            if view.name == promoted:
                return view
        raise DefinitionChanged(
            f"readers of view {base!r} were switched to {promoted}, which this topology does not declare (it has "
            f"{', '.join(v.name for v in versions)}): declare it again, or go back: `streamkit upgrade TOPOLOGY "
            f"{base} --back`"
        )

    def find(self, name: str) -> View:
        """The View that answers for NAME, or the one version NAME@VERSION, in force or not. Raises as `in_force`."""
        base, _, version = name.partition("@")
        return self._topology.find_view(base if version == "1" else name) if version else self.in_force(base)

    # -- asking -------------------------------------------------------------------------------------------------------

    def get(self, view: View, key: tuple[Any, ...], window: int | tuple[int, int] | None = None) -> Answer:
        """One key and window. Raises CutMismatch, DefinitionChanged, TopicChanged; DefinitionError for a bad window."""
        with self._lock:
            seam = self._look(view)
            wanted = _wanted(view, window)
            batch, speed = self._parts.of_key(view, seam, key, wanted)
            fold = self._parts.fold(view)
            slot = _pick(fold.merge_slots([*batch, *speed]), key, wanted, window)
            lag = self._lag(seam.cut)
            return self._answer(view, seam, lag, slot, _within(batch, slot), _within(speed, slot))

    def scan(
        self, view: View, key: tuple[Any, ...] | None = None, start: int | None = None, end: int | None = None
    ) -> Iterator[Answer]:
        """All windows that overlap `[start, end)`, of one key or of all, in order of key and time, at one Cut."""
        yield from self.page(view, key, start, end).answers

    def page(
        self,
        view: View,
        key: tuple[Any, ...] | None = None,
        start: int | None = None,
        end: int | None = None,
        *,
        after: Slot | None = None,
    ) -> Page:
        """`scan` from the Slot `after` on, without it, and the Seam that all of it is answered at."""
        with self._lock:
            seam = self._look(view)
            lag = self._lag(seam.cut)
            pieces = self._parts.pieces(view, seam, key, after)
        # Outside the lock: what is read was opened under it, so nobody waits for a long scan.
        within = (p for p in pieces if not view.windowed or _overlaps(p[0], start, end))
        return Page(seam, lag, (self._answer(view, seam, lag, *piece) for piece in within))

    def seam(self, view: View) -> Seam:
        """Where batch and speed meet now."""
        with self._lock:
            return self._look(view)

    def seams(self, views: Sequence[View]) -> tuple[Seam, ...]:
        """Those of several Views at one look."""
        with self._lock:
            self._refresh()
            return tuple(self._find_seam(view) for view in views)

    def lag(self, view: View) -> int:
        """How many records on the log are after the Seam, and in no Answer yet. Raises BrokerUnreachable."""
        with self._lock:
            lag = self._lag(self._look(view).cut)
            if lag is None and self._broker.away is not None:
                raise self._broker.away.with_traceback(None)
            return lag or 0

    def merged(self, view: View, seam: Seam) -> Iterator[tuple[Slot, State]]:
        """All states at the Seam's Cut, in order of their keys' bytes."""
        fold = self._parts.fold(view)
        for slot, batch, speed in self._parts.pieces(view, seam):
            state = fold.merge_all(s for _, s in [*batch, *speed])
            assert state is not None
            yield slot, state

    def seam_at(self, view: View, cut: Cut) -> Seam:
        """The Seam whose Cut is `cut`, which may lie in the past: for the proof. Raises CutMismatch."""
        with self._lock:
            self._refresh()
            segments, batches, _ = self._see(view)
            reasons = []
            for batch in (*batches, None):
                try:
                    return meet(view, segments, batch, cut)
                except CutMismatch as error:
                    reasons.append(str(error))
            raise CutMismatch(f"view {view.name!r} cannot be merged at {cut}: {'; '.join(reasons)}")

    def segments(self, view: View) -> Mapping[int, Segments]:
        """The worker's Segments by partition, empty where no worker has run."""
        with self._lock:
            self._refresh()
            return self._see(view)[0]

    # -- seam ---------------------------------------------------------------------------------------------------------

    def _look(self, view: View) -> Seam:
        self._refresh()
        if view not in self._seams:
            self._seams[view] = self._find_seam(view)
        return self._seams[view]

    def _find_seam(self, view: View) -> Seam:
        segments, batches, topic = self._see(view)
        reasons = []
        for batch in (*batches, None):
            try:
                seam = meet(view, segments, batch, furthest(view, topic, segments, batch))
                return replace(seam, as_of=self._as_of(view, batch))
            except CutMismatch as error:
                reasons.append(str(error))
        raise CutMismatch(
            f"view {view.name!r} has no exact answer now: {'; '.join(reasons)}. A running worker mends this at its "
            f"next Checkpoint; without one, start `streamkit worker`, or run `streamkit batch`"
        )

    def _as_of(self, view: View, batch: BatchView | None) -> int:
        marks = [position.time for position in self.copies.positions(view.topic.name).values()]
        return max([*marks, batch.created if batch else 0])

    def _see(self, view: View) -> tuple[dict[int, Segments], tuple[BatchView, ...], TopicInfo]:
        topic = self._broker.topic(view.topic.name)
        segments = self._segments(view, topic)
        newest = self._control.published.latest(view.name)
        batches = self._control.published.of(view.name, view.fingerprint)
        if newest is not None and not batches:
            raise DefinitionChanged(
                f"view {view.name!r} was changed since its BatchView was computed (definition {view.fingerprint}, "
                f"BatchView {newest.fingerprint}): run `streamkit batch TOPOLOGY {view.name}`, or put the old "
                f"definition back"
            )
        for batch in batches[:1]:
            if batch.topic_id != topic.id:
                raise TopicChanged(
                    f"topic {topic.name!r} was deleted and made again since view {view.name!r} was computed in batch "
                    f"(id {topic.id}, BatchView {batch.topic_id}): `streamkit reset TOPOLOGY {view.name}` begins anew"
                )
        if not batches and not segments:
            raise StateMissing(
                f"view {view.name!r} has neither Segments nor a BatchView yet: run `streamkit worker TOPOLOGY` "
                f"or `streamkit batch TOPOLOGY {view.name}`, with the same --data folder"
            )
        return segments, batches, topic

    def _refresh(self) -> None:
        if self._holding or not self._broker.look():
            return
        now = time.monotonic()
        if now - self._looked < self._stale_seconds:
            if self._failed is not None:
                raise self._failed.with_traceback(None)
            return
        try:
            self.copies.refresh()
            self._control.catch_up(self._broker.renew())
        except StreamkitError as error:
            self._seams.clear()
            # A broker that is away costs seconds: who waited for the lock meanwhile need not find out again.
            self._failed, self._looked = error, time.monotonic()
            if not isinstance(error, BrokerUnreachable):
                raise
            self._broker.lose(error)
            self._failed, self._looked = None, float("-inf")
        else:
            self._seams.clear()
            self._failed, self._looked = None, now

    def _segments(self, view: View, topic: TopicInfo) -> dict[int, Segments]:
        found = {}
        for partition in self.copies.positions(topic.name):
            task = TopicPartition(topic.name, partition)
            prefix = task_prefix(task)
            copy = self.copies.of(task)
            assert copy is not None
            origin, segments = copy.get([prefix + origin_key(view.name), prefix + segments_key(view.name)])
            if origin is not None and segments is not None:
                self._check_origin(view, topic, _unpack_origin(origin))
                found[partition] = _unpack_segments(segments)
        return found

    def _check_origin(self, view: View, topic: TopicInfo, origin: Origin) -> None:
        if origin.fingerprint != view.fingerprint:
            raise DefinitionChanged(
                f"view {view.name!r} was changed since its state was written (definition {view.fingerprint}, state "
                f"{origin.fingerprint}): start the worker with this definition, or put the old one back"
            )
        if origin.topic_id != topic.id:
            raise TopicChanged(
                f"topic {topic.name!r} was deleted and made again since the state of view {view.name!r} was written "
                f"(id {topic.id}, state {origin.topic_id}): `streamkit reset TOPOLOGY` begins anew"
            )

    def _lag(self, cut: Cut) -> int | None:
        ends = self._broker.ends(cut.topic)
        return None if ends is None else sum(max(0, end - cut.offsets.get(p, 0)) for p, end in ends.items())

    def _answer(
        self,
        view: View,
        seam: Seam,
        lag: int | None,
        slot: Slot,
        batch: list[tuple[Slot, State]],
        speed: list[tuple[Slot, State]],
    ) -> Answer:
        fold = self._parts.fold(view)
        parts = [fold.merge_all(state for _, state in part) for part in (batch, speed)]
        whole = fold.merge_all(p for p in parts if p is not None)
        state = fold.zero() if whole is None else whole
        return Answer(
            view=view.name,
            key=slot.key,
            window=(slot.start, slot.end) if view.windowed else None,
            value=fold.result(state),
            cut=seam.cut,
            lag=lag,
            batch=None if parts[0] is None else fold.result(parts[0]),
            speed=None if parts[1] is None else fold.result(parts[1]),
            errors=fold.bounds(state),
            as_of=seam.as_of,
        )


def _wanted(view: View, window: int | tuple[int, int] | None) -> list[tuple[int, int]] | None:
    """The windows asked for; None where only the data can tell (sessions)."""
    if not view.windowed:
        if window is not None:
            raise DefinitionError(f"view {view.name!r} has no windows; ask without one")
        return [(0, 0)]
    if window is None:
        raise DefinitionError(f"view {view.name!r} has windows; give one, or scan() them")
    if view.window.merges:
        return None
    if isinstance(window, int):
        spans = view.window.assign(window)
        if len(spans) > 1:
            raise DefinitionError(f"view {view.name!r}: {len(spans)} windows hold {window}; give (start, end)")
        return spans
    if tuple(window) not in view.window.assign(window[0]):
        raise DefinitionError(f"view {view.name!r}: {tuple(window)} is no window of {view.window.describe()}")
    return [(window[0], window[1])]


def _pick(
    states: Mapping[Slot, State],
    key: tuple[Any, ...],
    wanted: list[tuple[int, int]] | None,
    window: int | tuple[int, int] | None,
) -> Slot:
    """The Slot that was asked for; a session is the one that holds the moment, or that is just so long."""
    if wanted is not None:
        return Slot(key, *wanted[0])
    assert window is not None
    for slot in states:
        exact = not isinstance(window, int) and (slot.start, slot.end) == tuple(window)
        if exact or (isinstance(window, int) and slot.start <= window < slot.end):
            return slot
    return Slot(key, window, window) if isinstance(window, int) else Slot(key, *window)


def _overlaps(slot: Slot, start: int | None, end: int | None) -> bool:
    return (end is None or slot.start < end) and (start is None or slot.end > start)


def _within(parts: list[tuple[Slot, State]], whole: Slot) -> list[tuple[Slot, State]]:
    """The parts that went into `whole`: for sessions, all that lie in its span."""
    return [(s, v) for s, v in parts if s.start >= whole.start and s.end <= whole.end]
