"""StreamKit's jobs. What they read is in the Task of this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
import polars as pl

import streamkit as sk
from benchmarks.peers.task import told

TASK = told()
app = sk.Topology(TASK.group)  # a control topic for each run


class Line(msgspec.Struct):
    text: str


class AdEvent(msgspec.Struct):
    user_id: str
    page_id: str
    ad_id: str
    ad_type: str
    event_type: str
    event_time: int
    ip_address: str
    price: int


class Plain:
    """The words of a line, each with a one; counted in `reduce` alone."""

    def map(self, line: Line) -> Iterator[tuple[str, int]]:
        for word in line.text.split():
            yield word, 1

    def reduce(self, word: str, counts: Iterable[int]) -> tuple[str, int]:
        return word, sum(counts)


class Combining(Plain):
    def combine(self, _: str, counts: Iterable[int]) -> int:
        return sum(counts)


class Columns:
    def map(self, frame: pl.DataFrame) -> pl.DataFrame:
        words = frame.select(word=pl.col("text").str.split(" ")).explode("word")
        return words.group_by("word").agg(value=pl.len().cast(pl.Int64))

    def combine(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.group_by("word").agg(pl.col("value").sum())

    def reduce(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.group_by("word").agg(pl.col("value").sum())


if TASK.job == "words":
    lines = app.topic(TASK.topic, value=Line)
    app.mapreduce(lines, key="word", name="words")(Combining)
    app.mapreduce(lines, key="word", name="words_no_combine")(Plain)
    app.mapreduce(lines, key="word", name="words_by_columns", batches=True)(Columns)
else:
    app.view(
        "yahoo",
        app.topic(TASK.topic, value=AdEvent, timestamp="event_time"),
        key=pl.col("ad_id").replace_strict(TASK.campaigns(), default=None, return_dtype=pl.String).alias("campaign"),
        window=sk.Tumbling(seconds=10),
        where=pl.col("event_type") == "view",
        aggregates={"n": sk.Count()},
    )
