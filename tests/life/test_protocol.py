"""Promises of the protocol that random interleavings meet too seldom, or cannot see: one short story each.

Each was written for a breakage that the state machine let pass: see README.md in this folder.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

import streamkit as sk
from streamkit.changelog import compaction, follower
from streamkit.changelog.state import position_of
from streamkit.checkpoint import changelog_topic
from streamkit.control import KeptOn
from streamkit.deadletter import REPLAY_AGENT
from streamkit.errors import LogError, TopicChanged
from streamkit.interval import Pace, Pacer
from streamkit.log.control import ControlTopic
from streamkit.log.memory import MemoryLog
from streamkit.record import TopicPartition
from streamkit.serving.merge import Serving
from streamkit.speed import views
from streamkit.speed.run import Run, ends_of
from streamkit.speed.worker import Worker
from streamkit.store.memory import MemoryStore
from streamkit.testing.driver import Driver
from tests.life.app import Alert, Click, answers, expected, topology

USERS = ("u1", "u2", "u3", "u4", "u5")  # of all three partitions


def some(count: int, cents: int = 1) -> list[Click]:
    return [Click("acme", USERS[i % len(USERS)], cents, i * 1_000) for i in range(count)]


@pytest.fixture
def driver() -> Iterator[Driver]:
    with Driver(topology()) as driver:
        yield driver


def send(driver: Driver, *clicks: Click) -> None:
    driver.send(driver.topology.topics["clicks"], *clicks)


def exact(driver: Driver, serving: Serving, view: str = "tumbling") -> bool:
    """Does it answer, and from all that is on the log?"""
    clicks = [c for c in driver.values(driver.topology.topics["clicks"]) if c is not None]
    events = [{"campaign": c.campaign, "user": c.user, "cents": c.cents, "at": c.at} for c in clicks]
    scanned = list(serving.scan(driver.topology.views[view]))
    return answers(scanned) == expected(view, events) and all(answer.lag == 0 for answer in scanned)


# -- a Checkpoint's steps ---------------------------------------------------------------------------------------------


def test_a_refused_transaction_leaves_nothing_in_the_store(driver: Driver) -> None:
    send(driver, *some(5))
    driver.step()
    driver.suspend()
    driver.checkpoint()  # refused
    driver.catch_up()
    driver.follow()
    assert exact(driver, driver.far), "the changelog lacks what the store had before it"


def test_a_seal_that_was_refused_is_not_reported(driver: Driver) -> None:
    view = driver.topology.views["tumbling"]
    send(driver, *some(5))
    driver.step()
    driver.seal(view)
    driver.suspend()
    driver.checkpoint()  # refused
    send(driver, *some(5))
    driver.catch_up()
    cut = driver.cut(view)
    assert cut.offsets == driver.end(view).offsets
    driver.batch(view, cut)
    proof = driver.prove(view)
    assert proof is not None, f"a Cut was reported where no Segment ends: {cut}"
    assert proof.differences == 0


def test_a_seal_is_answered_by_each_worker_for_its_own() -> None:
    with Driver(topology(), workers=2) as driver:
        view = driver.topology.views["tumbling"]
        send(driver, *some(10))
        for worker in (0, 1, 0, 1):
            driver.catch_up(worker=worker)
        assert all(driver.worker_at(worker).tasks() for worker in (0, 1))
        end = driver.end(view)
        driver.seal(view)
        driver.checkpoint(worker=0)
        driver.checkpoint(worker=1)
        send(driver, *some(10))
        assert driver.cut(view) == end


def test_a_checkpoint_waits_for_slow_agents() -> None:
    app = sk.Topology("slow")
    clicks = app.topic("clicks", value=Click, timestamp="at", key="user", partitions=3)
    alerts = app.topic("alerts", value=Alert, partitions=1)

    @app.agent(clicks, out=alerts)
    async def slow(events: Any) -> Any:
        async for click in events:
            await asyncio.sleep(0.02)
            yield Alert(click.campaign, click.cents)

    with Driver(app) as driver:
        driver.send(clicks, *some(5))
        driver.step()
        driver.checkpoint()
        driver.crash()
        assert len(driver.values(alerts)) == 5
        driver.catch_up()
        assert len(driver.values(alerts)) == 5


def test_a_segment_that_starts_where_one_did_before_has_nothing_of_it(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A View that reads again from before it may seal at the same offset again."""
    monkeypatch.setattr(views, "PURGED", 1)
    view = driver.topology.views["tumbling"]
    for turn in range(3):
        send(driver, *[Click("acme", "u1", 1, at * 10_000) for at in range(5)])
        driver.catch_up()
        driver.seal(view)
        driver.checkpoint()
        if turn == 0:
            send(driver, Click("acme", "u1", 1, 0))
            driver.batch(view, driver.end(view))
    driver.publish(view)  # across the second of three Segments
    driver.checkpoint()
    driver.step(5)  # again as far as the second one's end
    driver.seal(view)
    driver.checkpoint()
    driver.catch_up()
    assert exact(driver, driver.serving)
    there = next(segments for segments in driver.serving.segments(view).values() if segments.end)
    assert there.all() == ((6, 11), (11, 16)), "no Segment starts where one did before: this test tests nothing"


