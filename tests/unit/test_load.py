"""Rows of files as values of a topic: what becomes of each cell, and what is said of rows and files that are wrong."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamkit as sk
from streamkit.cli.load import SHOWN, Input, Problems, check, send
from streamkit.cli.rows import RowFile
from streamkit.cli.sending import Sender
from streamkit.errors import DefinitionError, StreamkitError
from streamkit.log.memory import MemoryLog
from streamkit.log.scan import read_all


class Sale(msgspec.Struct):
    shop: str
    at: dt.datetime
    amount: Decimal
    count: int = 1
    rebate: float | None = None
    note: str | None = None


class Reading(msgspec.Struct):
    """Optional, and yet it must be named: no default."""

    sensor: str
    value: float | None


app = sk.Topology("shops")
sales = app.topic("sales", value=Sale, timestamp="at", key="shop")
readings = app.topic("readings", value=Reading)
NEW_YEAR = dt.datetime(2026, 1, 1)

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def load(path: Path, *set_: str, topic: Any = sales) -> tuple[list[Any], Problems]:
    problems = Problems()
    values = Input.of(RowFile.of(path), topic, set_).values(problems, lambda _: None)
    return list(values), problems


def good(path: Path, *set_: str, topic: Any = sales) -> list[Any]:
    values, problems = load(path, *set_, topic=topic)
    assert problems.first == []
    return values


def test_a_csv_cell_becomes_what_the_type_says(write: Write) -> None:
    path = write("a.csv", "shop,at,amount,count,rebate,note\ns1,2026-01-01 00:00:00,0.10,3,1.5,hello\n")
    assert good(path) == [Sale("s1", NEW_YEAR, Decimal("0.10"), 3, 1.5, "hello")]


def test_an_empty_cell_is_null_or_the_default_and_in_a_text_field_a_text(write: Write) -> None:
    path = write("a.csv", "shop,at,amount,count,rebate,note\n,2026-01-01T00:00:00,1,,,\n")
    assert good(path) == [Sale("", NEW_YEAR, Decimal(1))]
    path = write("b.csv", "sensor,value\nx,\ny,2\n")
    assert good(path, topic=readings) == [Reading("x", None), Reading("y", 2.0)]


def test_a_needed_cell_that_is_empty_is_told(write: Write) -> None:
    _, problems = load(write("a.csv", "shop,at,amount\ns1,2026-01-01T00:00:00,\n"))
    assert "missing required field `amount`" in problems.first[0]


def test_columns_may_be_more_and_in_any_order_behind_a_spreadsheets_mark(write: Write) -> None:
    path = write("a.csv", b'\xef\xbb\xbfamount,more,at,shop\r\n2,x,2026-01-01T00:00:00,"s,\n1"\r\n\r\n')
    assert good(path) == [Sale("s,\n1", NEW_YEAR, Decimal(2))]


def test_json_keeps_every_digit_of_a_decimal_also_where_a_field_is_set(write: Write) -> None:
    digits = "12345678901234567890.123456789"
    path = write("s7.ndjson", f'{{"at": "2026-01-01T00:00:00", "shop": "s", "amount": "{digits}"}}\n\n')
    assert good(path) == [Sale("s", NEW_YEAR, Decimal(digits))]
    assert good(path, "shop={stem}", "count=4") == [Sale("s7", NEW_YEAR, Decimal(digits), 4)]


def test_parquet_is_read_by_its_own_types(tmp_path: Path) -> None:
    frame = pl.DataFrame({"sensor": ["a", "b"], "value": [1.5, None], "more": [1, 2]})
    frame.write_parquet(tmp_path / "r.parquet")
    assert good(tmp_path / "r.parquet", topic=readings) == [Reading("a", 1.5), Reading("b", None)]
    frame.clear().write_parquet(tmp_path / "none.parquet")
    assert good(tmp_path / "none.parquet", topic=readings) == []


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_packed_files_are_unpacked(write: Write, suffix: str) -> None:
    text = {".csv": "sensor,value\nx,1\n", ".jsonl": '{"sensor": "x", "value": 1}\n'}[suffix]
    path = write(f"r7{suffix}.gz", gzip.compress(text.encode()))
    assert good(path, "sensor={stem}", topic=readings) == [Reading("r7", 1.0)]


def test_bad_rows_are_told_with_their_line_and_the_others_come(write: Write) -> None:
    path = write("a.csv", 'sensor,value\nx,1\ny,much\nz\n"two\nlines",2\n')
    values, problems = load(path, topic=readings)
    assert values == [Reading("x", 1.0), Reading("two\nlines", 2.0)]
    assert problems.first == [
        f"{path}:3: Expected `float | null`, got `str` - at `$.value`",
        f"{path}:4: expected 2 cells (sensor, value), got 1",
    ]
    assert (problems.rows, problems.count) == (4, 2)


def test_a_bad_row_of_json_and_of_parquet_is_told_with_its_place(write: Write, tmp_path: Path) -> None:
    path = write("a.jsonl", '\n[1]\n{"sensor": "x", "value": 1}\n{"sensor"\n')
    values, problems = load(path, topic=readings)
    assert values == [Reading("x", 1.0)]
    assert [line.partition(": ")[0] for line in problems.first] == [f"{path}:2", f"{path}:4"]
    pl.DataFrame({"sensor": ["x", None], "value": [1, 2]}).write_parquet(tmp_path / "a.parquet")
    _, problems = load(tmp_path / "a.parquet", topic=readings)
    assert problems.first == [f"{tmp_path / 'a.parquet'}:row 2: Expected `str`, got `null` - at `$.sensor`"]


def test_what_a_worker_could_not_read_is_bad_here(write: Write) -> None:
    """NaN has no JSON and would lie on the topic as null, which is no float."""

    class Strict(msgspec.Struct):
        value: float

    topic = sk.Topology("strict").topic("strict", value=Strict)
    values, problems = load(write("a.csv", "value\n1\nnan\n"), topic=topic)
    assert values == [Strict(1.0)]
    assert problems.count == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "x", "its format is told by its suffix: .csv"),
        ("a.csv", "", "it is empty"),
        ("a.csv", "sensor,sensor\n", "two columns have one name"),
        ("a.csv", "sensor\nx\n", "no column value, which Reading needs; it has sensor."),
        ("a.csv", 'sensor,"value"x\nx,1\n', "not CSV"),
        ("a.csv", 'sensor,value\nx,"1\n', "not CSV"),
        ("a.csv", b"sensor,value\n\xff,1\n", "cannot be read"),
        ("a.csv.gz", b"no gzip", "cannot be read"),
        ("a.csv.gz", gzip.compress(b"sensor,value\nx,1\n", mtime=0)[:-9], "cannot be read"),
        ("a.csv.gz", gzip.compress(b"sensor,value\nx,1\n", mtime=0)[:10] + b"\xff" * 20, "cannot be read"),
        ("a.parquet", "x", "cannot be read"),
    ],
)
def test_a_file_that_is_no_such_file_is_told(write: Write, name: str, content: str | bytes, words: str) -> None:
    path = write(name, content)
    with pytest.raises(StreamkitError) as told:
        load(path, topic=readings)
    assert words in str(told.value)
    assert str(path) in str(told.value)


def test_a_file_that_is_missing_or_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(StreamkitError, match=r"there is no such file$"):
        RowFile.of(tmp_path / "a.csv")
    with pytest.raises(StreamkitError, match="it is a folder"):
        RowFile.of(tmp_path)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("sensr=x", "did you mean 'sensor'"),
        ("sensor", "expected FIELD=VALUE"),
        ("value=much", "Expected `float | null`, got `str`"),
    ],
)
def test_a_setting_that_is_no_value_of_a_field_is_told(write: Write, setting: str, words: str) -> None:
    path = write("a.csv", "sensor,value\nx,1\n")
    with pytest.raises(StreamkitError) as told:
        load(path, setting, topic=readings)
    assert words in str(told.value)


def test_names_in_files_are_those_of_the_json(write: Write) -> None:
    class Renamed(msgspec.Struct, rename="camel"):
        shop_id: str
        net_price: int | None

    topic = sk.Topology("renamed").topic("renamed", value=Renamed)
    assert good(write("a.csv", "shopId,netPrice\ns,\n"), topic=topic) == [Renamed("s", None)]
    assert good(write("b.csv", "netPrice\n7\n"), "shop_id={stem}", topic=topic) == [Renamed("b", 7)]


def test_rows_are_sent_keyed_and_at_their_event_time(write: Write) -> None:
    path = write("a.csv", "shop,at,amount\ns1,2026-01-01,1\ns1,2026-01-01T00:00:01,2\ns2,2026-01-01T00:00:02Z,3\n")
    log = MemoryLog()
    log.create("sales", partitions=sales.partitions)
    with Sender(log, sales) as sender:
        problems = send([Input.of(RowFile.of(path), sales, ())], sender, threading.Event())
    assert (sender.sent, problems.count) == (2, 1)
    assert [(r.key, r.timestamp) for r in sorted(read_all(log, "sales"), key=lambda r: r.timestamp)] == [
        (b"s1", 1_767_225_601_000),
        (b"s2", 1_767_225_602_000),
    ]


def test_a_value_of_another_type_is_not_sent() -> None:
    log = MemoryLog()
    log.create("sales", partitions=1)
    with Sender(log, sales) as sender, pytest.raises(DefinitionError, match="its values are Sale"):
        sender.send([Reading("x", 1.0)])
    assert list(read_all(log, "sales")) == []


def test_only_the_first_bad_rows_are_kept_and_all_are_counted(write: Write) -> None:
    path = write("a.csv", "sensor,value\n" + "x,much\n" * (SHOWN + 1_005))
    problems = check([Input.of(RowFile.of(path), readings, ())], threading.Event())
    assert (problems.count, problems.rows, len(problems.first)) == (SHOWN + 1_005, SHOWN + 1_005, SHOWN)
    assert str(problems).endswith("and 1,005 more")


def test_a_stop_ends_the_reading(write: Write) -> None:
    stop = threading.Event()
    stop.set()
    assert check([Input.of(RowFile.of(write("a.csv", "sensor,value\nx,1\n")), readings, ())], stop).rows == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.floats(-1e9, 1e9))))
def test_what_pythons_own_writer_wrote_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, float]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("sensor", "value"), *rows])
    assert good(path, topic=readings) == [Reading(*row) for row in rows]
