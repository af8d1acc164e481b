"""Workers on a real Kafka and a real RocksDB: killed, stopped, doubled, and asked for the impossible."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from streamkit.speed.worker import group_of
from tests.kafka.site import APP, Site, wait_for


def due(site: Site) -> set[tuple[str, int]]:
    """The alerts that a plain loop gives."""
    seen: dict[str, int] = {}
    alerts = set()
    for _, _, value in site.records():
        click = json.loads(value)
        if click["campaign"] == 7:
            continue
        seen[click["user"]] = seen.get(click["user"], 0) + 1
        if seen[click["user"]] % 3 == 0:
            alerts.add((click["campaign"], seen[click["user"]]))
    return alerts


def test_a_worker_killed_again_and_again_gives_the_plain_loops_answers(site: Site) -> None:
    total = 0
    for _ in range(4):
        site.send(5_000, rubbish=3)
        before, total = site.checkpointed(), total + 5_003
        with site.worker("--checkpoint", "50ms", "--quiet") as worker:
            wait_for(lambda before=before: site.checkpointed() > before, worker)  # type: ignore[misc]
            site.send(500)
            total += 500
            worker.send_signal(signal.SIGKILL)
    site.command("worker", "--until-caught-up")
    with site.serving() as serving:
        assert site.check(serving, offsets=site.log.ends(site.topic)) > 100
    assert site.checkpointed() == total
    assert site.alerts() == due(site)
    assert site.run("dead-letter", "list", str(APP), site.topic).count('{"campaign": 7}') == 12


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_told_to_stop_makes_a_checkpoint_and_leaves(site: Site, asked: signal.Signals) -> None:
    site.send(2_000)
    with site.worker("--checkpoint", "1h") as worker:
        wait_for(site.has_state, worker)
        worker.send_signal(asked)
        _, err = worker.communicate(timeout=30)
        assert worker.returncode == 0, err
        assert "left" in err
    with site.serving() as serving:
        site.check(serving)


def test_until_caught_up_stops_at_the_end_it_found(site: Site) -> None:
    site.send(3_000)
    ends = site.log.ends(site.topic)
    assert "3,000 events" in site.command("worker", "--until-caught-up")
    with site.serving() as serving:
        site.check(serving, offsets=ends)


def test_an_empty_topic_is_said_and_left(site: Site) -> None:
    assert "are empty: nothing to catch up with" in site.command("worker", "--until-caught-up")


def test_a_second_worker_takes_its_share_and_gives_it_back(site: Site) -> None:
    site.send(2_000)
    with site.worker("--checkpoint", "50ms") as first:
        wait_for(lambda: site.checkpointed() >= 2_000, first)
        with site.worker("--checkpoint", "50ms") as second:
            wait_for(lambda: sorted(map(len, site.log.members(group_of(site.name)).values())) == [1, 2], second)
            site.send(2_000)
            wait_for(lambda: site.checkpointed() >= 4_000, first)
            second.send_signal(signal.SIGTERM)
            assert second.wait(30) == 0
        wait_for(lambda: list(map(len, site.log.members(group_of(site.name)).values())) == [3], first)
        site.send(500)
        wait_for(lambda: site.checkpointed() >= 4_500, first)
    with site.serving() as serving:
        site.check(serving, offsets=site.log.ends(site.topic))
    assert site.alerts() == due(site)


def test_a_missing_topic_is_named_with_the_way_out(site: Site) -> None:
    site.log.delete(site.topic)
    said = site.command("worker", status=1)
    assert f"topic {site.topic} of topology {site.name!r} does not exist" in said
    assert f"streamkit create-topics {APP}" in said
    site.command("create-topics")
    site.command("worker", "--until-caught-up")


def test_an_unreachable_broker_is_named_with_the_way_out(site: Site) -> None:
    said = site.command("worker", "--brokers", "127.0.0.1:1", status=1)
    assert "127.0.0.1:1" in said
    assert "streamkit broker start" in said
    assert "Traceback" not in said


def test_a_topic_made_again_is_refused_until_reset(site: Site) -> None:
    site.send(100)
    site.command("worker", "--until-caught-up")
    site.log.delete(site.topic)
    site.command("create-topics")
    site.send(50)
    said = site.command("worker", "--until-caught-up", status=1)
    assert "was deleted and made again" in said
    assert "streamkit reset" in said
    site.command("reset", "--yes")
    site.command("worker", "--until-caught-up")
    with site.serving() as serving:
        site.check(serving, offsets=site.log.ends(site.topic))


CHANGED = """
import os, streamkit as sk
from tests.life.app import Click
app = sk.Topology(os.environ["LIFE_NAME"])
clicks = app.topic(os.environ["LIFE_TOPIC"], value=Click, timestamp="at", key="user", partitions=3)
app.view("total", clicks, key="campaign", aggregates={"clicks": sk.Count(), "least": sk.Min("cents")})
"""


def test_a_changed_view_is_refused_until_reset(site: Site, tmp_path: Path) -> None:
    site.send(100)
    site.command("worker", "--until-caught-up")
    changed = tmp_path / "changed.py"
    changed.write_text(CHANGED)
    said = site.run("worker", str(changed), "--until-caught-up", "--adopt", status=1)
    assert "view 'total' was changed since its state was written" in said
    site.run("reset", str(changed), "total", "--yes")
    site.run("worker", str(changed), "--until-caught-up", "--adopt")


def test_another_topology_of_the_same_name_is_refused(site: Site, tmp_path: Path) -> None:
    site.command("worker", "--until-caught-up")
    other = tmp_path / "other.py"
    other.write_text(CHANGED)
    said = site.run("worker", str(other), "--until-caught-up", status=1)
    assert f"was written by another topology named {site.name!r}" in said
    assert "--adopt" in said


FAILING = CHANGED.replace("partitions=3)", "partitions=3, errors=POLICY)")


@pytest.mark.parametrize(("policy", "status"), [("fail", 1), ("skip", 0)])
def test_the_error_policy_decides(site: Site, tmp_path: Path, policy: str, status: int) -> None:
    site.send(10, rubbish=2)
    app = tmp_path / "policy.py"
    app.write_text(FAILING.replace("POLICY", repr(policy)))
    said = site.run("worker", str(app), "--until-caught-up", status=status)
    if policy == "fail":
        assert f"{site.topic}/" in said
        assert "not a Click: Expected `str`, got `int` - at `$.campaign`" in said
        assert 'errors="dead_letter"' in said
    else:
        assert "2 rejected" in said
    assert f"{site.topic}.dead-letter" not in site.log.topics()


def test_dead_letters_of_an_agent_are_replayed_to_it_alone(site: Site, tmp_path: Path) -> None:
    app = tmp_path / "agents.py"
    app.write_text(
        CHANGED
        + """
