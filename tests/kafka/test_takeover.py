"""A worker that takes tasks over while the Checkpoint of the one before is not decided: it waits, and counts once."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from streamkit.changelog.state import position_of
from streamkit.checkpoint import changelog_topic
from streamkit.record import TopicPartition
from streamkit.speed.worker import group_of
from streamkit.store.rocksdb import RocksReader
from tests.kafka.site import Site, suffered, wait_for

FAST = ("--checkpoint", "50ms")
SENT_OFFSETS = "after committer.offsets 3"
"""The third Checkpoint is on the log, its offsets are accepted, and it is not committed."""


@pytest.fixture
def elsewhere(site: Site, tmp_path: Path) -> Site:
    """The same application on another machine: with a data folder, and a transactional id, of its own."""
    return dataclasses.replace(site, folder=tmp_path / "elsewhere")


def send_until_it_suffers(site: Site, process: subprocess.Popen[str]) -> None:
    """Checkpoints are made while records come; the fault is at one of them."""
    while not suffered(process):
        site.send(200)


def undecided(site: Site) -> bool:
    """Is there an open transaction on the changelog?"""
    name = changelog_topic(site.name, site.topic)
    return site.log.ends(name) != site.log.ends(name, committed=False)


def hear(process: subprocess.Popen[str], words: str, *, before: str = "\n\n") -> None:
    """Read what a worker says up to a line with `words`, which comes before any with `before`."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if words in line:
            return
        assert before not in line, said
    raise AssertionError(f"the worker ended without {words!r}; it said {said}")


def is_waiting(site: Site, worker: subprocess.Popen[str]) -> None:
    """It has been given tasks, and works on none of them for two seconds."""
    for _ in range(2):
        hear(worker, "restoring ", before=f"partitions of this worker: {site.topic}")
    assert undecided(site), "the transaction has timed out: this machine is too slow for the test"


def check(site: Site) -> None:
    """Everything once: Answers of every View, and the agents' outputs."""
    site.command("worker", "--until-caught-up", "--quiet")
    with site.serving() as serving:
        assert site.check(serving, offsets=site.log.ends(site.topic)) > 100
    sent = [json.loads(value) for _, _, value in site.records(f"{site.topic}.alerts")]
    assert Counter((alert["campaign"], alert["seen"]) for alert in sent) == due(site)


def due(site: Site) -> Counter[tuple[str, int]]:
    """The alerts that a plain loop gives; two users may have the same."""
    seen, alerts = Counter[str](), Counter[tuple[str, int]]()
    for _, _, value in site.records():
        click = json.loads(value)
        seen[click["user"]] += 1
        if seen[click["user"]] % 3 == 0:
            alerts[click["campaign"], seen[click["user"]]] += 1
    return alerts


def test_a_stopped_workers_commit_is_waited_for(site: Site, elsewhere: Site) -> None:
    """The old worker commits after its tasks were given to another: what it counts, the other one must not.

    Restored without that commit the new one would read the same records, and count them beside it.
    """
    site.send(3_000)
    # Long enough for another to have joined and to wait, however busy the machine is.
    patient = {"STREAMKIT_CLIENT_TRANSACTION_TIMEOUT_MS": "25000"}
    with site.faulty_worker(f"stop {SENT_OFFSETS}", *FAST, **patient) as old:
        send_until_it_suffers(site, old)
        assert undecided(site)
        with elsewhere.worker(*FAST) as new:
            is_waiting(site, new)
            (owned,) = site.log.members(group_of(site.name)).values()
            assert len(owned) == 3, "the stopped worker is no member any more, and the new one has all"
            before = site.log.group_offsets(group_of(site.name))
            old.send_signal(signal.SIGCONT)
            hear(new, "partitions of this worker")
            assert not undecided(site)
            assert sum(site.log.group_offsets(group_of(site.name)).values()) > sum(before.values()), "it was committed"
            old.kill()
            ends = sum(site.log.ends(site.topic).values())
            wait_for(lambda: elsewhere.checkpointed() >= ends, new)
            new.send_signal(signal.SIGTERM)
            assert new.wait(30) == 0
    check(elsewhere)


def test_a_killed_workers_transaction_is_waited_for_until_it_is_aborted(site: Site, elsewhere: Site) -> None:
    site.send(3_000)
    with site.faulty_worker(f"kill {SENT_OFFSETS}", *FAST) as old:
        send_until_it_suffers(site, old)
    assert undecided(site)
    with elsewhere.worker(*FAST) as new:
        is_waiting(site, new)
        hear(new, "partitions of this worker")
        assert not undecided(site)
        ends = sum(site.log.ends(site.topic).values())
        wait_for(lambda: elsewhere.checkpointed() >= ends, new)
        new.send_signal(signal.SIGTERM)
        assert new.wait(30) == 0
    check(elsewhere)


def test_a_killed_worker_that_starts_again_ends_its_own_transaction_at_once(site: Site) -> None:
    site.send(3_000)
    with site.faulty_worker(f"kill {SENT_OFFSETS}", *FAST) as old:
        send_until_it_suffers(site, old)
    assert undecided(site)
    name = changelog_topic(site.name, site.topic)
    aborted = site.log.ends(name, committed=False)
    check(site)  # by its name it is the same one: the coordinator aborts what it has left open
    (slot,) = site.data.slots()
    store = RocksReader(slot.state)
    for partition, end in aborted.items():
        position = position_of(store, TopicPartition(site.topic, partition))
        assert position is not None
        assert position.offset > end, "what was aborted lies in the middle, and was passed"
    store.close()
