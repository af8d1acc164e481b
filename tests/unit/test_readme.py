"""What the README shows is run as it stands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import streamkit as sk
from streamkit.testing.driver import Driver

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_first_screen_and_the_test_of_ones_own_run() -> None:
    first, connect, promises, mapreduce, columns, driver = BLOCKS
    names: dict[str, Any] = {"__name__": "readme"}
    exec(first, names)
    exec(driver, names)
    exec(columns, names)
    with Driver(names["app"]) as running:
        running.send(names["events"], names["AdEvent"]("c2", "view", 0, 6_000_000, "u1"))
        running.catch_up()
        assert running.values(names["alerts"]) == [names["Alert"]("c2", 6_000_000)] * 2
    exec(promises, dict(names))
    assert set(names["app"].views) == {"campaign"}
    assert set(names["app"].agents) == {"overspent", "expensive"}
    app = sk.Topology("books")
    lines = app.topic("lines", value=sk.Line)
    exec(mapreduce, {"app": app, "lines": lines, "Line": sk.Line, "Iterator": Iterator, "__name__": "readme"})
    with Driver(app) as running:
        running.send(lines, sk.Line("to be or not to be"))
        running.mapreduce(app.find_job("words"))
        assert running.rows(app.find_job("words")).sort("word")["value"].to_list() == [2, 1, 1, 2]
    ast.parse(connect)  # tests/kafka asks a running broker the same way


def test_every_command_that_it_names_exists() -> None:
    from streamkit.cli import COMMANDS, GROUPS

    named = set(re.findall(r"^streamkit ([a-z-]+)", README, flags=re.MULTILINE))
    assert len(named) > 5
    assert named <= {*COMMANDS, *GROUPS}
