"""Topics and the clock change under a topology in one process, between any two steps."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamkit.changelog.changelogs import Changelogs
from streamkit.checkpoint import changelog_topic
from streamkit.control import KeptOn
from streamkit.errors import (
    BrokerUnreachable,
    CutMismatch,
    OffsetOutOfRange,
    StateMissing,
    StreamkitError,
    TopicChanged,
    TopicMissing,
)
from streamkit.log.base import TopicInfo
from streamkit.log.memory import MemoryLog
from streamkit.serving.copies import Copies
from streamkit.serving.merge import Serving
from streamkit.store.memory import MemoryReader
from streamkit.testing.driver import Driver
from streamkit.topology import Topology
from tests.life.app import Click, answers, expected, topology
from tests.life.oracle import events_before

VIEWS = ("tumbling", "hopping", "session", "total")


class Life:
    """A Driver, and clicks to send that differ."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.log, self.app = driver, driver.log, driver.topology
        self.sent = 0

    def send(self, count: int) -> None:
        numbers = range(self.sent, self.sent + count)
        self.sent += count
        clicks = self.app.topics["clicks"]
        self.driver.send(clicks, *(Click(f"c{n % 4}", f"u{n % 11}", n, n * 700 % 60_000) for n in numbers))

    def send_and_count(self, count: int) -> None:
        self.send(count)
        self.driver.step()
        self.driver.checkpoint()

    def check(self, serving: Serving | None = None) -> None:
        """Every Answer is the plain loop's at its Cut, which is the log's end."""
        for name in VIEWS:
            scanned = list((serving or self.driver.serving).scan(self.app.views[name]))
            records = [(r.partition, r.offset, r.value or b"") for r in self.driver.records("clicks")]
            assert answers(scanned) == expected(name, events_before(records, scanned[0].cut.offsets)), name
            assert {a.lag for a in scanned} == {0}

    def check_alerts(self) -> None:
        """Each is there once."""
        seen: dict[tuple[int, str], int] = {}
        due = []
        for record in self.driver.records("clicks"):
            click = json.loads(record.value or b"")
            at = (record.partition, click["user"])
            seen[at] = seen.get(at, 0) + 1
            if seen[at] % 3 == 0:
                due.append((click["campaign"], seen[at]))
        sent = [(a.campaign, a.seen) for a in self.driver.values(self.app.topics["clicks.alerts"])]
        assert sorted(sent) == sorted(due)

    def make_again(self, topic: str) -> tuple[str, str]:
        before = self.log.describe(topic)
        self.log.delete(topic)
        return before.id, self.log.create(topic, partitions=before.partitions).id


@pytest.fixture
def life() -> Iterator[Life]:
    with Driver(topology()) as driver:
        yield Life(driver)


def test_a_partition_that_is_added_is_in_answers_whose_batch_view_is_older(life: Life) -> None:
    life.send_and_count(30)
    for name in VIEWS:
        life.driver.batch(life.app.views[name])
        life.driver.publish(life.app.views[name])
    life.log.grow("clicks", 5)
    life.send(40)
    life.driver.catch_up()
    life.check()
    cut = life.driver.serving.seam(life.app.views["total"])
    assert cut.batch is not None
    assert set(cut.cut.offsets) - set(cut.batch.offsets) == {3, 4}
    for grown in (changelog_topic("life", "clicks"), "clicks.replay"):
        assert life.log.describe(grown).partitions == 5
    life.driver.lose_disk()
    life.driver.catch_up()
    life.check()
    life.check_alerts()


# -- topics that are deleted, and made again --------------------------------------------------------------------------


@pytest.mark.parametrize("records", [0, 5, 90])
@pytest.mark.parametrize("verb", ["step", "checkpoint"])
def test_a_source_topic_made_again_is_never_counted(life: Life, records: int, verb: str) -> None:
    """Whatever it holds, and whether the worker has just read or is about to."""
    life.send_and_count(30)
    life.send(10)
    if verb == "checkpoint":
        life.driver.step()
    ids = life.make_again("clicks")
    life.send(records)
    with pytest.raises(TopicChanged) as told:
        getattr(life.driver, verb)()
    assert all(known in str(told.value) for known in ids)
    assert "streamkit reset" in str(told.value)
    life.driver.crash()
    with pytest.raises(TopicChanged):
        life.driver.catch_up()
    with pytest.raises(TopicChanged) as refused:
        life.driver.scan(life.app.views["total"])
    assert all(known in str(refused.value) for known in ids)


