"""The HTTP API, asked by a real ASGI client: its numbers are the Driver's, its errors say the way out."""

from __future__ import annotations

import asyncio
import base64
import random
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from openapi_spec_validator import validate
from pydantic import BaseModel

import streamkit as sk
from streamkit.changelog.changelogs import Changelogs
from streamkit.cli.serve import _listen
from streamkit.control import Reset
from streamkit.errors import BrokerUnreachable, StreamkitError
from streamkit.log.memory import MemoryLog
from streamkit.serving import http_models as models
from streamkit.serving.answer_json import answer_json
from streamkit.serving.copies import Copies
from streamkit.serving.http import make_app
from streamkit.serving.merge import Serving
from streamkit.testing.driver import Driver
from streamkit.topology import Topology
from tests.life.app import Click, topology

END = 100_000


class Odd(msgspec.Struct):
    number: int | None
    flag: bool
    raw: bytes
    big: int
    price: Decimal
    ratio: float


class Client:
    """What is asked for goes through the whole app; nothing listens."""

    def __init__(self, topology: Topology, serving: Serving) -> None:
        self.app = make_app(topology, serving)

    def get(self, path: str, params: Any = None) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://streamkit") as client:
                return await client.get(path, params=params)

        return asyncio.run(ask())

    def body(self, path: str, params: Any = None, model: type[BaseModel] | None = None) -> Any:
        """The JSON of an answer, which must be as the OpenAPI document says."""
        response = self.get(path, params)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"
        if model is not None:
            model.model_validate_json(response.content, strict=True)
        return response.json()

    def problem(self, status: int, path: str, params: Any = None) -> str:
        """The `detail` of an RFC 9457 problem of this status."""
        response = self.get(path, params)
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        problem = models.Problem.model_validate_json(response.content, strict=True)
        assert (problem.status, problem.instance) == (status, response.url.path)
        assert problem.title
        return f"{problem.type} {problem.detail}"


def send(driver: Driver, count: int, seed: int) -> None:
    draw = random.Random(seed)
    clicks = [
        Click(f"c{draw.randrange(12)}", f"u{draw.randrange(9)}", draw.randrange(500), draw.randrange(END))
        for _ in range(count)
    ]
    driver.send(driver.topology.topics["clicks"], *clicks)
    driver.catch_up()


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    """Every kind of window, each with a BatchView and Segments after it, and one record that was not read."""
    with Driver(topology()) as driver:
        send(driver, 150, seed=1)
        for view in driver.topology.views.values():
            driver.seal(view)
        driver.checkpoint()
        for view in driver.topology.views.values():
            driver.batch(view)
            driver.publish(view)
        driver.checkpoint()
        send(driver, 100, seed=2)
        driver.send(driver.topology.topics["clicks"], Click("c1", "u1", 1, 5))
        yield driver


@pytest.fixture(scope="module")
def client(driver: Driver) -> Client:
    return Client(driver.topology, driver.serving)


@pytest.fixture
def odd() -> Iterator[tuple[Driver, Client]]:
    """Keys that are no text, and results that JSON has no exact number for."""
    app = sk.Topology("odd")
    odds = app.topic("odds", value=Odd, partitions=1)
    app.view(
        "odd",
        odds,
        key=["number", "flag", "raw"],
        aggregates={"big": sk.Sum("big"), "price": sk.Sum("price"), "ratio": sk.Sum("ratio"), "n": sk.Count()},
    )
    with Driver(app) as driver:
        rows = [(-7, True, b"\xff\xfe"), (None, False, b"")]
        driver.send(odds, *(Odd(*key, 2**52, Decimal("0.05"), 1e308) for key in rows * 2))
        driver.catch_up()
        yield driver, Client(app, driver.serving)


def all_pages(client: Client, path: str, params: dict[str, Any]) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = client.body(path, {**params, **after}, models.PageBody)
        assert all(a["cut"] == page["cut"] and a["lag"] == page["lag"] for a in page["answers"])
        assert page["answers"] or not answers
        answers += page["answers"]
        if page["next"] is None:
            assert len(page["answers"]) <= params["limit"]
            return answers
        assert len(page["answers"]) == params["limit"]
        assert page["next"] != after.get("after")
        after = {"after": page["next"]}


