"""Topics and the world change under workers and readers, on a real Kafka: each change has an end that is defined."""

from __future__ import annotations

import signal
import subprocess

import pytest
from confluent_kafka import Producer

from streamkit.checkpoint import changelog_topic
from streamkit.errors import StateMissing, TopicChanged
from streamkit.speed.worker import group_of
from tests.kafka.site import APP, Site, make_site, wait_for


def end_of(worker: subprocess.Popen[str]) -> str:
    """What a worker says that ends by itself, with an error for the user and no traceback."""
    _, said = worker.communicate(timeout=40)
    assert worker.returncode == 1, said
    assert "Traceback" not in said, said
    return said


def counted(site: Site) -> bool:
    """Is everything on the log in Checkpoints?"""
    return site.checkpointed() == sum(site.log.ends(site.topic).values())


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
    return before, site.log.create(site.topic, partitions=3).id


def refused_until_reset(site: Site, said: str, ids: tuple[str, str]) -> None:
    assert "was deleted and made again" in said
    assert all(known in said for known in ids), said
    assert "streamkit reset" in said
    with site.serving() as serving, pytest.raises(TopicChanged) as refused:
        list(serving.scan(site.view("total")))
    assert all(known in str(refused.value) for known in ids)
    site.command("reset", "--yes")
    site.command("worker", "--until-caught-up")
    with site.serving() as serving:
        site.check(serving, offsets=site.log.ends(site.topic))


@pytest.mark.parametrize("more", [False, True])
def test_a_topic_made_again_under_a_running_worker_is_never_counted(site: Site, more: bool) -> None:
    """Whether the new topic ends before the old one's offsets, or beyond them."""
    site.send(300)
    with site.worker("--checkpoint", "50ms", "--quiet") as worker:
        wait_for(lambda: counted(site), worker)
        ids = make_again(site)
        site.send(600 if more else 30)
        said = end_of(worker)
    with pytest.raises(TopicChanged):
        site.checkpointed()
    refused_until_reset(site, said, ids)


def test_a_topic_made_again_meanwhile_is_refused(site: Site) -> None:
    site.send(300)
    site.command("worker", "--until-caught-up")
    site.command("batch", "total")
    ids = make_again(site)
    site.send(600)
    refused_until_reset(site, site.command("worker", "--until-caught-up", status=1), ids)


def test_a_topic_deleted_under_a_running_worker_is_named(site: Site) -> None:
    site.send(30)
    with site.worker("--checkpoint", "50ms", "--quiet") as worker:
        wait_for(lambda: counted(site), worker)
        site.log.delete(site.topic)
        said = end_of(worker)
    assert f"topic {site.topic}" in said
    assert "does not exist" in said


# -- the changelog goes -----------------------------------------------------------------------------------------------


def changelog_is_gone(site: Site, said: str, ids: list[str]) -> None:
    assert f"changelog of topic {site.topic!r}" in said
    assert all(known in said for known in ids), said
    assert "streamkit reset" in said
    with site.serving() as serving, pytest.raises(StateMissing):
        list(serving.scan(site.view("total")))
    site.command("reset", "--yes")
    site.command("worker", "--until-caught-up")
    with site.serving() as serving:
        site.check(serving, offsets=site.log.ends(site.topic))


@pytest.mark.parametrize("again", [False, True])
def test_a_changelog_that_goes_under_a_running_worker_stops_it(site: Site, again: bool) -> None:
    """Going on, it would write changes to states that nobody who restores from there has."""
    site.send(300)
    name = changelog_topic(site.name, site.topic)
    with site.worker("--checkpoint", "50ms", "--quiet") as worker:
        wait_for(lambda: counted(site), worker)
        ids = [site.log.describe(name).id]
        site.log.delete(name)
        if again:
            ids.append(site.log.create(name, partitions=3).id)
        site.send(30)
        said = end_of(worker)
    changelog_is_gone(site, said, ids)


@pytest.mark.parametrize("again", [False, True])
def test_a_changelog_that_went_meanwhile_is_refused(site: Site, again: bool) -> None:
    site.send(300)
    site.command("worker", "--until-caught-up")
    name = changelog_topic(site.name, site.topic)
    ids = [site.log.describe(name).id]
    site.log.delete(name)
    if again:
        ids.append(site.log.create(name, partitions=3).id)
    changelog_is_gone(site, site.command("worker", "--until-caught-up", status=1), ids)


def test_after_a_reset_caught_up_means_read_anew(site: Site) -> None:
    """The group's offsets from before it say that everything was read."""
    site.send(300)
    site.command("worker", "--until-caught-up")
    site.command("reset", "--yes")
    assert "300 events" in site.command("worker", "--until-caught-up")
    site.command("reset", "total", "--yes")
    site.command("worker", "--until-caught-up")
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
