"""Topics and the world change under workers and readers, on a real Kafka: each change has an end that is defined."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from streamkit.broker import BrokerSettings, EmbeddedBroker
from streamkit.checkpoint import changelog_topic
from streamkit.errors import BrokerUnreachable, StateMissing, TopicChanged
from streamkit.serving.connect import open_serving
from streamkit.serving.merge import Serving
from streamkit.speed.worker import group_of
from streamkit.topic import REPLAYABLE
from tests.kafka.site import Site, make_site, wait_for

OUTAGE_SECONDS = float(os.environ.get("STREAMKIT_OUTAGE_SECONDS", "20"))


def end_of(worker: subprocess.Popen[str]) -> str:
    """What a worker says that ends by itself, with an error for the user and no traceback."""
    _, said = worker.communicate(timeout=40)
    assert worker.returncode == 1, said
    assert "Traceback" not in said, said
    return said


def counted(site: Site) -> bool:
    """Is everything on the log in Checkpoints?"""
    return site.checkpointed() == sum(site.log.ends(site.topic).values())


def check_all(site: Site) -> None:
    """Every Answer is the plain loop's, and every alert is there once."""
    with site.serving() as serving:
        site.check(serving, offsets=site.log.ends(site.topic))
    seen: dict[tuple[int, str], int] = {}
    due = []
    for partition, _, value in site.records():
        click = json.loads(value)
        if click["campaign"] != 7:
            at = partition, click["user"]
            seen[at] = seen.get(at, 0) + 1
            if seen[at] % 3 == 0:
                due.append((click["campaign"], seen[at]))
    sent = [json.loads(value) for _, _, value in site.records(f"{site.topic}.alerts")]
    assert sorted((alert["campaign"], alert["seen"]) for alert in sent) == sorted(due)


# -- partitions are added ---------------------------------------------------------------------------------------------


def test_partitions_that_are_added_are_picked_up_while_the_worker_runs(site: Site) -> None:
    site.send(1_000)
    with site.worker("--checkpoint", "50ms", "--quiet") as worker:
        wait_for(lambda: counted(site), worker)
        site.command("batch")
        site.log.grow(site.topic, 5)
        site.send(1_000, rubbish=1)
        wait_for(lambda: counted(site), worker)
        with site.serving() as serving:
            site.check(serving, offsets=site.log.ends(site.topic))
            seam = serving.seam(site.view("total"))
            assert seam.batch is not None
            assert set(seam.batch.offsets) == {0, 1, 2}  # older than two partitions that are in the Answers
            assert set(seam.cut.offsets) == {0, 1, 2, 3, 4}
        for grown in (changelog_topic(site.name, site.topic), f"{site.topic}.replay"):
            assert site.log.describe(grown).partitions == 5
        assert site.command("batch").count("0 differences to the speed layer") == 4
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    with site.serving() as serving:
        site.check(serving, offsets=site.log.ends(site.topic))


# -- a topic is deleted and made again --------------------------------------------------------------------------------


def make_again(site: Site) -> tuple[str, str]:
    """The source topic's id before and after."""
    before = site.log.describe(site.topic).id
    site.log.delete(site.topic)
    # Clicks bear times of 1970: with Kafka's own retention they go at the broker's next look, whenever that is.
    return before, site.log.create(site.topic, partitions=3, config=REPLAYABLE).id


def refused(site: Site, said: str, ids: tuple[str, str]) -> None:
    assert "was deleted and made again" in said
    assert all(known in said for known in ids), said
    assert "streamkit reset" in said
    with site.serving() as serving, pytest.raises(TopicChanged) as refused:
        list(serving.scan(site.view("total")))
    assert all(known in str(refused.value) for known in ids)


@pytest.mark.parametrize("more", [False, True])
def test_a_topic_made_again_under_a_running_worker_is_never_counted(site: Site, more: bool) -> None:
    """Whether the new topic ends before the old one's offsets, or beyond them."""
    site.send(300)
    with site.worker("--checkpoint", "50ms", "--quiet") as worker:
        wait_for(lambda: counted(site), worker)
        worker.send_signal(signal.SIGSTOP)  # it is not to see that the topic is gone for a moment
        ids = make_again(site)
        site.send(600 if more else 30)
        worker.send_signal(signal.SIGCONT)
        said = end_of(worker)
    refused(site, said, ids)