class TestAnswer:
    @pytest.mark.parametrize("name", ["tumbling", "hopping", "session", "total"])
    def test_is_what_the_driver_answers(self, driver: Driver, client: Client, name: str) -> None:
        view = driver.topology.views[name]
        for wanted in driver.scan(view)[:20]:
            span = {} if wanted.window is None else {"start": wanted.window[0], "end": wanted.window[1]}
            found = client.body(f"/views/{name}/answer", {"key": wanted.key[0], **span}, models.AnswerBody)
            assert found == answer_json(view, driver.ask(view, *wanted.key, window=wanted.window))
            assert found["lag"] == 1

    def test_by_a_moment_in_milliseconds_or_iso_8601(self, client: Client) -> None:
        bodies = [
            client.body("/views/tumbling/answer", {"key": "c3", "at": at})
            for at in ("12345", "1970-01-01T00:00:12.345Z", "1970-01-01T01:00:19+01:00", "1970-01-01T00:00:10")
        ]
        assert bodies[0]["window"] == {
            "start": 10_000,
            "end": 20_000,
            "start_time": "1970-01-01T00:00:10Z",
            "end_time": "1970-01-01T00:00:20Z",
        }
        assert bodies == bodies[:1] * 4

    def test_tells_batch_and_speed_apart(self, client: Client) -> None:
        body = client.body("/views/total/answer", {"key": "c3"})
        assert body["value"]["clicks"] == body["batch"]["clicks"] + body["speed"]["clicks"]
        assert body["errors"]["users"]["lower"] <= body["value"]["users"] <= body["errors"]["users"]["upper"]
        assert set(body["cut"]) == {"topic", "topic_id", "offsets"}

    @pytest.mark.parametrize(("stale_seconds", "second"), [(0, 2), (3_600, 1)])
    def test_is_as_new_as_was_asked_for(self, stale_seconds: float, second: int) -> None:
        with Driver(topology()) as driver:
            copies = driver.serving.copies
            serving = Serving(driver.log, driver.topology, driver.folder, copies, stale_seconds=stale_seconds)
            client = Client(driver.topology, serving)
            for clicks in (1, second):
                driver.send(driver.topology.topics["clicks"], Click("c1", "u1", 1, 0))
                driver.catch_up()
                body = client.body("/views/total/answer", {"key": "c1"})
                assert (body["value"]["clicks"], body["lag"]) == (clicks, 0)
                assert sum(body["cut"]["offsets"].values()) == clicks

    def test_of_a_key_without_records_is_the_empty_sum(self, client: Client) -> None:
        body = client.body("/views/total/answer", {"key": "nobody"}, models.AnswerBody)
        assert not body["found"]
        assert body["value"]["clicks"] == 0

    def test_of_keys_that_are_no_text(self, odd: tuple[Driver, Client]) -> None:
        driver, client = odd
        view = driver.topology.views["odd"]
        raw = base64.b64encode(b"\xff\xfe").decode()
        body = client.body("/views/odd/answer", {"key": ["-7", "true", raw]}, models.AnswerBody)
        assert (body["found"], body["key"]) == (True, {"number": -7, "flag": True, "raw": raw})
        assert body == answer_json(view, driver.ask(view, -7, True, b"\xff\xfe"))
        null = client.body("/views/odd/answer", {"key": [r"\N", "false", ""]}, models.AnswerBody)
        assert (null["found"], null["key"]["number"]) == (True, None)

    def test_says_as_text_what_is_no_exact_json_number(self, odd: tuple[Driver, Client]) -> None:
        for body in odd[1].body("/views/odd/answers", None, models.PageBody)["answers"]:
            assert body["value"] == {"big": str(2**53), "price": "0.1", "ratio": "Infinity", "n": 2}