from tests.life.app import Alert
alerts = app.topic(os.environ["LIFE_TOPIC"] + ".alerts", value=Alert, partitions=1)
@app.agent(clicks, out=alerts)
async def moody(events):
    async for click in events:
        if os.path.exists(os.environ["STREAMKIT_DATA"] + "/broken"):
            raise ValueError("broken")
        yield Alert(click.campaign, click.cents)
"""
    )
    (tmp_path / "broken").touch()
    site.send(5)
    said = site.run("worker", str(app), "--until-caught-up")
    assert "5 failed in agents" in said
    assert site.alerts() == set()
    (tmp_path / "broken").unlink()
    assert "5 events sent" in site.run("dead-letter", "replay", str(app), site.topic, "--agent", "moody")
    assert "0 events sent" in site.run("dead-letter", "replay", str(app), site.topic)
    site.run("worker", str(app), "--until-caught-up")
    assert len(site.records(f"{site.topic}.alerts")) == 5
    assert "0 differences" in site.run("verify", str(app), "total")


def test_client_settings_reach_librdkafka(site: Site, tmp_path: Path) -> None:
    settings = tmp_path / "client.properties"
    settings.write_text("no.such.setting=1\n")
    said = site.command("worker", "--client-config", str(settings), status=1)
    assert "no.such.setting" in said