def test_a_topic_made_again_meanwhile_is_refused(site: Site) -> None:
    site.send(300)
    site.command("worker", "--until-caught-up")
    site.command("batch", "total")
    ids = make_again(site)
    site.send(600)
    refused(site, site.command("worker", "--until-caught-up", status=1), ids)
    site.command("reset", "--yes")
    site.command("worker", "--until-caught-up")
    with site.serving() as serving:
        site.check(serving, offsets=site.log.ends(site.topic))


def test_a_topic_deleted_under_a_running_worker_is_named(site: Site) -> None:
    site.send(30)
    with site.worker("--checkpoint", "50ms", "--quiet") as worker:
        wait_for(lambda: counted(site), worker)
        site.log.delete(site.topic)
        said = end_of(worker)
    assert f"topic {site.topic!r}" in said
    assert "was deleted" in said
    assert "streamkit create-topics" in said


# -- the changelog goes -----------------------------------------------------------------------------------------------


def changelog_is_gone(site: Site, said: str, ids: list[str]) -> None:
    assert f"changelog of topic {site.topic!r}" in said
    assert all(known in said for known in ids), said
    assert "streamkit reset" in said
    with site.serving() as serving, pytest.raises(StateMissing):
        list(serving.scan(site.view("total")))


@pytest.mark.parametrize("again", [False, True])
def test_a_changelog_that_goes_under_a_running_worker_stops_it(site: Site, again: bool) -> None:
    """Going on, it would write changes to states that nobody who restores from there has."""
    site.send(300)
    name = changelog_topic(site.name, site.topic)
    with site.worker("--checkpoint", "50ms", "--quiet") as worker:
        wait_for(lambda: counted(site), worker)
        ids = [site.log.describe(name).id]
        worker.send_signal(signal.SIGSTOP)
        site.log.delete(name)
        if again:
            ids.append(site.log.create(name, partitions=3).id)
        site.send(30)
        worker.send_signal(signal.SIGCONT)
        said = end_of(worker)
    changelog_is_gone(site, said, ids)


def test_a_changelog_that_went_meanwhile_is_refused_until_reset(site: Site) -> None:
    site.send(300)
    site.command("worker", "--until-caught-up")
    name = changelog_topic(site.name, site.topic)
    ids = [site.log.describe(name).id]
    site.log.delete(name)
    changelog_is_gone(site, site.command("worker", "--until-caught-up", status=1), ids)
    site.command("reset", "--yes")
    # The group's offsets from before say that everything was read: that is no reason to leave.
    assert "300 events" in site.command("worker", "--until-caught-up")
    with site.serving() as serving:
        site.check(serving, offsets=site.log.ends(site.topic))


# -- retention --------------------------------------------------------------------------------------------------------


def test_retention_past_the_position_is_told_and_nothing_is_skipped(site: Site) -> None:
    site.send(300)
    site.command("worker", "--until-caught-up")
    before = site.log.ends(site.topic)
    site.send(300)
    site.log.delete_records(site.topic, {1: before[1] + 5})
    said = site.command("worker", "--until-caught-up", status=1)
    assert f"{site.topic}/1: the records [{before[1]}, {before[1] + 5})" in said, said
    assert "streamkit reset" in said
    assert site.checkpointed() == 300
    site.command("reset", "--yes")
    site.command("worker", "--until-caught-up")
    assert site.checkpointed() == 600


def test_retention_past_the_cut_leaves_the_answers_and_stops_the_batch(site: Site) -> None:
    site.send(300)
    site.command("batch", "total")
    site.send(300)
    site.command("worker", "--until-caught-up")
    records = site.records()
    site.log.delete_records(site.topic, {0: site.log.ends(site.topic)[0]})
    said = site.command("batch", "total", status=1)
    assert f"{site.topic}/0: the records [0, " in said
    with site.serving() as serving:
        scanned = list(serving.scan(site.view("total")))
    assert sum(answer.value["clicks"] for answer in scanned) == len(records)


# -- transactions -----------------------------------------------------------------------------------------------------