class TestAnswers:
    @pytest.mark.parametrize("name", ["tumbling", "hopping", "session", "total"])
    @pytest.mark.parametrize("limit", [1, 7, 1_000])
    def test_pages_cover_all_exactly_once(self, driver: Driver, client: Client, name: str, limit: int) -> None:
        view = driver.topology.views[name]
        wanted = [answer_json(view, answer) for answer in driver.scan(view)]
        assert len(wanted) > 10
        assert all_pages(client, f"/views/{name}/answers", {"limit": limit}) == wanted

    @pytest.mark.parametrize("name", ["tumbling", "hopping", "session"])
    def test_of_one_key_in_a_span(self, driver: Driver, client: Client, name: str) -> None:
        view = driver.topology.views[name]
        span = (30_000, 60_000)
        wanted = [answer_json(view, a) for a in driver.serving.scan(view, ("c5",), *span)]
        assert wanted
        found = all_pages(client, f"/views/{name}/answers", {"key": "c5", "start": span[0], "end": span[1], "limit": 2})
        assert found == wanted

    @pytest.mark.parametrize("name", ["tumbling", "hopping", "session", "total"])
    def test_are_what_each_is_by_itself(self, driver: Driver, name: str) -> None:
        """A scan walks sorted parts, one key is looked up: two ways to the same value, batch and speed."""
        view = driver.topology.views[name]
        scanned = driver.scan(view)
        assert any(a.batch and a.speed for a in scanned)
        assert scanned == [driver.ask(view, *a.key, window=a.window) for a in scanned]

    def test_pages_go_on_while_records_come(self) -> None:
        """What was there at the first page is in some page, once, whatever joins it meanwhile."""
        with Driver(topology()) as driver:
            client = Client(driver.topology, driver.serving)
            send(driver, 60, seed=3)
            before = {tuple(a.key) for a in driver.scan(driver.topology.views["session"])}
            keys: list[tuple[str, int]] = []
            after: dict[str, str] = {}
            for seed in range(1_000):
                page = client.body("/views/session/answers", {"limit": 3, **after})
                keys += [(a["key"]["campaign"], a["window"]["start"]) for a in page["answers"]]
                if page["next"] is None:
                    break
                after = {"after": page["next"]}
                send(driver, 3, seed)
            assert len(keys) == len(set(keys))
            assert {(key,) for key, _ in keys} >= before

    def test_none_at_all_still_say_at_which_cut(self, client: Client) -> None:
        page = client.body("/views/tumbling/answers", {"key": "nobody"}, models.PageBody)
        assert (page["answers"], page["next"]) == ([], None)
        assert set(page["cut"]["offsets"]) == {"0", "1", "2"}


class TestViews:
    def test_tell_what_can_be_asked(self, driver: Driver, client: Client) -> None:
        body = client.body("/views", model=models.ViewsBody)
        by_name = {view["name"]: view for view in body["views"]}
        assert list(by_name) == list(driver.topology.views)
        view = by_name["tumbling"]
        assert view["key"] == [{"name": "campaign", "type": "text"}]
        assert view["window"] == "Tumbling(10s)"
        assert by_name["total"]["window"] is None
        assert view["aggregates"]["users"] == {"aggregate": "Distinct", "fields": ["user"], "approximate": True}
        assert view["fingerprint"] == driver.topology.views["tumbling"].fingerprint
        assert view["batch"]["cut"]["topic"] == "clicks"
        assert view["refused"] is None

    def test_tell_the_segments_after_the_batch_view(self, client: Client) -> None:
        view = client.body("/views")["views"][0]
        page = client.body("/views/tumbling/answers", {"limit": 1})
        for partition, end in page["cut"]["offsets"].items():
            spans = view["segments"][partition]
            assert sum(stop - start for start, stop in spans) == end - view["batch"]["cut"]["offsets"][partition]

    def test_tell_why_one_has_no_answer(self) -> None:
        with Driver(topology()) as driver:
            body = Client(driver.topology, driver.serving).body("/views", model=models.ViewsBody)
        assert all("streamkit worker" in view["refused"] for view in body["views"])


BAD_REQUESTS = [
    ("/views/tumbling/answer", {"key": "c1"}, "has windows .Tumbling.10s.*: give at="),
    ("/views/tumbling/answer", {"key": ["c1", "c2"], "at": "0"}, "keyed by campaign: give 1 key part"),
    ("/views/tumbling/answer", {"at": "0"}, "key: Field required"),
    ("/views/tumbling/answer", {"key": "c1", "at": "yesterday"}, "at must be milliseconds .* ISO 8601.*'yesterday'"),
    ("/views/tumbling/answer", {"key": "c1", "at": "9" * 30}, "milliseconds since the epoch or ISO"),
    ("/views/tumbling/answer", {"key": "c1", "at": "1", "start": "0", "end": "10000"}, "give at= .*or start="),
    ("/views/tumbling/answer", {"key": "c1", "start": "0"}, "give at= .*or start="),
    ("/views/tumbling/answer", {"key": "c1", "start": "1", "end": "9"}, r"\(1, 9\) is no window of Tumbling"),
    ("/views/session/answer", {"key": "c1", "start": "9", "end": "1"}, "start 9 must be before end 1"),
    ("/views/hopping/answer", {"key": "c1", "at": "15000"}, "2 windows hold 15000; give .start, end."),
    ("/views/total/answer", {"key": "c1", "at": "1"}, "has no windows; ask without"),
    ("/views/total/answer", {"key": "c1", "when": "1"}, "when: .*not permitted"),
    ("/views/total/answers", {"start": "1"}, "has no windows; ask without start"),
    ("/views/tumbling/answers", {"start": "9", "end": "1"}, "start 9 must be before end 1"),
    ("/views/total/answers", {"limit": "10001"}, "limit: .*10000.*'10001'"),
    ("/views/total/answers", {"limit": "few"}, "limit: .*integer.*'few'"),
    ("/views/total/answers", {"after": "AAAA"}, "is no cursor of view 'total'"),
    ("/views/total/answers", {"after": base64.urlsafe_b64encode(bytes(40)).decode()}, "is no cursor"),
    ("/views/total/answers", {"after": "?"}, "is no cursor"),
]


