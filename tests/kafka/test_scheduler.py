"""`streamkit scheduler` on a real Kafka: several of them, kill -9, a clean end."""

from __future__ import annotations

import itertools
import json
import signal
from pathlib import Path
from typing import Any

from tests.kafka.site import Site, wait_for

APP = Path(__file__).with_name("scheduled_app.py")


def history(site: Site) -> list[dict[str, Any]]:
    return [json.loads(line) for line in site.run("batch", "history", str(APP), "--json").splitlines() if "{" in line]


def published(site: Site, pid: int) -> int:
    return sum(r["outcome"] == "published" and r["by"].endswith(f":{pid}") for r in history(site))


def test_one_scheduler_acts_and_another_takes_over_when_it_is_killed(site: Site) -> None:
    site.send(2_000)
    with site.running("scheduler", str(APP)) as first:
        wait_for(lambda: published(site, first.pid) >= 1, first)
        with site.running("scheduler", str(APP)) as second:
            wait_for(lambda: published(site, first.pid) >= 2, second)
            assert published(site, second.pid) == 0
            first.kill()
            site.send(10)
            wait_for(lambda: published(site, second.pid) >= 1, second)
            second.send_signal(signal.SIGINT)
            _, err = second.communicate(timeout=60)
            assert second.returncode == 0, err
            assert "Traceback" not in err
    runs = [run for run in history(site) if run["outcome"] == "published"]
    times = sorted((run["started"], run["started"] + run["seconds"] * 1000) for run in runs)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(times)), "one run at a time"
    assert {run["trigger"] for run in runs[:1]} == {"first"}
    assert {run["kind"] for run in runs} <= {"full", "incremental"}
    assert all(run["differences"] in (0, None) for run in runs)
    assert runs[-1]["cut"] == {str(p): end for p, end in site.log.ends(site.topic).items()}
