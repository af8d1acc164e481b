"""`streamkit serve` and `streamkit.connect` beside a real worker: the same Answers, and a clean end."""

from __future__ import annotations

import signal

import httpx
import pytest

import streamkit as sk
from tests.kafka.site import APP, Site
from tests.life.app import expected
from tests.life.oracle import events_before


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_the_api_gives_the_plain_loops_answers_and_ends_cleanly(site: Site, asked: signal.Signals) -> None:
    site.send(2_000)
    site.command("worker", "--until-caught-up")
    loop = expected("total", events_before(site.records(), site.log.ends(site.topic)))
    with site.running("serve", str(APP), "--port", "0") as server:
        assert server.stdout is not None
        address = next(word for word in server.stdout.readline().split() if word.startswith("http")).rstrip(";")
        with httpx.Client(base_url=address) as client:
            assert client.get("/health").status_code == 200
            for (campaign, _), values in loop.items():
                found = client.get("/views/total/answer", params={"key": campaign}).raise_for_status().json()
                assert (found["value"], found["lag"]) == (values, 0)
                assert {int(p): o for p, o in found["cut"]["offsets"].items()} == site.log.ends(site.topic)
            assert "streamkit_view_lag_records" in client.get("/metrics").text
        server.send_signal(asked)
        _, err = server.communicate(timeout=30)
        assert server.returncode == 0, err


def test_a_library_call_gives_the_same(site: Site) -> None:
    site.send(500)
    site.command("worker", "--until-caught-up")
    loop = expected("tumbling", events_before(site.records(), site.log.ends(site.topic)))
    with sk.connect(site.app, brokers=site.brokers, data=site.folder):
        view = site.view("tumbling")
        for (campaign, window), values in loop.items():
            assert dict(view.get(campaign, window=window).value) == values
        assert len(list(view.scan("c1"))) == sum(campaign == "c1" for campaign, _ in loop)


def test_what_is_not_there_is_said(site: Site) -> None:
    assert "has neither Segments nor a BatchView yet" in site.command("query", "total", "c1", status=1)
    site.send(100)
    site.command("worker", "--until-caught-up")
    assert "no records with this key before Cut" in site.command("query", "total", "nobody", status=1)
    assert "has no view 'totals'" in site.command("query", "totals", status=1)