class TestProblems:
    @pytest.mark.parametrize(("path", "params", "message"), BAD_REQUESTS)
    def test_what_does_not_fit_is_400(self, client: Client, path: str, params: Any, message: str) -> None:
        detail = client.problem(400, path, params)
        assert detail.startswith("urn:streamkit:error:BadRequest ")
        assert re.search(message, detail), detail

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            (["x", "true", ""], "'number' must be a whole number of 64 bits, got 'x'"),
            ([str(2**64), "true", ""], "'number' must be a whole number of 64 bits"),
            (["1", "yes", ""], "'flag' must be true or false, got 'yes'"),
            (["1", "true", "%"], "'raw' must be base64, got '%'"),
        ],
    )
    def test_a_key_of_another_type_is_400(self, odd: tuple[Driver, Client], key: list[str], message: str) -> None:
        assert message in odd[1].problem(400, "/views/odd/answer", {"key": key})

    def test_a_cursor_of_another_view_is_400(self, client: Client) -> None:
        cursor = client.body("/views/tumbling/answers", {"limit": 1})["next"]
        assert "is no cursor" in client.problem(400, "/views/hopping/answers", {"after": cursor})

    @pytest.mark.parametrize("length", [12, 24, 36])
    def test_half_a_cursor_is_400(self, client: Client, length: int) -> None:
        cursor = client.body("/views/tumbling/answers", {"limit": 1})["next"]
        assert length < len(cursor)
        assert "is no cursor" in client.problem(400, "/views/tumbling/answers", {"after": cursor[:length]})

    @pytest.mark.parametrize("path", ["/views/nobody/answer", "/views/nobody/answers"])
    def test_an_unknown_view_is_404_and_names_the_views(self, client: Client, path: str) -> None:
        detail = client.problem(404, path, {"key": "c1"})
        assert detail.startswith("urn:streamkit:error:UnknownView ")
        assert "it has tumbling, hopping, session, total" in detail

    def test_an_unknown_path_is_404(self, client: Client) -> None:
        assert "/openapi.json" in client.problem(404, "/nothing")

    def test_no_state_yet_is_503(self) -> None:
        with Driver(topology()) as driver:
            client = Client(driver.topology, driver.serving)
            assert "StateMissing" in client.problem(503, "/views/total/answer", {"key": "c1"})
            assert client.get("/views/total/answers").headers["retry-after"] == "1"
            assert "streamkit worker" in client.problem(503, "/health")

    def test_another_definition_is_409(self, driver: Driver) -> None:
        changed = sk.Topology("life")
        clicks = changed.topic("clicks", value=Click, timestamp="at", key="user", partitions=3)
        changed.view("total", clicks, key="campaign", aggregates={"clicks": sk.Count()})
        client = Client(changed, Serving(driver.log, changed, driver.folder, driver.serving.copies))
        detail = client.problem(409, "/views/total/answer", {"key": "c1"})
        assert detail.startswith("urn:streamkit:error:DefinitionChanged ")
        assert "put the old one back" in detail
        assert "put the old one back" in client.body("/views", model=models.ViewsBody)["views"][0]["refused"]
        assert client.body("/health", model=models.HealthBody)["views"]["total"]["lag"] is None

    def test_another_topic_of_that_name_is_409(self) -> None:
        with Driver(topology()) as driver:
            send(driver, 5, seed=1)
            client = Client(driver.topology, driver.serving)
            driver.crash()
            driver.log.delete("clicks")
            driver.log.create("clicks", partitions=3)
            assert "TopicChanged" in client.problem(409, "/views/total/answer", {"key": "c1"})

    def test_no_exact_answer_is_409(self) -> None:
        """The BatchView was computed at the log's end by who heard of no worker; the worker had read across it."""
        with Driver(topology()) as driver:
            view = driver.topology.views["total"]
            send(driver, 5, seed=1)
            driver.seal(view)
            driver.checkpoint()
            driver.batch(view)
            driver.publish(view)
            driver.checkpoint()
            driver._control.append(Reset("total"))
            assert "CutMismatch" in Client(driver.topology, driver.serving).problem(
                409, "/views/total/answer", {"key": "c1"}
            )

    def test_no_broker_is_503_and_found_out_once(self, tmp_path: Path) -> None:
        app, log = topology(), Away()
        copies = Copies(Changelogs(log, app.name), list)
        serving = Serving(log, app, tmp_path, copies, stale_seconds=60)
        client = Client(app, serving)
        log.away = True
        for path in ("/health", "/views", "/views/total/answer?key=c1", "/views/total/answers"):
            assert "no Kafka broker answers" in client.problem(503, path)
        assert log.asked == 1