def test_a_source_topic_that_is_deleted_is_named(life: Life) -> None:
    life.send_and_count(30)
    known = life.log.describe("clicks").id
    life.log.delete("clicks")
    with pytest.raises(TopicMissing, match=rf"topic 'clicks' \(id {known}\) was deleted .*create-topics"):
        life.driver.worker.check()


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("running", [False, True])
def test_a_changelog_that_is_gone_ends_the_work(life: Life, again: bool, running: bool) -> None:
    life.send_and_count(30)
    if not running:
        life.driver.crash()
    name = changelog_topic("life", "clicks")
    ids = [life.log.describe(name).id]
    if again:
        ids = [*life.make_again(name)]
    else:
        life.log.delete(name)
    life.send(5)
    with pytest.raises(TopicChanged) as told:
        life.driver.catch_up()
    assert "the changelog of topic 'clicks'" in str(told.value)
    assert all(known in str(told.value) for known in ids)
    assert "streamkit reset" in str(told.value)
    assert (name in life.log.topics()) == again  # nobody has made an empty one in its place
    with pytest.raises(StateMissing):
        life.driver.scan(life.app.views["total"])
    assert len(life.driver.values(life.app.topics["clicks.alerts"])) <= 10  # and the agent has not begun anew


def test_a_changelog_that_goes_is_not_made_again_when_partitions_come(life: Life) -> None:
    life.send_and_count(30)
    life.log.delete(changelog_topic("life", "clicks"))
    life.log.grow("clicks", 4)
    with pytest.raises(TopicChanged, match="the changelog of topic 'clicks'"):
        life.driver.step()


def test_after_a_reset_copies_elsewhere_are_made_anew(life: Life) -> None:
    """A reader that follows the changelogs while they are discarded and made again."""
    life.send_and_count(30)
    life.driver.follow()
    life.check(life.driver.far)
    life.driver.lose_disk()
    life.log.delete(changelog_topic("life", "clicks"))
    life.driver._control.append(KeptOn("clicks", ""))  # what `streamkit reset` does
    life.send(10)
    life.driver.catch_up()
    life.driver.follow()
    life.check(life.driver.far)
    life.check()


# -- retention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True])
def test_records_that_retention_took_unread_are_told(life: Life, running: bool) -> None:
    life.send_and_count(30)
    if not running:
        life.driver.crash()
    counted = {name: answers(life.driver.scan(life.app.views[name])) for name in VIEWS}
    before = life.log.ends("clicks")[1]
    life.send(60)
    life.log.delete_records("clicks", {1: before + 2})
    with pytest.raises(OffsetOutOfRange, match=rf"clicks/1: .*{before}.*{before + 2}.*streamkit reset"):
        life.driver.catch_up()
    assert {name: answers(life.driver.scan(life.app.views[name])) for name in VIEWS} == counted


def test_retention_past_what_was_counted_changes_nothing(life: Life) -> None:
    life.send_and_count(30)
    counted = {name: answers(life.driver.scan(life.app.views[name])) for name in VIEWS}
    life.log.delete_records("clicks", life.log.ends("clicks"))
    life.driver.crash()
    life.driver.catch_up()
    assert {name: answers(life.driver.scan(life.app.views[name])) for name in VIEWS} == counted


# -- control records --------------------------------------------------------------------------------------------------


def test_positions_pass_control_records_and_are_made_durable(life: Life) -> None:
    """An aborted transaction leaves nothing but control records, as far as a reader can see."""
    life.send_and_count(30)
    assert not life.driver.worker.moved()
    for partition in range(3):
        life.log.gap("clicks", partition)
    assert life.driver.serving.lag(life.app.views["total"]) == 3
    life.driver.step()
    assert life.driver.worker.moved()  # what has the loop make a Checkpoint
    life.driver.checkpoint()
    assert not life.driver.worker.moved()
    life.check()


# -- clocks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the wall clock forward by hours, or back."""
    real, ahead = time.time, [0.0]

    def set_forward(hours: float) -> None:
        ahead[0] += hours * 3600

    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])
    return set_forward


