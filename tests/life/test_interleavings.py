"""A state machine over the Driver's verbs: any order of them, a crash between any two, and every Answer checked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamkit import fold
from streamkit.changelog import block, compaction, follower
from streamkit.errors import CutMismatch, StateMissing
from streamkit.native.loader import loader
from streamkit.serving.merge import Serving
from streamkit.speed import ahead, assignment, views
from streamkit.speed.ahead import ReadAhead
from streamkit.testing.driver import Driver
from tests.life.app import Click, answers, expected, topology
from tests.life.oracle import Raw, events_before

VIEWS = ("tumbling", "hopping", "session", "total")

clicks = st.builds(
    Click,
    campaign=st.sampled_from(["acme", "zeta"]),
    user=st.sampled_from(["u1", "u2", "u3", "u4", "u5"]),
    cents=st.integers(-5, 500),
    at=st.integers(-20_000, 60_000),
)


WORKERS = 2
workers = st.integers(0, WORKERS - 1)


def read_ahead(reader: ReadAhead, begin: Callable[[ReadAhead], None] = ReadAhead.begin) -> None:
    """To the end, so that an interleaving is the same each time."""
    begin(reader)
    if reader._thread is not None:
        reader._thread.join()


class Life(RuleBasedStateMachine):
    """Every Answer must equal the plain loop over the records before its Cut, whatever has happened."""

    @initialize(
        standbys=st.integers(0, 1),
        purged=st.sampled_from([2, views.PURGED]),
        restored=st.sampled_from([3, follower.RESTORE_RECORDS]),
        many=st.booleans(),
    )
    def begin(self, standbys: int, purged: int, restored: int, many: bool) -> None:
        self.patches = ExitStack()
        patch = self.patches.enter_context(pytest.MonkeyPatch.context())
        # A few records must do for what takes millions otherwise: more than one step, or one Checkpoint, can do.
        patch.setattr(views, "PURGED", purged)
        patch.setattr(assignment, "RESTORE_RECORDS", restored)
        patch.setattr(assignment, "_SHORT", restored)
        if many:
            patch.setattr(block, "BLOCK_BYTES", 64)
            patch.setattr(compaction, "LEAST", 300)
            patch.setattr(compaction, "TIMES", 1)
            patch.setattr(compaction, "PIECE", 100)
            # What is done for many keys is done for two.
            patch.setattr(fold, "MANY", 1)
            patch.setattr(views, "MANY", 1)
            assert loader.load() is not None, loader.failure
            patch.setattr(ahead, "BULK", 1)
            patch.setattr(ahead, "MOST", 10)
            patch.setattr(ahead, "_PATIENCE", 0.0)
            patch.setattr(ReadAhead, "begin", read_ahead)
        patch.setattr(assignment, "_PLACE_SECONDS", 0.0)
        self.app = topology(standbys=standbys)
        self.topic = self.app.topics["clicks"]
        self.driver = Driver(self.app, split_records=7, workers=WORKERS)
        self.computed: set[str] = set()
        self.across: set[str] = set()
        """Views whose computed BatchView may lie across a Segment."""
        self.torn: set[str] = set()
        """Views whose BatchView may lie across a Segment that its worker has not given up yet."""
        self.torn_afar: set[str] = set()
        self.disk_lost = False
        """A task's only copy here may be gone; its changelog has it."""
        self.restoring_afar = False
        self.driver.step()
        self.driver.checkpoint()

    # -- the log --

    @rule(batch=st.lists(clicks, min_size=1, max_size=12))
    def send(self, batch: list[Click]) -> None:
        self.driver.send(self.topic, *batch)

    @rule()
    def send_rubbish(self) -> None:
        self.driver.send_bytes(self.topic, b'{"campaign": 7}', key=b"u1")

    @rule()
    def add_a_partition(self) -> None:
        self.driver.log.grow("clicks", min(5, self.driver.log.describe("clicks").partitions + 1))

    # -- workers --

    @rule(worker=workers, records=st.integers(1, 20))
    def step(self, worker: int, records: int) -> None:
        self.driver.step(records, worker=worker)

    @rule(worker=workers)
    def checkpoint(self, worker: int) -> None:
        self.driver.checkpoint(worker=worker)

    @rule(batch=st.lists(clicks, max_size=12), worker=workers, durable_steps=st.integers(1, 3))
    def crash_in_checkpoint(self, batch: list[Click], worker: int, durable_steps: int) -> None:
        """A crash after each of a Checkpoint's steps but the last."""
        self.send(batch)
        self.driver.step(worker=worker)
        self.driver.worker_at(worker).listen()
        for verb in ("settle", "commit", "write")[:durable_steps]:
            getattr(self.driver, verb)(worker=worker)
        self.driver.crash(worker=worker)

    @rule(worker=workers)
    def crash(self, worker: int) -> None:
        self.driver.crash(worker=worker)

    @rule(worker=workers)
    def lose_disk(self, worker: int) -> None:
        self.driver.lose_disk(worker=worker)
        self.disk_lost = True

    @rule(worker=workers)
    def suspend(self, worker: int) -> None:
        """A zombie: its next verb finds its tasks given to another."""
        self.driver.suspend(worker=worker)

    @rule(batch=st.lists(clicks, min_size=1, max_size=6), worker=workers, taken=st.booleans())
    def be_refused(self, batch: list[Click], worker: int, taken: bool) -> None:
        """A zombie that comes as far as its transaction, whether another has taken its tasks by then or not."""
        self.send(batch)
        self.driver.step(worker=worker)
        self.driver.suspend(worker=worker)
        if taken:
            self.driver.step(worker=(worker + 1) % WORKERS)
            self.driver.checkpoint(worker=(worker + 1) % WORKERS)
        self.driver.checkpoint(worker=worker)

    @rule(batch=st.lists(clicks, min_size=1, max_size=12), worker=workers, comes=st.booleans())
    def share_anew(self, batch: list[Click], worker: int, comes: bool) -> None:
        """The other worker comes, or goes, while this one has read what is in no Checkpoint yet."""
        other = (worker + 1) % WORKERS
        self.send(batch)
        self.driver.step(worker=worker)
        if comes:
            self.driver.step(worker=other)
        else:
            self.driver.crash(worker=other)
        self.driver.step(worker=worker)

    @rule(worker=workers)
    def settle_down(self, worker: int) -> None:
        """Everybody comes to the log's end."""
        for _ in range(2):  # a release may have sent a reader back
            for number in (worker, (worker + 1) % WORKERS):
                self.driver.catch_up(worker=number)
        self.torn.clear()
        self.disk_lost = False

    # -- batch --

    @rule(view=st.sampled_from(VIEWS))
    def seal(self, view: str) -> None:
        self.driver.seal(self.app.views[view])

    @rule(view=st.sampled_from(VIEWS), at_end=st.booleans(), incremental=st.booleans())
    def batch(self, view: str, at_end: bool, incremental: bool) -> None:
        found = self.app.views[view]
        cut = self.driver.end(found) if at_end else self.driver.cut(found)
        self.across.discard(view)
        self.across |= {view} if cut.offsets == self.driver.end(found).offsets else set()
        self.driver.batch(found, cut, incremental=incremental)
        self.computed.add(view)
        for proof in (self.driver.prove(found), self.driver.prove_before(found)):
            assert proof is None or proof.differences == 0, proof

    @precondition(lambda self: self.computed)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        view = data.draw(st.sampled_from(sorted(self.computed)))
        self.computed.remove(view)
        self.driver.publish(self.app.views[view])
        if view in self.across:
            self.torn.add(view)
            self.torn_afar.add(view)

    @rule(
        view=st.sampled_from(VIEWS), later=st.lists(clicks, min_size=1, max_size=6), worker=workers,
        incremental=st.booleans(),
    )  # fmt: skip
    def be_published_across(self, view: str, later: list[Click], worker: int, incremental: bool) -> None:
        """The batch layer cuts at the log's end while a worker reads on: a Segment comes to lie across the Cut."""
        found = self.app.views[view]
        self.driver.batch(found, self.driver.end(found), incremental=incremental)
        self.driver.publish(found)
        self.computed.discard(view)
        self.torn.add(view)
        self.torn_afar.add(view)
        self.send(later)
        self.driver.step(worker=worker)

    @rule(
        view=st.sampled_from(VIEWS), later=st.lists(clicks, min_size=1, max_size=6), worker=workers,
        incremental=st.booleans(),
    )  # fmt: skip
    def be_published_at_a_seal(self, view: str, later: list[Click], worker: int, incremental: bool) -> None:
        """As it should be: the workers report where Segments end, and some are released beside one that goes on."""
        found = self.app.views[view]
        self.driver.seal(found)
        self.settle_down(worker)
        self.driver.batch(found, incremental=incremental)
        proof = self.driver.prove(found)
        assert proof is not None, "no Segment ends where the workers have reported that they sealed"
        assert proof.differences == 0, proof
        self.send(later)
        self.settle_down(worker)
        self.driver.publish(found)
        self.computed.discard(view)
        self.driver.checkpoint(worker=worker)

    # -- readers --

    @rule()
    def follow(self) -> None:
        """A serving node on another machine catches up with the changelogs."""
        self.driver.follow()
        self.torn_afar &= self.torn
        self.disk_lost = self.restoring_afar = False

    @rule(records=st.integers(1, 10))
    def follow_a_little(self, records: int) -> None:
        """In the middle of a Checkpoint, too; new copies are not whole yet."""
        self.driver.follow(records)
        self.restoring_afar = True

    @rule(view=st.sampled_from(VIEWS))
    def reset(self, view: str) -> None:
        self.driver.reset(self.app.views[view])
        self.computed.discard(view)
        self.torn.add(view)
        self.torn_afar.add(view)

    @invariant()
    def every_answer_is_the_plain_loop(self) -> None:
        records = [(r.partition, r.offset, r.value or b"") for r in self.driver.records("clicks")]
        for name in VIEWS:
            self.check(name, self.driver.serving, records, may_refuse=name in self.torn or self.disk_lost)
            afar = name in self.torn_afar or self.restoring_afar or not self.driver.followed
            self.check(name, self.driver.far, records, may_refuse=afar)

    def check(self, name: str, serving: Serving, records: list[Raw], *, may_refuse: bool) -> None:
        try:
            scanned = list(serving.scan(self.app.views[name]))
        except (CutMismatch, StateMissing):
            assert may_refuse, name
            return
        if scanned:
            events = [e for e in events_before(records, scanned[0].cut.offsets) if e["campaign"] != 7]
            assert answers(scanned) == expected(name, events), (name, scanned[0].cut)

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        with self.patches, self.driver as driver:
            driver.crash(worker=1)
            for _ in range(3):  # a release may have sent the reader back; then what was released is deleted
                driver.catch_up()
            for _ in range(1_000):
                if not driver.worker.asked():
                    break
                driver.checkpoint()
            driver.follow()
            good = [json.loads(r.value or b"") for r in driver.records("clicks")]
            good = [e for e in good if e["campaign"] != 7]
            for name in VIEWS:
                for serving in (driver.serving, driver.far):
                    scanned = list(serving.scan(self.app.views[name]))
                    assert answers(scanned) == expected(name, good)
                    assert all(a.lag == 0 for a in scanned)
                assert driver.orphans(self.app.views[name]) == 0
            self.check_agent(driver)

    def check_agent(self, driver: Driver) -> None:
        """Exactly once: every alert that is due, and every dead letter, and each of them one time."""
        counts: dict[tuple[int, str], int] = {}
        due = []
        for record in driver.records("clicks"):
            event = json.loads(record.value or b"")
            if event["campaign"] == 7:
                continue
            at = (record.partition, event["user"])  # a key's Table stays behind where partitions are added
            counts[at] = counts.get(at, 0) + 1
            if counts[at] % 3 == 0:
                due.append((event["campaign"], counts[at]))
        assert sorted((a.campaign, a.seen) for a in driver.values(self.app.topics["clicks.alerts"])) == sorted(due)
        letters = sorted(str(letter.identity) for letter in driver.dead_letters(self.topic))
        assert len(set(letters)) == len(letters)
        assert len(letters) == sum(1 for r in driver.records("clicks") if r.value == b'{"campaign": 7}')


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=int(os.environ.get("STREAMKIT_LIFE_EXAMPLES", "150")),
    stateful_step_count=25,
    deadline=None,
    phases=[phase for phase in Phase if phase.name in os.environ.get("STREAMKIT_LIFE_PHASES", phase.name).split(",")],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
pytestmark = pytest.mark.timeout(int(os.environ.get("STREAMKIT_LIFE_TIMEOUT", "600")))
