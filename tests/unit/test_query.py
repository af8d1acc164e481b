"""`streamkit query`: what is asked, and how Answers look on a screen, in a pipe and as JSON."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from rich.console import Console

import streamkit as sk
from streamkit.cli import query as command
from streamkit.cli.query import _span, footer, nothing_found, print_json, print_table
from streamkit.errors import DefinitionError
from streamkit.serving.answer_json import answer_json, iso_time
from streamkit.testing.driver import Driver
from streamkit.view import NULL, View
from tests.life.app import Click, topology


class Reading(msgspec.Struct):
    text: str
    number: int
    flag: bool
    raw: bytes


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    """One BatchView of three clicks, and one click after it; and one that nobody has read."""
    with Driver(topology()) as driver:
        clicks = driver.topology.topics["clicks"]
        view = driver.topology.views["tumbling"]
        driver.send(clicks, Click("c1", "u1", 1_000_000, 0), Click("c1", "u2", 5, 12_000), Click("c[2]", "u1", 7, 0))
        driver.catch_up()
        driver.seal(view)
        driver.checkpoint()
        driver.batch(view)
        driver.publish(view)
        driver.checkpoint()
        driver.send(clicks, Click("c1", "u3", 2, 1))
        driver.catch_up()
        driver.send(clicks, Click("c1", "u3", 2, 1))
        yield driver


@pytest.fixture
def view(driver: Driver) -> View:
    return driver.topology.views["tumbling"]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What goes to a standard output that is no terminal, 40 columns wide."""
    text = io.StringIO()
    monkeypatch.setattr(command, "out", Console(file=text, highlight=False, soft_wrap=True, width=40))
    return text


class TestKeys:
    @pytest.fixture
    def keyed(self) -> View:
        app = sk.Topology("keyed")
        readings = app.topic("readings", value=Reading)
        return app.view("keyed", readings, key=["text", "number", "flag", "raw"], aggregates={"readings": sk.Count()})

    @pytest.mark.parametrize(
        ("texts", "key"),
        [
            (["c1", "7", "true", "/w=="], ("c1", 7, True, b"\xff")),
            (["", "-7", "FALSE", ""], ("", -7, False, b"")),
            (["7", str(2**63), "true", "YQ=="], ("7", 2**63, True, b"a")),
            ([NULL, NULL, NULL, NULL], (None, None, None, None)),
        ],
    )
    def test_are_read_by_their_types(self, keyed: View, texts: list[str], key: tuple[Any, ...]) -> None:
        assert keyed.parse_key(texts) == key
        assert keyed.key(*key) == key

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            (["c1"], r"keyed by text, number, flag, raw: give 4 key part\(s\), got 1"),
            ([], "give 4 key part"),
            (["c1", "7.0", "true", ""], "'number' must be a whole number of 64 bits, got '7.0'"),
            (["c1", "1_000", "true", ""], "'number' must be a whole number of 64 bits, got '1_000'"),
            (["c1", str(2**64), "true", ""], "'number' must be a whole number of 64 bits"),
            (["c1", "9" * 5_000, "true", ""], "'number' must be a whole number of 64 bits"),
            (["c1", "7", "1", ""], "'flag' must be true or false, got '1'"),
            (["c1", "7", "true", "a"], "'raw' must be base64, got 'a'"),
            (["\udcff", "7", "true", ""], "'text' must be text in UTF-8"),
        ],
    )
    def test_that_do_not_fit_are_told(self, keyed: View, texts: list[str], message: str) -> None:
        with pytest.raises(DefinitionError, match=f"view 'keyed'.*{message}"):
            keyed.parse_key(texts)


