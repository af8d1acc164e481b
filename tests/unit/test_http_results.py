"""A served MapReduce result over HTTP."""

from __future__ import annotations

from contextlib import closing

from fastapi.testclient import TestClient

from streamkit.serving.http import make_app
from streamkit.serving.results import Results
from streamkit.testing.driver import Driver
from tests.unit.test_mapreduce import EXPECTED, VISITS, Pages, site


def test_a_result_is_answered_by_key_and_what_is_not_there_is_told() -> None:
    app, visits = site()
    job = app.mapreduce(visits, key="user", served=True, name="pages")(Pages)
    with Driver(app) as driver, closing(Results(driver.log, app, driver.folder / "mapreduce")) as results:
        job.connect(results)
        client = TestClient(make_app(app, driver.serving))
        early = client.get("/mapreduce/pages/answer", params={"key": "u1"})
        assert early.status_code == 503
        assert "has no result yet" in early.json()["detail"]
        driver.send(visits, *VISITS)
        driver.mapreduce(job)
        body = client.get("/mapreduce/pages/answer", params={"key": "u1"}).json()
        assert (body["found"], body["key"], body["value"]) == (True, ["u1"], {"value": EXPECTED["u1"]})
        assert sum(body["cut"]["offsets"].values()) == len(VISITS)
        assert client.get("/mapreduce/pages/answer", params={"key": "nobody"}).json()["found"] is False
        assert client.get("/mapreduce/none/answer", params={"key": "u1"}).status_code == 404
        two = client.get("/mapreduce/pages/answer", params={"key": ["u1", "u2", "u3"]})
        assert two.status_code == 400
