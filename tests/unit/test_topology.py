"""Definition mistakes fail at import, with the fix in the message."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

import streamkit as sk
from streamkit.cli.describe import graph
from streamkit.errors import DefinitionError, StreamkitError
from streamkit.loading import load_topology
from streamkit.topic import Topic


class Click(msgspec.Struct):
    campaign: str
    cents: int
    price: float
    at: int
    note: str | None = None
    tags: dict[str, str] | None = None


@dataclass
class Plain:
    word: str


def make() -> tuple[sk.Topology, Topic]:
    app = sk.Topology("ads")
    return app, app.topic("clicks", value=Click, timestamp="at", key="campaign")


ONE: dict[str, sk.Aggregate[Any, Any]] = {"n": sk.Count()}

MISTAKES: list[tuple[str, Callable[[sk.Topology, Topic], object], str]] = [
    ("key", lambda a, t: a.view("v", t, key="camapign", aggregates=ONE), "did you mean 'campaign'"),
    ("aggregate's field", lambda a, t: a.view("v", t, key="campaign", aggregates={"s": sk.Sum("cent")}), "'cents'"),
    ("sum of text", lambda a, t: a.view("v", t, key="campaign", aggregates={"s": sk.Sum("note")}), "str"),
    ("no aggregates", lambda a, t: a.view("v", t, key="campaign", aggregates={}), "sk.Count()"),
    ("no Aggregate", lambda a, t: a.view("v", t, key="campaign", aggregates={"n": len}), "must be an Aggregate"),  # type: ignore[dict-item]
    ("no key", lambda a, t: a.view("v", t, key=[], aggregates=ONE), "key is empty"),
    ("float key", lambda a, t: a.view("v", t, key="price", aggregates=ONE), "a key is text, a whole number"),
    ("key without a column", lambda a, t: a.view("v", t, key="tags", aggregates=ONE), "no column type"),
    ("two keys of a name", lambda a, t: a.view("v", t, key=["at", "at"], aggregates=ONE), "rename one"),
    ("where's field", lambda a, t: a.view("v", t, key="at", where=pl.col("x") > 1, aggregates=ONE), "no field 'x'"),
    (
        "where is no truth",
        lambda a, t: a.view("v", t, key="at", where=pl.col("cents"), aggregates=ONE),
        "true or false",
    ),
    (
        "where looks at other rows",
        lambda a, t: a.view("v", t, key="at", where=pl.col("cents") > pl.col("cents").mean(), aggregates=ONE),
        "more than one row",
    ),
    ("where's types", lambda a, t: a.view("v", t, key="at", where=pl.col("note") + 1 > 2, aggregates=ONE), "view 'v'"),
    ("window", lambda a, t: a.view("v", t, key="at", window=sk.Tumbling(seconds=0), aggregates=ONE), "more than 0"),
    ("value", lambda a, t: a.topic("t", value=dict), "msgspec.Struct or a dataclass"),
    ("timestamp", lambda a, t: a.topic("t", value=Click, timestamp="note"), "must be int"),
    ("timestamp's name", lambda a, t: a.topic("t", value=Click, timestamp="ta"), "did you mean"),
    ("topic's key", lambda a, t: a.topic("t", value=Click, key="campain"), "did you mean 'campaign'"),
    ("topic's name", lambda a, t: a.topic("a topic", value=Click), "letters, digits"),
    ("policy", lambda a, t: a.topic("t", value=Click, errors="ignore"), "dead_letter, skip, fail"),  # type: ignore[arg-type]
    ("topic twice", lambda a, t: a.topic("clicks", value=Click), "has a topic 'clicks' already"),
    ("a stranger's topic", lambda a, t: a.view("v", Topic("x", Click), key="at", aggregates=ONE), "app.topic"),
    ("table", lambda a, t: a.table("seen", default=lambda: 1), "pickle=True"),
    ("partitions", lambda a, t: a.topic("t", value=Click, partitions=0), "1 or more"),
    ("topology's name", lambda a, t: sk.Topology("my app"), "letters, digits"),
]


@pytest.mark.parametrize(("mistake", "fix"), [(m, f) for _, m, f in MISTAKES], ids=[name for name, _, _ in MISTAKES])
def test_a_mistake_is_told_with_its_fix(mistake: Callable[[sk.Topology, Topic], object], fix: str) -> None:
    with pytest.raises(DefinitionError) as raised:
        mistake(*make())
    assert fix in str(raised.value)


def test_an_agent_that_yields_needs_a_topic_and_one_with_a_topic_must_yield() -> None:
    app, clicks = make()

    async def yields(events: AsyncIterator[Click]) -> AsyncIterator[Click]:
        async for event in events:
            yield event

    async def silent(events: AsyncIterator[Click]) -> None:
        async for _ in events:
            pass

    def plain(events: object) -> None: ...

    for function, out, words in (
        (yields, None, "has no out="),
        (silent, clicks, "never yields"),
        (plain, None, "async"),
    ):
        with pytest.raises(DefinitionError, match=words):
            app.agent(clicks, out=out)(function)


def test_a_declared_agent_is_still_the_function() -> None:
    app, clicks = make()

    @app.agent(clicks)
    async def look(events: AsyncIterator[Click]) -> None:
        async for _ in events:
            pass

    assert look.function.__name__ == "look"

    async def nothing() -> AsyncIterator[Click]:
        no_clicks: tuple[Click, ...] = ()
        for click in no_clicks:
            yield click

    assert asyncio.run(look(nothing())) is None


def test_dataclasses_and_expressions_are_as_good() -> None:
    app = sk.Topology("words")
    words = app.topic("words", value=Plain)
    view = app.view("lengths", words, key=pl.col("word").str.len_chars().alias("length"), aggregates=ONE)
    assert list(view.key_types) == ["length"]
    assert view.key(5) == (5,)
    with pytest.raises(DefinitionError, match="must be int, got 'five'"):
        view.key("five")


def test_the_fingerprint_knows_every_part() -> None:
    def view(**changes: Any) -> str:
        app, clicks = make()
        parts: dict[str, Any] = {"key": "campaign", "window": sk.Tumbling(seconds=10), "aggregates": ONE, "where": None}
        return app.view("v", clicks, **{**parts, **changes}).fingerprint

    same, other = view(), view(window=sk.Tumbling(minutes=1))
    assert view() == same
    changed = [
        other,
        view(key="note"),
        view(where=pl.col("cents") > 1),
        view(where=pl.col("cents") > 2),
        view(where=pl.col("cents").is_in(range(200))),
        view(where=pl.col("cents").is_in([*range(199), 777])),
        view(aggregates={"n": sk.Count("note")}),
        view(aggregates={"m": sk.Count()}),
    ]
    assert len({same, *changed}) == 9


def test_unconnected_views_say_how_to_connect() -> None:
    app, clicks = make()
    view = app.view("v", clicks, key="campaign", aggregates=ONE)
    with pytest.raises(StreamkitError, match=r"with sk\.connect\(app"):
        view.get("c1")


def test_the_graph_names_everything() -> None:
    app, clicks = make()
    app.view("v", clicks, key="campaign", window=sk.Session(seconds=30), aggregates=ONE)
    text = graph(app)
    assert 't_clicks[["topic clicks"]]' in text
    assert 'v_v[("view v<br/>Session(30s)")]' in text
    assert "t_clicks --> v_v" in text


APP = 'import streamkit as sk\n{name} = sk.Topology("{topology}")\n'


@pytest.mark.parametrize(
    ("text", "spec", "words"),
    [
        ("x = 1\n", "{file}", "defines no Topology"),
        (APP.format(name="a", topology="one") + APP.format(name="b", topology="two"), "{file}", "say which"),
        (APP.format(name="a", topology="one") + APP.format(name="b", topology="one"), "{file}", "rename one"),
        (APP.format(name="a", topology="one"), "{file}:b", "has no Topology 'b'; it has a"),
        ("", "{file}x.py", "there is no file"),
        ("", "no_such_module:app", "there is no module"),
    ],
)
def test_a_topology_that_cannot_be_loaded_is_told(tmp_path: Path, text: str, spec: str, words: str) -> None:
    file = tmp_path / "some_app.py"
    file.write_text(text)
    sys.modules.pop("some_app", None)
    with pytest.raises(DefinitionError, match=words):
        load_topology(spec.format(file=file))


def test_a_file_of_a_known_modules_name_does_not_hide_it(tmp_path: Path) -> None:
    file = tmp_path / "json.py"
    file.write_text(APP.format(name="app", topology="one"))
    assert load_topology(str(file)).name == "one"
    import json

    assert json.loads("1") == 1


def test_a_file_of_a_package_imports_its_neighbours(tmp_path: Path) -> None:
    package = tmp_path / "shop_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "names.py").write_text('NAME = "packaged"')
    (package / "app.py").write_text(
        "import streamkit as sk\nfrom shop_package.names import NAME\napp = sk.Topology(NAME)"
    )
    assert load_topology(str(package / "app.py")).name == "packaged"


@pytest.mark.parametrize("command", ["", "worker", "batch", "query", "serve", "verify", "load", "generate", "reset"])
def test_help_is_there_with_an_example(command: str) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    said = subprocess.run(
        [sys.executable, "-m", "streamkit", *arguments], capture_output=True, text=True, check=True
    ).stdout
    assert "Example" in said or not command
    assert "streamkit" in said


def test_describe_needs_no_broker() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "streamkit", "describe", "topologies/ad_clicks.py"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    ).stdout  # fmt: skip
    assert "view campaign by campaign_id: String" in said
    assert "flowchart LR" in said
