"""A state machine over the Driver's verbs: any order of them, a crash between any two, and every Answer checked."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamkit.errors import CutMismatch
from streamkit.testing.driver import Driver
from tests.life.app import Click, answers, expected, topology
from tests.life.oracle import events_before

VIEWS = ("tumbling", "hopping", "session", "total")

clicks = st.builds(
    Click,
    campaign=st.sampled_from(["acme", "zeta"]),
    user=st.sampled_from(["u1", "u2", "u3", "u4", "u5"]),
    cents=st.integers(-5, 500),
    at=st.integers(-20_000, 60_000),
)


class Life(RuleBasedStateMachine):
    """Every Answer must equal the plain loop over the records before its Cut, whatever has happened."""

    @initialize()
    def begin(self) -> None:
        self.app = topology()
        self.topic = self.app.topics["clicks"]
        self.driver = Driver(self.app, split_records=7)
        self.computed: set[str] = set()
        self.unadopted: dict[str, int] = dict.fromkeys(VIEWS, 0)
        self.driver.checkpoint()

    @rule(batch=st.lists(clicks, min_size=1, max_size=12))
    def send(self, batch: list[Click]) -> None:
        self.driver.send(self.topic, *batch)

    @rule()
    def send_rubbish(self) -> None:
        self.driver.send_bytes(self.topic, b'{"campaign": 7}', key=b"u1")

    @rule(records=st.integers(1, 20))
    def step(self, records: int) -> None:
        self.driver.step(records)

    @rule()
    def checkpoint(self) -> None:
        self.driver.checkpoint()
        self.unadopted = dict.fromkeys(VIEWS, 0)

    @rule(durable_steps=st.integers(1, 4))
    def crash_in_checkpoint(self, durable_steps: int) -> None:
        """A crash after each of a Checkpoint's steps but the last."""
        self.driver.worker.listen()
        for verb in ("settle", "commit", "report")[:durable_steps]:
            getattr(self.driver, verb)()
        self.crash()

    @rule()
    def crash(self) -> None:
        self.driver.crash()

    @rule(view=st.sampled_from(VIEWS))
    def seal(self, view: str) -> None:
        self.driver.seal(self.app.views[view])

    @rule(view=st.sampled_from(VIEWS), at_end=st.booleans())
    def batch(self, view: str, at_end: bool) -> None:
        found = self.app.views[view]
        cut = self.driver.end(found) if at_end else None
        self.driver.batch(found, cut)
        self.computed.add(view)
        proof = self.driver.prove(found)
        assert proof is None or proof.differences == 0, proof

    @precondition(lambda self: self.computed)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        view = data.draw(st.sampled_from(sorted(self.computed)))
        self.computed.remove(view)
        self.driver.publish(self.app.views[view])
        self.unadopted[view] += 1

    @rule(view=st.sampled_from(VIEWS), later=st.lists(clicks, min_size=1, max_size=6))
    def be_published_across(self, view: str, later: list[Click]) -> None:
        """The batch layer cuts at the log's end while the worker reads on: a Segment comes to lie across the Cut."""
        found = self.app.views[view]
        self.driver.batch(found, self.driver.end(found))
        self.driver.publish(found)
        self.computed.discard(view)
        self.unadopted[view] += 1
        self.send(later)
        self.driver.step()

    @invariant()
    def every_answer_is_the_plain_loop(self) -> None:
        records = [(r.partition, r.offset, r.value or b"") for r in self.driver.records("clicks")]
        for name in VIEWS:
            try:
                scanned = self.driver.scan(self.app.views[name])
            except CutMismatch:
                # Only where two BatchViews came, both across a Segment, and the worker has seen neither.
                assert self.unadopted[name] >= 2
                continue
            if scanned:
                events = [e for e in events_before(records, scanned[0].cut.offsets) if e["campaign"] != 7]
                assert answers(scanned) == expected(name, events), (name, scanned[0].cut)

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        with self.driver as driver:
            driver.catch_up()
            driver.catch_up()  # a release may have sent the reader back
            good = [json.loads(r.value or b"") for r in driver.records("clicks")]
            good = [e for e in good if e["campaign"] != 7]
            for name in VIEWS:
                scanned = driver.scan(self.app.views[name])
                assert answers(scanned) == expected(name, good)
                assert all(a.lag == 0 for a in scanned)
                assert driver.orphans(self.app.views[name]) == 0
            self.check_agent(driver, good)

    def check_agent(self, driver: Driver, good: list[dict[str, Any]]) -> None:
        """At least once: every alert is there, and none that is not due."""
        counts: dict[str, int] = {}
        due = set()
        for event in good:
            counts[event["user"]] = counts.get(event["user"], 0) + 1
            if counts[event["user"]] % 3 == 0:
                due.add((event["campaign"], counts[event["user"]]))
        assert {(a.campaign, a.seen) for a in driver.values(self.app.topics["clicks.alerts"])} == due
        letters = {letter.identity for letter in driver.dead_letters(self.topic)}
        assert len(letters) == sum(1 for r in driver.records("clicks") if r.value == b'{"campaign": 7}')


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=int(os.environ.get("STREAMKIT_LIFE_EXAMPLES", "150")),
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
pytestmark = pytest.mark.timeout(600)
