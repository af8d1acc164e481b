"""Versions of a View side by side: which one answers, what would change, and state of another format."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from openapi_spec_validator import validate

import streamkit as sk
from streamkit.changelog import block
from streamkit.changelog.changelogs import Changelogs
from streamkit.checkpoint import BLOCK_KEY, FORMAT_KEY, FORMAT_VERSION, MARK_KEY, changelog_topic, pack, task_prefix
from streamkit.cli.upgrade import _pair, _Wait
from streamkit.control import Promoted
from streamkit.errors import DefinitionChanged, DefinitionError, StateError, StateMissing
from streamkit.folder import DataFolder
from streamkit.log.control import ControlTopic
from streamkit.log.memory import MemoryLog
from streamkit.record import TopicPartition
from streamkit.serving import http_models as models
from streamkit.serving.connect import InForce
from streamkit.serving.copies import Copies
from streamkit.serving.merge import Serving
from streamkit.serving.replica import Replica
from streamkit.serving.versions import differences
from streamkit.speed.worker import Worker
from streamkit.store.base import Write
from streamkit.store.memory import MemoryReader, MemoryStore
from streamkit.store.rocksdb import RocksStore
from streamkit.testing.driver import Driver
from tests.life.app import Click
from tests.unit.test_http import Client


def declare(*versions: int) -> sk.Topology:
    """Version 1 counts all clicks by campaign, 2 those that cost something, 3 keys them by user, too."""
    app = sk.Topology("ads")
    clicks = app.topic("clicks", value=Click, timestamp="at", key="user", partitions=2)
    counts = {"clicks": sk.Count()}
    if 1 in versions:
        app.view("spend", clicks, key="campaign", aggregates={**counts, "dearest": sk.Max("cents")})
    if 2 in versions:
        paid = {**counts, "cents": sk.Sum("cents")}
        app.view("spend", clicks, key="campaign", where=pl.col("cents") > 0, aggregates=paid, version=2)
    if 3 in versions:
        app.view("spend", clicks, key=["campaign", "user"], aggregates=counts, version=3)
    return app


def clicks(*cents: int) -> list[Click]:
    return [Click(f"c{n % 2}", f"u{n % 3}", value, 0) for n, value in enumerate(cents)]


def promote(driver: Driver, name: str) -> None:
    with closing(ControlTopic(driver.log, driver.topology.name)) as control:
        control.append(Promoted("spend", name))


@pytest.fixture
def driver() -> Iterator[Driver]:
    with Driver(declare(1, 2, 3)) as driver:
        driver.send(driver.topology.topics["clicks"], *clicks(5, 0, 7, 3, 0))
        driver.catch_up()
        yield driver


def old_readers(driver: Driver, *versions: int) -> Serving:
    """A reader whose topology declares these versions only."""
    copies = Copies(Changelogs(driver.log, "ads"), lambda: [MemoryReader(store) for store in driver._stores])
    return Serving(driver.log, declare(*versions), driver.folder, copies)


# -- which one answers ------------------------------------------------------------------------------------------------


def test_the_first_version_answers_until_another_is_promoted_and_again_after_it_is_taken_back(driver: Driver) -> None:
    serving = driver.serving
    values = []
    for name in (None, "spend@2", "spend"):
        if name is not None:
            promote(driver, name)
        values.append(serving.get(serving.in_force("spend"), ("c0",)).value)
    assert values[0] == values[2] == {"clicks": 3, "dearest": 7}
    assert values[1] == {"clicks": 2, "cents": 12}


def test_each_version_can_be_asked_whichever_is_in_force(driver: Driver) -> None:
    find = driver.serving.find
    for promoted in ("spend", "spend@3"):
        promote(driver, promoted)
        assert [find(f"spend@{n}").name for n in (1, 2, 3)] == ["spend", "spend@2", "spend@3"]
        assert find("spend").name == promoted
    for unknown in ("spend@4", "spent", "spent@1"):
        with pytest.raises(DefinitionError, match="it has spend, spend@2, spend@3"):
            find(unknown)


def test_a_version_without_a_first_one_beside_it_answers(driver: Driver) -> None:
    with closing(old_readers(driver, 2, 3)) as serving:
        assert serving.in_force("spend").name == "spend@2"


def test_a_promoted_version_that_is_not_declared_is_refused_with_the_way_out(driver: Driver) -> None:
    promote(driver, "spend@2")
    with closing(old_readers(driver, 1)) as serving:
        with pytest.raises(DefinitionChanged, match=r"switched to spend@2, which .* \(it has spend\).*--back"):
            serving.find("spend")
        assert serving.find("spend@1").name == "spend"


def test_a_view_that_is_connected_is_answered_by_the_version_in_force(driver: Driver) -> None:
    spend = driver.topology.views["spend"]
    spend.connect(InForce(driver.serving))
    assert spend.get("c0").view == "spend"
    promote(driver, "spend@2")
    assert (spend.get("c0").view, spend.get("c0").value["cents"]) == ("spend@2", 12)
    assert [a.view for a in spend.scan()] == ["spend@2"] * 2
    promote(driver, "spend@3")
    # Asked for ("c0",) it would say that there is nothing.
    with pytest.raises(DefinitionError, match="'spend@3' is keyed by campaign, user: give 2"):
        spend.get("c0")
    with pytest.raises(DefinitionError, match="'spend@3' is keyed by campaign, user"):
        list(spend.scan("c0"))


def test_a_version_beside_it_changes_no_answer_of_the_others(driver: Driver) -> None:
    with Driver(declare(1)) as alone:
        alone.send(alone.topology.topics["clicks"], *clicks(5, 0, 7, 3, 0))
        alone.catch_up()
        before = {a.key: a.value for a in alone.scan(alone.topology.views["spend"])}
    assert {a.key: a.value for a in driver.scan(driver.topology.views["spend"])} == before
    assert len(driver.scan(driver.topology.views["spend@3"])) == 5


def test_two_versions_of_one_number_are_refused() -> None:
    app = declare(1, 2)
    with pytest.raises(DefinitionError, match="view 'spend@2' already"):
        app.view("spend", app.topics["clicks"], key="user", aggregates={"n": sk.Count()}, version=2)
    with pytest.raises(DefinitionError, match="version must be 1 or more, got 0"):
        app.view("spend", app.topics["clicks"], key="user", aggregates={"n": sk.Count()}, version=0)


# -- which one is next ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("promoted", "back", "expected"),
    [
        (None, False, ("spend", "spend@3")),
        ("spend@2", False, ("spend@2", "spend@3")),
        ("spend@3", True, ("spend@3", "spend@2")),
        ("spend@2", True, ("spend@2", "spend")),
        ("spend@9", True, ("spend@9", "spend@3")),  # not declared any more: what --back is for
    ],
)
def test_upgrade_takes_the_newest_and_back_the_one_before(
    promoted: str | None, back: bool, expected: tuple[str, str]
) -> None:
    old, new = _pair(declare(1, 2, 3), "spend", promoted, back=back)
    assert (old, new.name) == expected


@pytest.mark.parametrize(
    ("view", "promoted", "back", "said"),
    [
        ("spend", "spend@3", False, r"no newer version is declared .*app.view\('spend', ..., version=4\)"),
        ("spend", None, True, "spend is in force, the first version: there is none to go back to"),
        ("spend@2", None, False, "has no view 'spend@2'; it has spend .*without a version"),
        ("spent", None, False, "has no view 'spent'; it has spend"),
    ],
)
def test_what_cannot_be_switched_is_said(view: str, promoted: str | None, back: bool, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        _pair(declare(1, 2, 3), view, promoted, back=back)
    with pytest.raises(DefinitionError, match=r"no older version is declared \(there is spend@3\)"):
        _pair(declare(3), "spend", "spend@3", back=True)


# -- waiting for the workers ------------------------------------------------------------------------------------------


def wait(driver: Driver, root: Path) -> _Wait:
    """One that looks once: what it waits for is there, or it is not."""
    folder = DataFolder("ads", root)
    folder.path.mkdir(exist_ok=True)
    if not folder.batch.exists():
        folder.batch.symlink_to(driver.folder)
    return _Wait(driver.topology, driver.log, folder, 0.0)


def test_upgrade_waits_until_workers_go_on_from_its_batchview(driver: Driver, tmp_path: Path) -> None:
    old, new = (driver.topology.views[name] for name in ("spend", "spend@2"))
    driver.batch(new, driver.end(new))
    driver.send(old.topic, *clicks(1, 2, 3))
    driver.catch_up()
    batch = driver.publish(new)
    # The worker had read on beyond the Cut. It answers without the BatchView still, and will go back to its Cut.
    with pytest.raises(StateMissing, match=r"have not brought spend@2 to where spend is .* answered as before"):
        wait(driver, tmp_path).for_one_cut(old, new, batch)
    driver.checkpoint()
    assert driver.serving.seam(new).cut != driver.serving.seam(old).cut
    with pytest.raises(StateMissing, match="have not brought"):
        wait(driver, tmp_path).for_one_cut(old, new, batch)
    driver.catch_up()
    found, seam = wait(driver, tmp_path).for_one_cut(old, new, batch)
    assert (seam.batch, seam.cut) == (batch, driver.end(new))
    assert found.same + found.changed == 2


def test_upgrade_computes_up_to_the_old_version_where_the_new_one_is_behind(tmp_path: Path) -> None:
    with Driver(declare(1)) as before:
        before.send(before.topology.topics["clicks"], *clicks(5, 0, 7, 3, 0))
        before.catch_up()
        before.crash()
        with Driver(declare(1, 2), log=before.log) as driver:
            old, new = driver.topology.views.values()
            looks = wait(driver, tmp_path)
            with pytest.raises(StateMissing, match=r"no worker of topology 'ads' runs.*`streamkit worker app.py`"):
                looks.for_workers("app.py", old, new)
            driver.step(max_records=1)
            with pytest.raises(StateMissing, match="do not know spend@2"):
                looks.for_workers("app.py", old, new)
            driver.checkpoint()
            found = looks.for_workers("app.py", old, new)
            assert found == (driver.end(new), {0: 0, 1: 0})
            driver.batch(new, found[0])
            driver.publish(new)
            driver.checkpoint()  # the worker reads nothing of what the BatchView has
            assert driver.serving.seam(new).cut == driver.end(new)
            assert looks.for_workers("app.py", old, new) is None
            assert driver.ask(new, "c0").value == {"clicks": 2, "cents": 12}


# -- what would change ------------------------------------------------------------------------------------------------


def test_differences_are_counted_slot_by_slot(driver: Driver) -> None:
    old, new = (driver.topology.views[name] for name in ("spend", "spend@2"))
    driver.send(old.topic, Click("0", "u9", 0, 0), Click("dear", "u9", 9, 0))
    driver.catch_up()
    a, b = driver.serving.seams((old, new))
    found = differences(driver.serving, old, new, (a, b))
    assert (found.shared, found.same, found.changed, found.only_old, found.only_new) == (("clicks",), 1, 2, 1, 0)
    assert {(slot.key, name, was, now) for slot, name, was, now in found.examples} == {
        (("c0",), "clicks", 3, 2),
        (("c1",), "clicks", 2, 1),
    }
    back = differences(driver.serving, new, old, (b, a))
    assert (back.same, back.changed, back.only_old, back.only_new) == (1, 2, 0, 1)


class Reading(msgspec.Struct):
    sensor: str
    ratio: float


class MessagePack:
    """JSON has no NaN."""

    name = "msgpack"

    def decoder(self, type_: Any) -> Callable[[bytes], Any]:
        return msgspec.msgpack.Decoder(type_).decode

    def encoder(self, type_: Any) -> Callable[[Any], bytes]:
        del type_
        return msgspec.msgpack.encode


def test_a_nan_is_no_difference() -> None:
    app = sk.Topology("nan")
    readings = app.topic("readings", value=Reading, partitions=1, codec=MessagePack())
    for version in (1, 2):
        app.view("sum", readings, key="sensor", aggregates={"ratio": sk.Sum("ratio")}, version=version)
    with Driver(app) as driver:
        driver.send(readings, Reading("s", math.nan))
        driver.catch_up()
        old, new = app.views["sum"], app.views["sum@2"]
        a, b = driver.serving.seams((old, new))
        found = differences(driver.serving, old, new, (a, b))
        assert (found.same, found.changed) == (1, 0)
        assert math.isnan(driver.ask(old, "s").value["ratio"])


# -- over HTTP --------------------------------------------------------------------------------------------------------


def test_http_lists_a_view_once_with_its_versions(driver: Driver) -> None:
    client = Client(driver.topology, driver.serving)
    promote(driver, "spend@2")
    (found,) = client.body("/views", model=models.ViewsBody)["views"]
    two = driver.topology.views["spend@2"]
    assert (found["name"], found["version"], found["fingerprint"]) == ("spend", 2, two.fingerprint)
    assert set(found["aggregates"]) == {"clicks", "cents"}
    assert [(v["name"], v["in_force"]) for v in found["versions"]] == [
        ("spend@1", False),
        ("spend@2", True),
        ("spend@3", False),
    ]
    assert all(v["refused"] is None and v["cut"] == found["cut"] for v in found["versions"])
    validate(client.get("/openapi.json").json())


def test_http_answers_by_the_version_in_force_or_the_one_asked_for(driver: Driver) -> None:
    client = Client(driver.topology, driver.serving)
    promote(driver, "spend@2")
    for asked, view, value in [
        ("spend", "spend@2", {"clicks": 2, "cents": 12}),
        ("spend@2", "spend@2", {"clicks": 2, "cents": 12}),
        ("spend@1", "spend", {"clicks": 3, "dearest": 7}),
    ]:
        answer = client.body(f"/views/{asked}/answer", {"key": "c0"}, models.AnswerBody)
        assert (answer["view"], answer["value"]) == (view, value)
        page = client.body(f"/views/{asked}/answers", {"key": "c0"}, models.PageBody)
        assert (page["view"], page["answers"]) == (view, [answer])
    assert "it has spend, spend@2, spend@3" in client.problem(404, "/views/spend@7/answer", {"key": "c0"})


def test_a_page_is_not_gone_on_with_in_another_version(driver: Driver) -> None:
    client = Client(driver.topology, driver.serving)
    after = client.body("/views/spend/answers", {"limit": 1})["next"]
    promote(driver, "spend@2")
    assert "begin anew" in client.problem(400, "/views/spend/answers", {"limit": 1, "after": after})


def test_http_says_where_the_version_in_force_is_not_declared(driver: Driver) -> None:
    promote(driver, "spend@3")
    with closing(old_readers(driver, 1, 2)) as serving:
        client = Client(declare(1, 2), serving)
        (found,) = client.body("/views", model=models.ViewsBody)["views"]
        assert (found["version"], found["cut"], found["batch"], found["segments"]) == (None, None, None, {})
        assert "switched to spend@3" in found["refused"]
        assert [(v["in_force"], v["refused"]) for v in found["versions"]] == [(False, None)] * 2
        assert "switched to spend@3" in client.problem(409, "/views/spend/answer", {"key": "c0"})
        health = client.body("/health", model=models.HealthBody)["views"]
        assert "switched to spend@3" in health["spend"]["refused"]
        assert health["spend@2"] == {"lag": 0, "refused": None}
        assert 'streamkit_view_answers{view="spend"} 0.0' in client.get("/metrics").text
        assert 'streamkit_view_answers{view="spend@2"} 1.0' in client.get("/metrics").text


# -- formats ----------------------------------------------------------------------------------------------------------


def with_format(store: MemoryStore | RocksStore, version: int) -> None:
    store.write(Write(puts=[(FORMAT_KEY, version.to_bytes(8, "big"))]))


def test_a_worker_refuses_a_store_of_another_format(driver: Driver) -> None:
    driver.crash()
    with_format(driver._stores[0], FORMAT_VERSION + 1)
    with pytest.raises(StateError, match=rf"topology 'ads' has format {FORMAT_VERSION + 1}.*{FORMAT_VERSION}.* reset"):
        driver.step()
    with_format(driver._stores[0], FORMAT_VERSION)
    driver.catch_up()


def test_a_new_store_gets_this_format() -> None:
    store = MemoryStore()
    app = declare(1)
    log = MemoryLog()
    log.create("clicks", partitions=2)
    Worker(app, log, store).close()
    assert store.get([FORMAT_KEY]) == [FORMAT_VERSION.to_bytes(8, "big")]


def test_readers_look_past_a_store_of_another_format(driver: Driver) -> None:
    spend = driver.topology.views["spend"]
    with_format(driver._stores[0], FORMAT_VERSION + 1)
    with pytest.raises(StateMissing):
        driver.ask(spend, "c0")
    driver.follow()
    assert driver.ask(spend, "c0").value == {"clicks": 3, "dearest": 7}


def test_a_replica_of_another_format_is_refused_and_let_go(driver: Driver, tmp_path: Path) -> None:
    with closing(RocksStore.open(tmp_path)) as store:
        with_format(store, FORMAT_VERSION + 1)
    with pytest.raises(StateError) as refused:
        Replica(driver.topology, driver.log, tmp_path)
    assert f"replica of topology 'ads' in {tmp_path} has format {FORMAT_VERSION + 1}" in str(refused.value)
    with closing(RocksStore.open(tmp_path)) as store:
        with_format(store, FORMAT_VERSION)
    with closing(Replica(driver.topology, driver.log, tmp_path)) as replica:
        replica.catch_up()


@pytest.mark.parametrize("readable", [False, True])
def test_a_changelog_of_another_format_is_refused_and_nothing_of_it_applied(driver: Driver, readable: bool) -> None:
    spend = driver.topology.views["spend"]
    driver.follow()
    before = dict(driver._replica._entries)
    with closing(driver.log.writer()) as writer:
        name = changelog_topic("ads", "clicks")
        [today] = block.pack([(task_prefix(TopicPartition("clicks", 0)) + b"\x03spend", b"of tomorrow")])
        writer.send(name, today if readable else b"of tomorrow", key=BLOCK_KEY, partition=0)
        writer.send(name, pack([FORMAT_VERSION + 1, {"time": "tomorrow"}]), key=MARK_KEY, partition=0)
    said = (
        rf"changelog of clicks/0 was written in format {FORMAT_VERSION + 1}, .* reads {FORMAT_VERSION}.* reset TOPOLOGY"
    )
    if not readable:
        said = rf"clicks/0: the record at .* is no Block.* another version.* format {FORMAT_VERSION}.* reset TOPOLOGY"
    with pytest.raises(StateError, match=said):
        driver.follow()
    assert driver._replica._entries == before
    driver.lose_disk()
    with pytest.raises(StateError, match=said):
        driver.catch_up()
    assert driver.far.get(spend, ("c0",)).value == {"clicks": 3, "dearest": 7}