def test_aborted_records_are_not_counted_and_the_lag_becomes_0(site: Site) -> None:
    site.send(300)
    kept = site.records()[:3]
    producer = Producer({"bootstrap.servers": site.brokers, "transactional.id": site.name})
    producer.init_transactions(20)

    def send(commit: bool) -> None:
        producer.begin_transaction()
        for partition, _, value in kept:
            producer.produce(site.topic, value, partition=partition)
        if commit:
            producer.commit_transaction(20)
        else:
            producer.flush()
            producer.abort_transaction(20)
        # The coordinator answers before its markers are in the partitions; until they are, the end is where it was.
        while site.log.ends(site.topic) != site.log.ends(site.topic, committed=False):
            continue

    send(commit=True)
    send(commit=False)
    assert "303 events" in site.command("worker", "--until-caught-up")
    with site.serving() as serving:
        assert serving.lag(site.view("total")) == 0
        site.check(serving, offsets=site.log.ends(site.topic))
    with site.worker("--checkpoint", "50ms", "--quiet") as worker, site.serving() as serving:
        wait_for(lambda: bool(site.log.members(group_of(site.name))), worker)
        for commit in (False, True, False):
            send(commit)
            wait_for(lambda: serving.lag(site.view("total")) == 0, worker)
            site.check(serving, offsets=site.log.ends(site.topic))


# -- the broker goes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """One to be stopped and killed."""
    broker = EmbeddedBroker(BrokerSettings(tmp_path_factory.mktemp("broker"), port=0, heap="512m"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def own(broker: EmbeddedBroker, unique: Callable[[str], str], tmp_path: Path) -> Site:
    """A Site on a broker of its own."""
    return make_site(broker.start(), unique("life"), tmp_path)


def kill(broker: EmbeddedBroker) -> None:
    pid = broker.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_worker_goes_on_when_the_broker_is_restarted(own: Site, broker: EmbeddedBroker) -> None:
    own.send(300)
    with own.worker("--checkpoint", "50ms", "--quiet") as worker:
        wait_for(lambda: counted(own), worker)
        for end in (broker.stop, lambda: kill(broker)):
            own.send(300)  # and the broker goes in the middle of it
            end()
            broker.start()
            own.send(300, rubbish=1)
            wait_for(lambda: counted(own), worker)
        worker.send_signal(signal.SIGTERM)
        _, said = worker.communicate(timeout=40)
        assert worker.returncode == 0, said
        assert "Traceback" not in said, said
    check_all(own)


def test_a_worker_and_readers_outlive_an_outage(own: Site, broker: EmbeddedBroker) -> None:
    own.send(300)
    total = own.view("total")
    with (
        own.worker("--checkpoint", "50ms", "--quiet") as worker,
        own.serving() as reader,
        open_serving(own.app, own.log, own.data, follow=True, stale_seconds=0.05) as follower,
    ):
        for serving in (reader, follower):
            wait_for(lambda serving=serving: counted(own) and serving.lag(total) == 0, worker)  # type: ignore[misc]
        own.send(100)
        broker.stop()
        ends = time.monotonic() + OUTAGE_SECONDS
        asked = [answers_without_a_broker(own, serving) for serving in (reader, follower)]
        while time.monotonic() < ends:
            asked = [a + answers_without_a_broker(own, s) for a, s in zip(asked, (reader, follower), strict=True)]
        assert min(asked) > 100  # the first one waited for a broker, the others did not
        with pytest.raises(BrokerUnreachable):
            reader.lag(total)
        broker.start()
        own.send(300)
        wait_for(lambda: counted(own), worker)
        for serving in (reader, follower):
            wait_for(lambda serving=serving: next(serving.scan(total)).lag == 0, worker)  # type: ignore[misc]
            own.check(serving, offsets=own.log.ends(own.topic))
        worker.send_signal(signal.SIGTERM)
        _, said = worker.communicate(timeout=40)
        assert worker.returncode == 0, said
    check_all(own)


def answers_without_a_broker(site: Site, serving: Serving) -> int:
    """Answers are exact where they say, and do not claim to know the lag; returns how many."""
    count = 0
    for view in site.app.views.values():
        scanned = list(serving.scan(view))
        assert {answer.lag for answer in scanned} == {None}
        if not view.windowed:
            assert sum(answer.value["clicks"] for answer in scanned) == sum(scanned[0].cut.offsets.values())
        count += len(scanned)
    return count
