"""Several workers on a real Kafka: shared partitions, `--workers N` and its supervisor, workers that come and go."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from streamkit.record import TopicPartition
from streamkit.speed.worker import group_of
from streamkit.testing.group_contracts import wait
from tests.kafka.site import Site, suffered, wait_for

FAST = ("--checkpoint", "50ms")


def shares(site: Site) -> list[int]:
    """How many partitions each member has."""
    return sorted(map(len, site.log.members(group_of(site.name)).values()))


def pids(site: Site) -> set[int]:
    """The workers that run on this data folder."""
    return {int(json.loads(slot.note.read_text())["pid"]) for slot in site.data.slots() if slot.runs()}


def offsets(site: Site) -> dict[TopicPartition, int]:
    """What the workers have committed."""
    return site.log.group_offsets(group_of(site.name))


def everything(site: Site) -> bool:
    return sum(offsets(site).values()) >= sum(site.log.ends(site.topic).values())


def check(site: Site) -> None:
    """Every Answer is right, at the log's end."""
    site.command("worker", "--until-caught-up", "--quiet")
    with site.serving() as serving:
        assert site.check(serving, offsets=site.log.ends(site.topic)) > 100


def test_two_workers_by_one_command_share_and_one_that_is_killed_starts_again(site: Site) -> None:
    site.send(3_000)
    with site.worker("--workers", "2", *FAST) as supervisor:
        wait_for(lambda: shares(site) == [1, 2], supervisor)
        before = pids(site)
        assert len(before) == 2
        assert supervisor.pid not in before
        with site.load():
            victim = min(before)
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: len(pids(site) - {victim}) == 2, supervisor)
            # The coordinator may wait for the dead one's session to run out: it is then one of three for seconds.
            wait_for(lambda: shares(site) == [1, 2], supervisor)
            assert pids(site) & before == before - {victim}, "the other one went on"
        wait_for(lambda: everything(site), supervisor)
        supervisor.send_signal(signal.SIGINT)
        out, err = supervisor.communicate(timeout=60)
    assert supervisor.returncode == 0, err
    assert err.count("was killed by SIGKILL: started again") == 1
    assert err.count("; left") == 2, "each worker has made its last Checkpoint and said so"
    assert {line[:3] for line in err.splitlines() if "; left" in line} == {"[1]", "[2]"}
    assert "Traceback" not in out + err
    assert pids(site) == set()
    assert shares(site) == []
    check(site)


def test_workers_leave_when_their_supervisor_is_killed(site: Site) -> None:
    site.send(1_000)
    # Quiet: with nobody to read what they say they would soon leave by that.
    with site.worker("--workers", "2", "--quiet", *FAST) as supervisor:
        wait_for(lambda: shares(site) == [1, 2], supervisor)
        supervisor.kill()
        supervisor.wait()
        wait(lambda: not pids(site))
    assert shares(site) == [], "they have left the group, which does not wait for their sessions"
    check(site)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('key="campaing"', "Click has no field 'campaing'; did you mean 'campaign'?"),
        ('key="campaign", where=1/0', "ZeroDivisionError"),
    ],
)
def test_an_error_in_the_definition_stops_all(site: Site, tmp_path: Path, change: str, said: str) -> None:
    app = tmp_path / "broken.py"
    app.write_text(
        f"""
import os, streamkit as sk
from tests.life.app import Click
app = sk.Topology(os.environ["LIFE_NAME"])
clicks = app.topic(os.environ["LIFE_TOPIC"], value=Click)
app.view("total", clicks, {change}, aggregates={{"clicks": sk.Count()}})
"""
    )
    err = site.run("worker", str(app), "--workers", "2", status=1)
    assert 1 <= sum(said in line for line in err.splitlines()) <= 2
    assert "started again" not in err
    assert shares(site) == []


def test_an_error_of_one_worker_stops_all(site: Site) -> None:
    """The slot that one of them finds is another topology's; the other one could go on for ever."""
    slot = site.data.slot(1)
    slot.path.mkdir(parents=True)
    slot.note.write_text(json.dumps({"topology": "/another/app.py"}))
    err = site.command("worker", "--workers", "2", *FAST, status=1)
    assert err.count("was written by another topology") == 1
    assert "started again" not in err
    assert pids(site) == set()


def test_an_error_at_work_stops_all(site: Site, tmp_path: Path) -> None:
    """One that a worker meets only when it reads: the other one is told to stop, and the records stay uncounted."""
    app = tmp_path / "strict.py"
    app.write_text(
        """
import os, streamkit as sk
from tests.life.app import Click
app = sk.Topology(os.environ["LIFE_NAME"])
clicks = app.topic(os.environ["LIFE_TOPIC"], value=Click, partitions=3, errors="fail")
app.view("total", clicks, key="campaign", aggregates={"clicks": sk.Count()})
"""
    )
    with site.running("worker", str(app), "--workers", "2", *FAST) as supervisor:
        wait_for(lambda: shares(site) == [1, 2], supervisor)
        site.send(10, rubbish=1)
        _, err = supervisor.communicate(timeout=60)
    assert supervisor.returncode == 1
    assert 1 <= err.count("not a Click") <= 2
    assert "started again" not in err
    assert shares(site) == []


def test_a_worker_that_joins_takes_its_share_while_the_others_go_on_and_gives_it_back(site: Site) -> None:
    site.send(1_000)
    with site.worker("--workers", "2", *FAST) as supervisor:
        wait_for(lambda: shares(site) == [1, 2], supervisor)
        with site.load(), site.faulty_worker("stop after group.assigned 1", *FAST) as third:
            # It has its share, and stands still before it works on it.
            wait_for(lambda: suffered(third), supervisor)
            before = offsets(site)
            wait_for(lambda: len(grown(site, before, by=200)) == 2, supervisor)
            third.send_signal(signal.SIGCONT)
            wait_for(lambda: len(grown(site, before, by=200)) == 3, third)
            wait_for(lambda: shares(site) == [1, 1, 1], third)
            third.send_signal(signal.SIGTERM)
            assert third.wait(30) == 0
            before = offsets(site)
            wait_for(lambda: len(grown(site, before, by=200)) == 3, supervisor)
            wait_for(lambda: shares(site) == [1, 2], supervisor)
        wait_for(lambda: everything(site), supervisor)
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(60) == 0
    check(site)


def grown(site: Site, before: Mapping[TopicPartition, int], *, by: int) -> set[TopicPartition]:
    """Partitions of which more than so many records were committed since."""
    return {source for source, offset in offsets(site).items() if offset > before.get(source, 0) + by}
