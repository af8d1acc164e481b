"""Word count, the field's hello world, both ways: as a stream that is always up to date, and as MapReduce.

The stream: an agent divides lines into words, a View counts them. The jobs count the words of all lines that the topic
holds: `words` a record at a time, `words_by_columns` in polars. All three agree at the same Cut.

    streamkit create-topics topologies/wordcount.py
    streamkit generate topologies/wordcount.py lines --count 100000
    streamkit worker topologies/wordcount.py --until-caught-up
    streamkit query topologies/wordcount.py word_counts w1
    streamkit mapreduce topologies/wordcount.py
    streamkit query topologies/wordcount.py words w1
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Iterator

import msgspec
import polars as pl

import streamkit as sk

app = sk.Topology("wordcount")


class Line(msgspec.Struct):
    text: str


class Word(msgspec.Struct):
    word: str


lines = app.topic("lines", value=Line)
words_topic = app.topic("words", value=Word, key="word")

word_counts = app.view("word_counts", words_topic, key="word", aggregates={"count": sk.Count()})


@app.agent(lines, out=words_topic)
async def split(events: AsyncIterator[Line]) -> AsyncIterator[Word]:
    async for line in events:
        for word in line.text.lower().split():
            yield Word(word)


@app.mapreduce(lines, key="word", served=True, name="words")
class Words:
    def map(self, line: Line) -> Iterator[tuple[str, int]]:
        for word in line.text.lower().split():
            yield word, 1

    def combine(self, _: str, counts: Iterable[int]) -> int:
        return sum(counts)

    def reduce(self, word: str, counts: Iterable[int]) -> tuple[str, int]:
        return word, sum(counts)


@app.mapreduce(lines, key="word", served=True, batches=True, name="words_by_columns")
class WordsByColumns:
    def map(self, frame: pl.DataFrame) -> pl.DataFrame:
        # Python's str.split() divides at every kind of white space; this is it for those that texts have.
        words = frame.select(word=pl.col("text").str.to_lowercase().str.extract_all(r"\S+")).explode("word")
        return words.drop_nulls().group_by("word").agg(count=pl.len().cast(pl.Int64))

    def combine(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.group_by("word").agg(pl.col("count").sum())

    def reduce(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.group_by("word").agg(pl.col("count").sum())


@app.generator(lines)
def some_lines(seed: int, start: int, rate: float) -> Iterator[Line]:
    """Lines of ten words, of which a few are frequent and most are rare, as in any language."""
    del start, rate
    chance = random.Random(seed)
    while True:
        yield Line(" ".join(f"w{int(chance.paretovariate(0.8))}" for _ in range(10)))
