"""A served MapReduce result over HTTP."""

from __future__ import annotations

from contextlib import closing

from streamkit.serving import http_models as models
from streamkit.serving.results import Results
from streamkit.testing.driver import Driver
from tests.unit.test_http import Client
from tests.unit.test_mapreduce import EXPECTED, VISITS, Pages, site


def test_a_result_is_answered_by_key_and_what_is_not_there_is_told() -> None:
    app, visits = site()
    job = app.mapreduce(visits, key="user", served=True, name="pages")(Pages)
    with Driver(app) as driver, closing(Results(driver.log, app, driver.folder / "mapreduce")) as results:
        job.connect(results)
        client = Client(app, driver.serving)
        path = "/mapreduce/pages/answer"
        assert "has no result yet" in client.problem(503, path, {"key": "u1"})
        driver.send(visits, *VISITS)
        driver.mapreduce(job)
        body = client.body(path, {"key": "u1"}, models.ResultBody)
        assert (body["found"], body["key"], body["value"]) == (True, ["u1"], {"value": EXPECTED["u1"]})
        assert sum(body["cut"]["offsets"].values()) == len(VISITS)
        assert client.body(path, {"key": "nobody"}, models.ResultBody)["found"] is False
        assert "it serves pages" in client.problem(404, "/mapreduce/none/answer", {"key": "u1"})
        assert "give 1 key part(s), got 2" in client.problem(400, path, {"key": ["u1", "u2"]})