def test_the_group_hears_where_a_batch_view_has_sent_a_view() -> None:
    """Another worker, and who waits until all is read, go by the group's offsets."""
    app = sk.Topology("ahead")
    clicks = app.topic("clicks", value=Click, timestamp="at", key="user", partitions=1)
    view = app.view("total", clicks, key="campaign", aggregates={"clicks": sk.Count()})
    with Driver(app) as driver:
        driver.send(clicks, *some(3))
        driver.step()
        driver.reset(view)
        driver.batch(view, driver.end(view))
        driver.publish(view)
        driver.checkpoint()  # begins the View at 0, and sends it to 3: nothing is left to read
        assert driver.worker.positions() == driver.log.group_offsets(driver.worker.group)
        assert set(driver.worker.positions().values()) == {3}


def test_a_changelog_that_may_not_be_cut_is_told_of_and_harms_nobody(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(topic: str, _: object) -> None:
        raise LogError(f"{topic}: TOPIC_AUTHORIZATION_FAILED")

    monkeypatch.setattr(compaction, "LEAST", 100)
    monkeypatch.setattr(driver.log, "delete_records", refuse)
    for _ in range(20):
        send(driver, *some(5))
        driver.catch_up()
    assert "streamkit.life.changelog.clicks" in caplog.text
    assert "TOPIC_AUTHORIZATION_FAILED" in caplog.text
    assert set(driver.log.starts(changelog_topic("life", "clicks")).values()) == {0}
    driver.lose_disk()
    driver.catch_up()
    assert exact(driver, driver.serving)


# -- takeovers --------------------------------------------------------------------------------------------------------


def test_a_store_knows_how_far_on_its_changelog_it_is() -> None:
    """Else every start reads the changelog again, or skips some of it."""
    app, log, store = topology(), MemoryLog(), MemoryStore()
    for topic in app.topics.values():
        log.create(topic.name, partitions=topic.partitions)
    with closing(Worker(app, log, store)) as worker, closing(log.writer()) as writer:
        for round_ in range(3):
            for click in some(10):
                writer.send("clicks", app.topics["clicks"].encode(click), partition=round_)
            worker.step()
            worker.checkpoint()
            ends = log.ends(changelog_topic("life", "clicks"))
            for number, end in ends.items():
                position = position_of(store, TopicPartition("clicks", number))
                assert position is not None
                assert position.whole
                assert position.offset == end - 1, "all but the transaction's control record"


def test_a_task_that_comes_back_has_the_table_that_another_worker_has_left() -> None:
    with Driver(topology(), workers=2) as driver:
        send(driver, *some(10))
        driver.catch_up()
        for worker in (1, 0, 1):
            driver.catch_up(worker=worker)
        send(driver, *some(10))
        driver.catch_up()
        assert driver.worker_at(1).tasks()
        driver.crash(worker=1)
        send(driver, *some(10))
        driver.catch_up()
        alerts = driver.values(driver.topology.topics["clicks.alerts"])
        assert sorted(alert.seen for alert in alerts) == [3] * 5 + [6] * 5


class OpenTransaction(MemoryLog):
    """A log where each changelog ends with a transaction that is still open, of a worker that was stopped in it.

    Nothing of it is to be read, and it may yet be committed: only Kafka tells `ends` of both kinds apart.
    """

    pending = 1

    def ends(self, topic: str, *, committed: bool = True) -> dict[int, int]:
        more = self.pending if not committed and "changelog" in topic else 0
        return {number: end + more for number, end in super().ends(topic).items()}

    def abort(self, topic: str) -> None:
        self.pending = 0
        for number in self.ends(topic):
            self.gap(topic, number)


def test_a_task_is_opened_when_no_transaction_is_open_on_its_changelog(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app, log = topology(), OpenTransaction()
    for topic in app.topics.values():
        log.create(topic.name, partitions=topic.partitions)
    with closing(Worker(app, log, MemoryStore())) as worker:
        for _ in range(5):
            worker.hear()
            assert not worker.tasks(), "what the worker before may yet commit is counted twice"
        assert worker.restoring() is not None
        assert not caplog.records
        monkeypatch.setattr(follower, "STUCK_SECONDS", 0.0)
        for _ in range(3):
            worker.hear()
        assert len(caplog.records) == 3, "once for each partition"
        assert "abort --topic streamkit.life.changelog.clicks --partition 2 --start-offset 0" in caplog.text
        log.abort(changelog_topic("life", "clicks"))
        worker.hear()
        assert len(worker.tasks()) == 3


def test_a_fenced_worker_begins_again(caplog: pytest.LogCaptureFixture) -> None:
    app, log, store = topology(), MemoryLog(), MemoryStore()
    for topic in app.topics.values():
        log.create(topic.name, partitions=topic.partitions)
    with closing(log.writer()) as writer:
        for click in some(10):
            writer.send("clicks", app.topics["clicks"].encode(click), key=click.user.encode())
    made: list[Worker] = []

    def make() -> Worker:
        made.append(Worker(app, log, store))
        if len(made) == 1:
            made[0].hear()
            log.expire(made[0].member)
        return made[-1]

    stop = threading.Event()
    Run(make, Pacer(Pace()), stop=stop, began=0.0, until_caught_up=ends_of(app, log)).run()
    assert len(made) == 2
    assert "out of touch" in caplog.text
    assert sum(log.group_offsets(made[0].group).values()) == 10


# -- readers ----------------------------------------------------------------------------------------------------------


def test_a_release_between_a_readers_two_looks_does_no_harm(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    view = driver.topology.views["tumbling"]
    send(driver, *some(10))
    driver.catch_up()
    driver.seal(view)
    driver.checkpoint()
    driver.batch(view)
    refresh = driver.serving.copies.refresh

    def racing() -> None:
        monkeypatch.undo()
        driver.publish(view)
        driver.checkpoint()
        refresh()

    monkeypatch.setattr(driver.serving.copies, "refresh", racing)
    assert exact(driver, driver.serving)
    assert driver.serving.segments(view)[0].all()[0][0] > 0, "nothing was released: this test tests nothing"


def test_readers_fall_back_to_the_batch_view_before(driver: Driver) -> None:
    view = driver.topology.views["tumbling"]
    send(driver, *some(10))
    driver.catch_up()
    driver.batch(view)
    driver.publish(view)
    driver.catch_up()
    send(driver, *some(5))
    driver.catch_up()
    driver.batch(view, driver.end(view))
    send(driver, *some(5))
    driver.step()
    driver.settle()
    driver.commit()
    driver.write()
    driver.publish(view)  # across the worker's Segment
    assert exact(driver, driver.serving)


def test_a_copy_of_a_changelog_that_is_no_more_is_not_shown() -> None:
    with Driver(topology(), workers=2) as driver:
        for _ in range(3):
            send(driver, *some(20))
            driver.catch_up()
        driver.crash()
        with closing(ControlTopic(driver.log, "life")) as control:  # as `streamkit reset` does
            driver.log.delete(changelog_topic("life", "clicks"))
            control.append(KeptOn("clicks", ""))
        send(driver, *some(20))
        driver.catch_up(worker=1)
        assert exact(driver, driver.serving)


def test_a_reset_voids_the_batch_view_that_the_worker_has_heard_of(driver: Driver) -> None:
    view = driver.topology.views["tumbling"]
    send(driver, *some(10))
    driver.catch_up()
    driver.batch(view)
    driver.publish(view)
    driver.reset(view)
    driver.checkpoint()
    driver.catch_up()
    assert exact(driver, driver.serving)
    driver.follow()
    assert exact(driver, driver.far)


# -- outputs and dead letters -----------------------------------------------------------------------------------------


def test_a_view_that_reads_again_writes_no_dead_letter_twice(driver: Driver) -> None:
    topic = driver.topology.topics["clicks"]
    driver.send_bytes(topic, b'{"campaign":"acme","user":"u1","cents":1%s,"at":0}' % (b"0" * 30), key=b"u1")
    driver.catch_up()
    letters = [(letter.kind, letter.by) for letter in driver.dead_letters(topic)]
    assert sorted(letters) == [("view", name) for name in ("hopping", "session", "total", "tumbling")]
    for name in driver.topology.views:
        driver.reset(driver.topology.views[name])
        driver.catch_up()
    driver.crash()
    driver.catch_up()
    assert [(letter.kind, letter.by) for letter in driver.dead_letters(topic)] == letters


def test_a_replayed_event_finds_the_table_of_the_partition_it_came_from() -> None:
    app = sk.Topology("replays")
    clicks = app.topic("clicks", value=Click, timestamp="at", key="user", partitions=3)
    alerts = app.topic("alerts", value=Alert, partitions=1)
    seen, broken = app.table("seen", default=int), [True]

    @app.agent(clicks, out=alerts)
    async def moody(events: Any) -> Any:
        async for click in events:
            if broken and click.cents < 0:
                raise ValueError("broken")
            seen[click.user] += 1
            yield Alert(click.user, seen[click.user])

    with Driver(app) as driver:
        driver.send(clicks, *some(10), *some(5, cents=-1))
        driver.catch_up()
        broken.clear()
        letters = driver.dead_letters(clicks)
        with closing(driver.log.writer()) as writer:
            for letter in letters:
                headers = [*letter.headers(), (REPLAY_AGENT, b"moody")]
                place = letter.source.partition
                writer.send(clicks.replays, letter.value, key=letter.key, headers=headers, partition=place)
        driver.catch_up()
        driver.step()
        driver.checkpoint()
        driver.lose_disk()
        driver.send(clicks, *some(5))
        driver.catch_up()
        assert sorted(a.seen for a in driver.values(alerts)) == sorted([1, 2, 3, 4] * 5)


# -- topics made anew -------------------------------------------------------------------------------------------------


def anew(driver: Driver) -> None:
    driver.log.delete("clicks")
    driver.log.create("clicks", partitions=3)
    send(driver, *some(3))


@pytest.mark.parametrize("then", [Driver.checkpoint, Driver.catch_up], ids=["checkpoint", "catch up"])
def test_a_topic_made_anew_under_a_worker_is_never_counted(driver: Driver, then: Callable[[Driver], None]) -> None:
    send(driver, *some(10))
    driver.step()
    anew(driver)
    with pytest.raises(sk.StreamkitError) as told:
        then(driver)
    assert "made again" in str(told.value)


def test_a_topic_made_anew_meanwhile_is_refused_by_worker_and_readers(driver: Driver) -> None:
    send(driver, *some(10))
    driver.catch_up()
    driver.crash()
    anew(driver)
    with pytest.raises(TopicChanged):
        driver.step()
    with pytest.raises(TopicChanged):
        driver.scan(driver.topology.views["tumbling"])