class TestTimes:
    def test_a_moment_is_in_the_windows_that_hold_it(self, driver: Driver) -> None:
        hopping = driver.topology.views["hopping"]
        for at in ("1970-01-01T00:00:10Z", "19999"):
            answers = driver.serving.scan(hopping, ("c1",), *_span(hopping, at, None, None))
            assert [a.window for a in answers] == [(0, 20_000), (10_000, 30_000)]

    def test_a_span_has_open_ends(self, view: View) -> None:
        assert _span(view, None, "10000", None) == (10_000, None)
        assert _span(view, None, None, "1970-01-01T00:01:00") == (None, 60_000)
        assert _span(view, None, None, None) == (None, None)

    @pytest.mark.parametrize(
        ("at", "start", "end", "message"),
        [
            ("1", "0", None, "--at is one moment"),
            (None, "2", "2", "--from 2 must be before --to 2"),
            ("noon", None, None, "--at must be milliseconds since the epoch or ISO 8601.*'noon'"),
            (None, None, "noon", "--to must be milliseconds"),
        ],
    )
    def test_that_do_not_fit_are_told(
        self, view: View, at: str | None, start: str | None, end: str | None, message: str
    ) -> None:
        with pytest.raises(DefinitionError, match=message):
            _span(view, at, start, end)

    @pytest.mark.parametrize(("option", "given"), [("--at", 0), ("--from", 1), ("--to", 2)])
    def test_without_windows_there_is_no_time(self, driver: Driver, option: str, given: int) -> None:
        times = [None, None, None]
        times[given] = "0"  # type: ignore[call-overload]
        with pytest.raises(DefinitionError, match=f"'total' has no windows; ask without {option}"):
            _span(driver.topology.views["total"], *times)


class TestOutput:
    def test_a_table_has_a_row_for_each_answer(self, driver: Driver, view: View, printed: io.StringIO) -> None:
        assert print_table(view, driver.scan(view), parts=False) == 3
        head, *rows = cells(printed)
        assert head == ["campaign", "window (UTC)", "clicks", "cents", "dearest", "users"]
        assert rows == [
            ["c1", "1970-01-01 00:00:00 + 10s", "2", "1,000,002", "1,000,000", "2"],
            ["c1", "1970-01-01 00:00:10 + 10s", "1", "5", "5", "1"],
            ["c[2]", "1970-01-01 00:00:00 + 10s", "1", "7", "7", "1"],
        ]

    def test_parts_are_shown_below(self, driver: Driver, view: View, printed: io.StringIO) -> None:
        print_table(view, itertools.islice(driver.scan(view), 1), parts=True)
        _, *rows = cells(printed)
        assert [row[2:4] for row in rows] == [["both", "2"], ["batch", "1"], ["speed", "1"]]

    def test_without_windows_there_is_no_such_column(self, driver: Driver, printed: io.StringIO) -> None:
        print_table(driver.topology.views["total"], driver.scan(driver.topology.views["total"]), parts=False)
        assert cells(printed)[0][:2] == ["campaign", "clicks"]

    def test_json_is_an_answer_a_line(self, driver: Driver, view: View, capfd: pytest.CaptureFixture[str]) -> None:
        answers = driver.scan(view)
        assert print_json(view, answers) == 3
        assert [json.loads(line) for line in capfd.readouterr().out.splitlines()] == [
            answer_json(view, answer) for answer in answers
        ]

    def test_the_footer_says_where_it_is_exact(self, driver: Driver, view: View) -> None:
        page = driver.serving.page(view)
        assert page.seam.batch is not None
        assert footer(page) == (
            f"exact at {page.seam.cut}, lag 1 records since {iso_time(page.seam.as_of)}; "
            f"BatchView {page.seam.batch.id} + 1 records of Segments"
        )
        assert "; no BatchView + 4 records of Segments" in footer(driver.serving.page(driver.topology.views["total"]))

    def test_nothing_found_says_where(self, driver: Driver, view: View) -> None:
        page = driver.serving.page(view, ("nobody",))
        assert not list(page.answers)
        cut = page.seam.cut
        assert nothing_found(("nobody",), (None, None), page.seam) == f"no records with this key before Cut {cut}"
        assert nothing_found(None, (0, 1), page.seam) == f"no records in these windows before Cut {cut}"


def cells(printed: io.StringIO) -> list[list[str]]:
    """A table's rows, cell by cell; each is one line, as wide as it may be."""
    lines = [line.replace("┃", "│") for line in printed.getvalue().splitlines()]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line[0] == "│"]
