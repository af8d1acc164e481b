"""MapReduce jobs of every kind, for Spark; their names, and the folder of their files, come from the environment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import polars as pl

import streamkit as sk
from streamkit.mapreduce import Context

FOLDER = Path(os.environ.get("SPARK_TEST_FILES", "."))

app = sk.Topology(os.environ.get("SPARK_TEST", "sparkling"))


class Sale(msgspec.Struct):
    shop: str
    item: str
    at: int
    cents: int


class Spent(msgspec.Struct):
    shop: str
    cents: int


sales = app.topic(f"{app.name}-sales", value=Sale, timestamp="at", key="item", partitions=3)
spent = app.topic(f"{app.name}-spent", value=Spent, key="shop", partitions=2)


class Last:
    """In the order of time within a shop; big sales aside, counted, and named by a side file."""

    def map(self, sale: Sale, context: Context) -> Iterator[tuple[str, Sale] | sk.To]:
        if sale.cents > 490:
            context.count("big")
            yield sk.To("big", sale.item, sale.cents)
        yield sale.shop, sale

    def sort(self, sale: Sale) -> int:
        return sale.at

    def reduce(self, shop: str, found: Iterable[Sale], context: Context) -> Iterator[tuple[str, str]]:
        names = context.files["names"].read_text().split()
        last = [sale.item for sale in found][-3:]
        yield names[int(shop[1:]) % len(names)] + shop, f"{' '.join(last)} of {context.counters['big']}"


class Spend:
    """A chain: cents per shop and item, then per shop, the dearest item first."""

    def steps(self) -> list[sk.Step]:
        return [
            sk.Step(map=self.first, combine=lambda _, cents: sum(cents), reduce=lambda key, cents: (key, sum(cents))),
            sk.Step(map=self.second, reduce=self.dearest, sort=lambda pair: -pair[1]),
        ]

    def first(self, sale: Sale) -> Iterator[tuple[tuple[str, str], int]]:
        yield (sale.shop, sale.item), sale.cents

    def second(self, key: tuple[str, str], cents: int) -> Iterator[tuple[str, tuple[str, int]]]:
        yield key[0], (key[1], cents)

    def dearest(self, shop: str, items: Iterable[tuple[str, int]]) -> tuple[str, str]:
        return shop, next(iter(items))[0]


class Columns:
    key = "item"

    def map(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.select("item", "cents")

    def combine(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.group_by("item").agg(pl.col("cents").sum())

    reduce = combine


def big(sale: Sale) -> Iterator[tuple[str, int]]:
    if sale.cents > 250:
        yield sale.item, sale.cents


def words(line: sk.Line) -> Iterator[tuple[str, int]]:
    for word in line.text.split():
        yield word, 1


def bad(sale: Sale) -> Iterator[tuple[str, int]]:
    yield sale.shop, 1 // (sale.cents - 499)


def total(shop: str, cents: Iterable[int]) -> tuple[str, Spent]:
    return shop, Spent(shop, sum(cents))


last = app.mapreduce(
    sales, name="last", outputs={"big": None}, files={"names": FOLDER / "names.txt"}, partitions=5, key="shop"
)(Last)
spend = app.mapreduce(sales, name="spend", partitions=4, served=True, key="shop")(Spend)
columns = app.mapreduce(sales, name="columns", batches=True, key="item", partitions=3)(Columns)
only = app.mapreduce(sales, name="only")(big)
counted = app.mapreduce(
    sk.Files(str(FOLDER / "*.txt")), name="counted", partitions=3, reduce=lambda word, ones: (word, sum(ones))
)(words)
sent = app.mapreduce(sales, name="sent", out=spent, reduce=total)(lambda sale: [(sale.shop, sale.cents)])
fails = app.mapreduce(sales, name="fails", reduce=lambda shop, ones: (shop, sum(ones)))(bad)
sold = app.view("sold", sales, key="shop", window=sk.Tumbling(seconds=60), aggregates={"cents": sk.Sum("cents")})