class Away(MemoryLog):
    """A broker that can be gone, as no log in memory is by itself."""

    away = False
    asked = 0

    def ends(self, topic: str, *, committed: bool = True) -> dict[int, int]:
        self.asked += self.away
        if self.away:
            raise BrokerUnreachable("no Kafka broker answers at nowhere:9092")
        return super().ends(topic, committed=committed)


class TestHealthAndMetrics:
    def test_health(self, client: Client) -> None:
        body = client.body("/health", model=models.HealthBody)
        assert body["status"] == "ok"
        assert body["views"]["total"] == {"lag": 1, "refused": None}

    def test_metrics_count_by_route(self, driver: Driver) -> None:
        client = Client(driver.topology, driver.serving)
        for key in ("c1", "c2"):
            client.body("/views/total/answer", {"key": key})
        client.get("/views/nobody/answer", {"key": "c1"})
        client.get("/a/path/nobody/knows")
        response = client.get("/metrics")
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        lines = response.text.splitlines()
        for line in (
            'streamkit_http_requests_total{route="/views/{view}/answer",status="200"} 2.0',
            'streamkit_http_requests_total{route="/views/{view}/answer",status="404"} 1.0',
            'streamkit_http_requests_total{route="none",status="404"} 1.0',
            'streamkit_http_request_seconds_count{route="/views/{view}/answer"} 3.0',
            'streamkit_view_lag_records{view="total"} 1.0',
            'streamkit_view_answers{view="total"} 1.0',
        ):
            assert line in lines

    def test_a_view_without_an_answer_has_no_lag(self) -> None:
        with Driver(topology()) as driver:
            text = Client(driver.topology, driver.serving).get("/metrics").text
        assert 'streamkit_view_answers{view="total"} 0.0' in text
        assert "streamkit_view_lag_records{" not in text


class TestDocument:
    def test_is_valid_openapi(self, client: Client) -> None:
        document = client.body("/openapi.json")
        validate(document)
        assert set(document["paths"]) == {
            "/views", "/views/{view}/answer", "/views/{view}/answers", "/mapreduce/{job}/answer", "/health", "/metrics",
        }  # fmt: skip

    def test_describes_every_parameter_and_error(self, client: Client) -> None:
        document = client.body("/openapi.json")
        for path, item in document["paths"].items():
            operation = item["get"]
            assert operation["summary"]
            assert operation["description"]
            assert all(parameter["description"] for parameter in operation.get("parameters", []))
            assert "422" not in operation["responses"], path
            if "{view}" in path:
                assert {"200", "400", "404", "409", "503"} <= set(operation["responses"])
                assert operation["responses"]["409"]["content"].keys() == {"application/problem+json"}


def test_what_threads_ask_at_once_is_what_one_asks(driver: Driver, client: Client) -> None:
    view = driver.topology.views["total"]
    wanted = {a.key[0]: answer_json(view, a) for a in driver.scan(view)}

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://streamkit") as asking:
            keys = list(wanted) * 10
            return await asyncio.gather(*(asking.get("/views/total/answer", params={"key": k}) for k in keys))

    for response in asyncio.run(ask()):
        body = response.json()
        assert body == wanted[body["key"]["campaign"]]


def test_a_port_that_is_taken_is_told() -> None:
    with _listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StreamkitError, match=f"cannot listen at 127.0.0.1:{port}: .*Choose another --port"):
            _listen("127.0.0.1", port)