@pytest.mark.parametrize("hours", [(-2, 4, -2), (2, -4, 2), (120, -240, 120), (-120, 240, -120)])
@pytest.mark.parametrize("life_ends", ["not", "crash", "lose_disk"])
def test_clocks_that_jump_change_no_answer(
    life: Life, clock: Callable[[float], None], hours: tuple[float, ...], life_ends: str
) -> None:
    """Offsets decide; a copy that seems to be of another week is made anew."""
    for jump in hours:
        life.send_and_count(20)
        life.driver.seal(life.app.views["total"])
        clock(jump)
        life.send(10)
        life.driver.step()
        if life_ends != "not":
            getattr(life.driver, life_ends)()
        life.driver.catch_up()
        life.driver.batch(life.app.views["total"])
        life.driver.publish(life.app.views["total"])
        life.driver.catch_up()
        life.driver.follow()
        life.check()
        life.check(life.driver.far)
    life.check_alerts()


# -- a broker that is away --------------------------------------------------------------------------------------------


class Away(MemoryLog):
    """A log whose broker can be gone for readers, as no log in memory is by itself; `asked` counts what that cost."""

    away = False
    asked = 0

    def describe(self, topic: str) -> TopicInfo:
        self._check()
        return super().describe(topic)

    def ends(self, topic: str, *, committed: bool = True) -> dict[int, int]:
        self._check()
        return super().ends(topic, committed=committed)

    def _check(self) -> None:
        if self.away:
            self.asked += 1
            raise BrokerUnreachable("no Kafka broker answers at nowhere:9092")


@pytest.fixture
def away() -> Iterator[tuple[Life, Away]]:
    log = Away()
    with Driver(topology(), log=log) as driver:
        yield Life(driver), log


@pytest.mark.parametrize("stale_seconds", [0, 60])
def test_readers_go_on_while_the_broker_is_away(away: tuple[Life, Away], stale_seconds: float) -> None:
    """And ask anew as soon as it is back, however long a look is good for."""
    life, log = away
    life.send_and_count(30)
    life.check()
    counted = {name: answers(life.driver.scan(life.app.views[name])) for name in VIEWS}
    life.send(10)
    log.away = True
    life.driver.serving._stale_seconds, life.driver.serving._looked = stale_seconds, float("-inf")
    for _ in range(3):
        for name in VIEWS:
            scanned = life.driver.scan(life.app.views[name])
            assert answers(scanned) == counted[name]
            assert {a.lag for a in scanned} == {None}
    with pytest.raises(BrokerUnreachable):
        life.driver.serving.lag(life.app.views["total"])
    log.away = False
    life.driver.catch_up()
    _until(lambda: _lag(life.driver.serving, life.app) == 0)
    life.check()


def test_a_reader_that_has_never_looked_says_that_the_broker_is_away(away: tuple[Life, Away], tmp_path: Path) -> None:
    life, log = away
    life.send_and_count(30)
    copies = Copies(Changelogs(log, "life"), lambda: [MemoryReader(life.driver._stores[0])])
    serving = Serving(log, life.app, tmp_path, copies)
    log.away = True
    with pytest.raises(BrokerUnreachable):
        list(serving.scan(life.app.views["total"]))
    log.away = False
    life.check(serving)
    serving.close()


def test_segments_released_beyond_what_a_reader_knows_are_refused_not_missed(away: tuple[Life, Away]) -> None:
    """The broker goes between the two steps of a look: the copies show a release, and no BatchView makes up for it."""
    life, log = away
    total = life.app.views["total"]
    life.send_and_count(30)
    life.check()
    serving = life.driver.serving
    life.driver.batch(total, life.driver.end(total))
    life.driver.publish(total)
    life.driver.checkpoint()
    refresh = serving.copies.refresh

    def lose_the_broker() -> None:
        refresh()
        log.away = True

    serving.copies.refresh = lose_the_broker  # type: ignore[method-assign]
    with pytest.raises((CutMismatch, StateMissing)):
        list(serving.scan(total))
    serving.copies.refresh = refresh  # type: ignore[method-assign]
    log.away = False
    _until(lambda: _lag(serving, life.app) == 0)
    life.check()


def _lag(serving: Serving, app: Topology) -> int | None:
    try:
        return serving.lag(app.views["total"])
    except StreamkitError:
        return None


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
