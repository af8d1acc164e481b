"""What a tortured application is compared with: a plain loop over its input, read from the log as raw json."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

from streamkit.deadletter import DeadLetter
from streamkit.errors import BrokerUnreachable, CutMismatch, StateError, StreamkitError
from streamkit.folder import DataFolder
from streamkit.log.kafka import KafkaLog
from streamkit.log.scan import read_all
from streamkit.record import TopicPartition, records_of
from streamkit.serving.connect import open_serving
from streamkit.serving.merge import Serving
from streamkit.settings import Connection
from streamkit.topology import Topology
from streamkit.view import Answer, View
from tests.life.app import answers, expected

RUBBISH = (b'{"campaign": 7}', b"no json", b"")
REFUSALS = (CutMismatch, StateError, BrokerUnreachable)
"""What a reader may say instead of an Answer while workers and broker are killed, and their files deleted."""
PATIENCE = 150.0


class Difference(Exception):
    """Something is not as the plain loop says."""


class Input:
    """The topic's records as a plain reader sees them; any thread may ask."""

    def __init__(self, brokers: str, topic: str) -> None:
        self.topic = topic
        self._log = KafkaLog(Connection(brokers))
        self._lock = threading.Lock()
        self._reader = self._log.reader({TopicPartition(topic, p): at for p, at in self._log.starts(topic).items()})
        self._events: list[tuple[int, int, dict[str, Any]]] = []
        self._rubbish: list[tuple[int, int]] = []

    def before(self, offsets: Mapping[int, int]) -> list[dict[str, Any]]:
        """The events before a Cut. Raises Difference where the log does not come to it."""
        self._reach(offsets)
        return [event for partition, offset, event in list(self._events) if offset < offsets.get(partition, 0)]

    def alerts(self, offsets: Mapping[int, int]) -> Counter[tuple[str, int]]:
        """What the agent sends: every third click of a user."""
        self._reach(offsets)
        counts: Counter[tuple[int, str]] = Counter()
        due: Counter[tuple[str, int]] = Counter()
        for partition, offset, event in sorted(self._events, key=lambda e: e[:2]):
            if offset < offsets[partition]:
                at = (partition, event["user"])
                counts[at] += 1
                if counts[at] % 3 == 0:
                    due[event["campaign"], counts[at]] += 1
        return due

    def letters(self, offsets: Mapping[int, int]) -> Counter[Any]:
        self._reach(offsets)
        where = ((TopicPartition(self.topic, p), offset) for p, offset in self._rubbish if offset < offsets[p])
        return Counter(("decode", "", source, offset) for source, offset in where)

    def close(self) -> None:
        self._reader.close()

    def _reach(self, offsets: Mapping[int, int]) -> None:
        with self._lock:
            for _ in range(int(PATIENCE)):
                read = self._reader.positions()
                if all(read[TopicPartition(self.topic, p)] >= offset for p, offset in offsets.items()):
                    return
                for chunk in self._reader.poll(100_000, 1.0):
                    self._take(chunk)
        raise Difference(f"a Cut at {offsets}, and the log does not come to it: {self._reader.positions()}")

    def _take(self, chunk: Any) -> None:
        for record in records_of(chunk):
            if (record.value or b"") in RUBBISH:
                self._rubbish.append((record.partition, record.offset))
            else:
                self._events.append((record.partition, record.offset, json.loads(record.value or b"")))


