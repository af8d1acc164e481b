"""What is refused of a MapReduce job, and the message that says how to mend it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import streamkit as sk
from streamkit.errors import DefinitionError
from streamkit.topic import Topic
from tests.unit.test_mapreduce import Pages, run, site

DECLARED: dict[str, tuple[Callable[[sk.Topology, Topic], Any], str]] = {
    "no function": (lambda app, t: app.mapreduce(t, name="j")(type("J", (), {})), "neither map nor reduce"),
    "no input": (lambda app, t: app.mapreduce(name="j")(Pages), "has no input"),
    "key of columns": (lambda app, t: app.mapreduce(t, batches=True)(Pages), "has no key"),
    "served files": (lambda app, t: app.mapreduce(sk.Files("x.txt"), served=True)(Pages), "needs one topic"),
    "side file": (lambda app, t: app.mapreduce(t, files={"stop": "none.txt"})(Pages), "there is no file"),
    "steps twice": (lambda app, t: app.mapreduce(t, then=[sk.Step(reduce=print)])(Pages), "as methods"),
    "partitions": (lambda app, t: app.mapreduce(t, partitions=0)(Pages), "1 or more"),
    "another's topic": (lambda app, t: app.mapreduce(site()[1])(Pages), "not of topology"),
    "name": (lambda app, t: [app.mapreduce(t)(Pages), app.mapreduce(t)(Pages)], "already"),
}


@pytest.mark.parametrize("mistake", DECLARED)
def test_a_mistake_is_told_where_the_job_is_declared(mistake: str) -> None:
    declare, message = DECLARED[mistake]
    with pytest.raises(DefinitionError, match=message):
        declare(*site())


YIELDED: dict[str, tuple[Callable[..., Any], str]] = {
    "no pair": (lambda visit: ["word"], "must yield pairs"),
    "unfit key": (lambda visit: [({}, 1)], "a key is None, bytes"),
    "unknown output": (lambda visit: [sk.To("nowhere", 1, 1)], "no output 'nowhere'"),
}


@pytest.mark.parametrize("mistake", YIELDED)
def test_a_mistake_in_what_is_yielded_is_told(mistake: str) -> None:
    function, message = YIELDED[mistake]
    app, visits = site()
    job = app.mapreduce(visits, name="job", reduce=lambda key, values: (key, 1))(function)
    with pytest.raises(DefinitionError, match=message):
        run(app, visits, job)
