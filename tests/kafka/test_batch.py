"""The batch layer on a real Kafka: killed midway, published under a reader's eyes, and proved."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import closing

import msgspec

from streamkit.checkpoint import Segments, Slot, segment_prefix, segments_key, slot_key, task_prefix
from streamkit.log.control import ControlTopic
from streamkit.record import TopicPartition
from streamkit.store.base import Write
from streamkit.store.rocksdb import RocksStore
from tests.kafka.site import APP, Site, wait_for

SMALL = ("--split-records", "500", "--processes", "2")


def published(site: Site, view: str) -> int:
    with closing(ControlTopic(site.log, site.name)) as control:
        control.catch_up()
        return len(control.published.of(view, site.view(view).fingerprint))


def test_a_batch_beside_a_running_worker_is_proved_and_its_answers_are_exact(site: Site) -> None:
    site.send(4_000, rubbish=2)
    with site.worker("--checkpoint", "100ms", "--quiet") as worker:
        wait_for(site.data.worker_runs, worker)
        for asked in ([], ["--incremental"]):
            site.send(1_000)
            said = site.command("batch", *SMALL, *asked)
            assert said.count("0 differences to the speed layer") == 4, said
            assert said.count("1,000 records after BatchView") == (4 if asked else 0), said
        site.send(1_000)
        assert "0 differences" in site.command("verify", "session")
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)
    with site.serving() as serving:
        site.check(serving, offsets=site.log.ends(site.topic))
        seam = serving.seam(site.view("total"))
        assert seam.batch is not None
        assert seam.batch.proof is not None
        assert (seam.batch.proof.differences, seam.batch.rejected) == (0, 2)


def test_a_batch_killed_midway_leaves_the_old_one_in_force_and_goes_on(site: Site) -> None:
    site.send(5_000)
    site.command("batch", "total", *SMALL)
    site.send(20_000)
    splits = site.data.batch / "total" / "splits"
    with site.running("batch", str(APP), "total", "--split-records", "200", "--processes", "1") as killed:
        wait_for(lambda: len(list(splits.glob("*.parquet"))) >= 3, killed)
    assert published(site, "total") == 1
    with site.serving() as serving:
        scanned = list(serving.scan(site.view("total")))
        assert sum(scanned[0].cut.offsets.values()) == 5_000
    done = {path.name: path.stat().st_mtime_ns for path in splits.glob("*.parquet")}
    site.send(100)  # after the Cut of the run that was killed
    said = site.command("batch", "total", "--processes", "2")
    assert "going on with the run that was stopped" in said
    assert published(site, "total") == 2
    assert not splits.exists()
    assert len(done) >= 3
    history = [json.loads(line) for line in site.run("batch", "history", str(APP), "total", "--json").splitlines()]
    assert [run["outcome"] for run in history] == ["published", "killed", "published"]
    assert [run["records"] for run in history] == [5_000, None, 25_000]
    with site.serving() as serving:
        scanned = list(serving.scan(site.view("total")))
        assert sum(scanned[0].cut.offsets.values()) == 25_000
        assert sum(a.value["clicks"] for a in scanned) == 25_000


def test_an_incremental_run_killed_midway_goes_on_from_the_same_base_and_a_full_one_proves_it(site: Site) -> None:
    site.send(3_000)
    site.command("batch", "session", *SMALL)
    site.send(6_000)
    splits = site.data.batch / "session" / "splits"
    slow = ("session", "--incremental", "--split-records", "100", "--processes", "1")
    with site.running("batch", str(APP), *slow) as killed:
        wait_for(lambda: len(list(splits.glob("*.parquet"))) >= 3, killed)
    said = site.command("batch", "session", "--processes", "2")
    assert "going on with the run that was stopped" in said
    assert "9,000 events (6,000 records after BatchView" in said
    site.send(100)
    said = site.command("batch", "session", *SMALL)
    assert "0 differences to BatchView" in said, "no worker has run: the full result is compared with the BatchView"
    assert "(incremental) at its Cut" in said
    runs = [json.loads(line) for line in site.run("batch", "history", str(APP), "session", "--json").splitlines()]
    assert [run["kind"] for run in runs] == ["full", "incremental", "incremental", "full"]
    assert [run["outcome"] for run in runs] == ["published", "killed", "published", "published"]
    assert (runs[-1]["differences"], runs[-1]["against"]) == (0, runs[-2]["batch"])
    file = next((site.data.batch / "session" / runs[-1]["batch"]).glob("part-*.parquet"))
    file.write_bytes(file.read_bytes()[:-50] + bytes(50))
    said = site.command("batch", "session", "--incremental")
    assert "computed from the start, in full" in said
    assert "was changed since it was published" in said
    with site.serving() as serving:
        assert sum(answer.value["clicks"] for answer in serving.scan(site.view("session"))) == 9_100


def test_answers_stay_right_while_batch_views_are_published(site: Site) -> None:
    """A reader asks without pause while events come, the worker seals and releases, and batches are published."""
    site.send(2_000)
    stop, checked, failures = threading.Event(), [0], list[BaseException]()

    def read() -> None:
        try:
            with site.serving() as serving:
                while not stop.is_set():
                    site.check(serving)
                    checked[0] += 1
        except BaseException as failure:
            failures.append(failure)

    with site.worker("--checkpoint", "50ms", "--quiet") as worker:
        wait_for(lambda: site.checkpointed() > 0, worker)
        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(3):
            site.send(500)
            site.command("batch", *SMALL)
        stop.set()
        reader.join()
    assert not failures, failures
    assert checked[0] >= 3


def test_verify_names_the_first_divergence(site: Site) -> None:
    site.send(1_000)
    site.command("worker", "--until-caught-up")
    assert "view tumbling: 0 differences" in site.command("verify", "tumbling")
    with closing(RocksStore.open(site.data.slot(0).state)) as store:
        task = task_prefix(TopicPartition(site.topic, 0))
        found = store.get([task + segments_key("tumbling")])[0]
        segment = msgspec.msgpack.decode(found or b"", type=Segments).start
        slot = Slot(("c3",), 50_000, 60_000)
        wrong = msgspec.msgpack.encode([999, 0, 0, b""])
        store.write(Write(puts=[(task + segment_prefix("tumbling", segment) + slot_key(slot), wrong)]))
    said = site.command("verify", "tumbling", status=1)
    assert "view tumbling: 1 differences" in said
    assert "key ('c3',) window [50000, 60000)" in said
    assert "'clicks': 999" in said or "'clicks': 1" in said


def test_records_lost_to_retention_are_not_recomputed_away(site: Site) -> None:
    site.send(1_000)
    site.command("batch", "total")
    site.log.delete_records(site.topic, {0: 10})
    said = site.command("batch", "total", status=1)
    assert f"{site.topic}/0: the records [0, 10) were counted in view 'total'" in said
    assert "retention.ms=-1" in said


def test_a_batch_of_nothing_is_said_and_published(site: Site) -> None:
    said = site.command("batch", "total")
    assert f"topic {site.topic!r} is empty" in said
    assert published(site, "total") == 1


def test_damaged_files_are_refused(site: Site) -> None:
    site.send(500)
    site.command("batch", "total")
    file = next((site.data.batch / "total").glob("*/part-*.parquet"))
    file.write_bytes(file.read_bytes()[:-100] + bytes(100))
    said = site.command("query", "total", "c1", status=1)
    assert "was damaged since it was published" in said