class Asker(threading.Thread):
    """A reader that asks all the time, and compares what it is told; `follow` makes it a serving node of its own."""

    def __init__(
        self, name: str, app: Topology, brokers: str, folder: DataFolder, plain: Input, seed: str, *, follow: bool
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._app, self._brokers, self._folder, self._plain, self._follow = app, brokers, folder, plain, follow
        self._random = random.Random(seed)
        self._over, self._reopen = threading.Event(), threading.Event()
        self.compared = 0
        self.refused: Counter[str] = Counter()
        self.said = ""
        """The last refusal."""
        self.failure: BaseException | None = None
        self._seen: dict[str, tuple[dict[int, int], int | None]] = {}

    def run(self) -> None:
        try:
            with closing(KafkaLog(Connection(self._brokers))) as log:
                while not self._over.is_set():
                    try:
                        self._ask_until_reopened(log)
                    except REFUSALS as refusal:
                        self._refuse(refusal)
        except BaseException as failure:
            self.failure = failure

    def reopen(self) -> None:
        """Let go of all that is open, and begin again with what is on the disk."""
        self._reopen.set()

    def stop(self, seconds: float) -> bool:
        """False where it is still at it."""
        self._over.set()
        self.join(seconds)
        return not self.is_alive()

    def came_to(self, ends: Mapping[int, int]) -> bool:
        """Was every View compared at these offsets, with nothing left on the log?"""
        return all(self._seen.get(name) == (ends, 0) for name in self._app.views)

    def where(self) -> str:
        return f"{self.name} has compared at (offsets, lag) {self._seen}; its last refusal: {self.said or 'none'}"

    def _ask_until_reopened(self, log: KafkaLog) -> None:
        self._reopen.clear()
        with open_serving(self._app, log, self._folder, follow=self._follow) as serving:
            while not (self._over.is_set() or self._reopen.is_set()):
                for view in self._app.views.values():
                    try:
                        self._ask(serving, view)
                    except REFUSALS as refusal:
                        self._refuse(refusal)
                    self._over.wait(0.05)

    def _refuse(self, refusal: StreamkitError) -> None:
        self.refused[type(refusal).__name__] += 1
        self.said = str(refusal)
        self._over.wait(0.05)

    def _ask(self, serving: Serving, view: View) -> None:
        scanned = list(serving.scan(view))
        if not scanned:
            return
        cut = dict(scanned[0].cut.offsets)
        told, due = answers(scanned), expected(view.name, self._plain.before(cut))
        if told != due:
            raise Difference(f"{self.name}, view {view.name}, at {cut}: {first_difference(told, due)}")
        self._get(serving, view, self._random.choice(scanned))
        self.compared += len(scanned) + 1
        self._seen[view.name] = cut, scanned[0].lag

    def _get(self, serving: Serving, view: View, one: Answer) -> None:
        """One Slot by itself, at whatever Cut it is by now."""
        moment = one.window[0] if one.window else None
        asked = moment if view.window.merges else one.window
        got = serving.get(view, one.key, asked)
        events = [e for e in self._plain.before(got.cut.offsets) if e["campaign"] == one.key[0]]
        due = expected(view.name, events)
        if view.window.merges:
            due = {slot: v for slot, v in due.items() if slot[1] and slot[1][0] <= (moment or 0) < slot[1][1]}
        else:
            due = {slot: v for slot, v in due.items() if slot[1] == one.window}
        told = answers([got])
        if told != due and not (not due and got.value["clicks"] == 0):  # the copy that was scanned may be lost by now
            raise Difference(f"{self.name}, view {view.name}, get at {got.cut.offsets}: {first_difference(told, due)}")


def first_difference(told: Mapping[Any, Any], due: Mapping[Any, Any]) -> str:
    differ = sorted((k for k in told.keys() | due.keys() if told.get(k) != due.get(k)), key=str)
    return (
        f"{len(differ)} of {len(due)} differ, first {differ[0]}: {told.get(differ[0])}, expected {due.get(differ[0])}"
    )


def compare_outputs(log: KafkaLog, plain: Input, offsets: Mapping[int, int]) -> int:
    """Every alert and every dead letter that is due, once; returns how many there are."""
    values = (json.loads(r.value or b"") for r in read_all(log, f"{plain.topic}.alerts"))
    compare("alerts", ((v["campaign"], v["seen"]) for v in values), due := plain.alerts(offsets))
    letters = (DeadLetter.of(r).identity for r in read_all(log, f"{plain.topic}.dead-letter"))
    compare("dead letters", letters, rubbish := plain.letters(offsets))
    return due.total() + rubbish.total()


def compare(what: str, sent: Iterable[Any], due: Counter[Any]) -> None:
    came = Counter(sent)
    if came != due:
        raise Difference(f"{what}: {came.total()} came, expected {due.total()}; {first_difference(came, due)}")
