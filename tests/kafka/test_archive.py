"""The archive on a real Kafka: recomputations over a topic whose head was deleted, archivers killed and doubled."""

from __future__ import annotations

import signal
from pathlib import Path

from streamkit.log.archive import open_objects, open_source
from streamkit.log.archive.archive import Archive
from streamkit.log.scan import read_all
from tests.kafka.site import APP, Site, wait_for
from tests.life.app import answers, expected
from tests.life.oracle import Raw, events_before

VIEWS = ("total", "session")
SMALL = ("--split-records", "700", "--processes", "2")


def archived(site: Site) -> Archive:
    return Archive.of(open_objects(site.data.archive), site.log.describe(site.topic))


def check(site: Site, records: list[Raw]) -> None:
    """Every View's Answers are the plain loop's over all records that were ever sent, read or deleted since."""
    with site.serving() as serving:
        for name in VIEWS:
            scanned = list(serving.scan(site.view(name)))
            assert scanned[0].cut.offsets == site.log.ends(site.topic)
            events = [e for e in events_before(records, scanned[0].cut.offsets) if e["campaign"] != 7]
            assert answers(scanned) == expected(name, events), name


def test_a_recomputation_over_a_topic_whose_head_was_deleted_is_exact(site: Site) -> None:
    site.send(4_000, rubbish=3)
    with site.worker("--checkpoint", "100ms", "--quiet") as worker:
        wait_for(lambda: site.checkpointed() > 0, worker)
        assert site.command("batch", *VIEWS).count("0 differences to the speed layer") == 2
        said = site.command("archive", site.topic, "--file-records", "500")
        assert "4,003 records archived" in said
        sent = site.records()
        site.log.delete_records(site.topic, site.log.ends(site.topic))
        site.send(1_500, rubbish=1)
        site.command("archive", site.topic, "--file-records", "500")
        sent += site.records()
        # Some of it lies in the archive alone, some in both, some on the log alone.
        middle = {p: (start + end) // 2 for p, start, end in zip(range(3), *_bounds(site), strict=True)}
        site.log.delete_records(site.topic, middle)
        site.send(500)
        ends = archived(site).newest().ends
        sent += [row for row in site.records() if row[1] >= ends[row[0]]]
        said = site.command("batch", *VIEWS, *SMALL)
        assert said.count("0 differences to the speed layer") == 2, said
        assert said.count("(4 rejected)") == 2, said
        assert "view session: 0 differences" in site.command("verify", "session")
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)
    assert len(sent) == 6_004
    check(site, sent)
    assert "0 problems" in site.command("archive", site.topic, "--check")


def test_without_an_archive_it_is_refused(site: Site, tmp_path: Path) -> None:
    site.send(1_000)
    site.command("archive", site.topic)
    sent = site.records()
    site.command("batch", "total")
    site.log.delete_records(site.topic, site.log.ends(site.topic))
    said = site.command("batch", "total", "--archive", str(tmp_path / "elsewhere"), status=1)
    assert "were counted in view 'total'" in said
    site.command("batch", *VIEWS)
    check(site, sent)
    site.send(300)
    site.log.delete_records(site.topic, site.log.ends(site.topic))
    assert "deleted before they were archived" in site.command("batch", "total", status=1)
    assert "deleted before they were archived" in site.command("archive", site.topic, "--check", status=1)


def test_archivers_that_are_killed_and_doubled_archive_each_record_once(site: Site) -> None:
    follow = ("archive", str(APP), site.topic, "--follow", "--file-records", "400", "--max-age", "150ms")
    sent: set[Raw] = set()
    with site.load(per_second=1_500):
        for round_ in range(2):
            reached = archived(site).newest().number
            with site.running(*follow) as killed, site.running(*follow) as other:
                wait_for(lambda reached=reached: archived(site).newest().number > reached + 4, killed)  # type: ignore[misc]
                killed.kill()
                reached = archived(site).newest().number
                wait_for(lambda reached=reached: archived(site).newest().number > reached, other)  # type: ignore[misc]
                if round_ == 1:
                    other.send_signal(signal.SIGINT)
                    assert other.wait(30) == 0
            sent |= set(site.records())
            site.log.delete_records(site.topic, archived(site).newest().ends)
    sent |= set(site.records())
    site.command("archive", site.topic, "--file-records", "400")
    site.command("archive", site.topic, "--compact", "--file-records", "400")
    site.log.delete_records(site.topic, site.log.ends(site.topic))
    assert "0 problems" in site.command("archive", site.topic, "--check")
    source = open_source(site.log, site.data.archive, [site.topic])
    read = [(r.partition, r.offset, r.value or b"") for r in read_all(source, site.topic)]
    assert read == sorted(sent)


def _bounds(site: Site) -> tuple[list[int], list[int]]:
    starts, ends = site.log.starts(site.topic), site.log.ends(site.topic)
    return [starts[p] for p in range(3)], [ends[p] for p in range(3)]
