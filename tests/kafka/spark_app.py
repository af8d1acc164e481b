"""A topology with a View of every kind, for the Spark Runner; its names come from the environment."""

from __future__ import annotations

import os
from decimal import Decimal

import msgspec
import polars as pl

import streamkit as sk

app = sk.Topology(os.environ.get("LIFE_NAME", "sparkling"))


class Sale(msgspec.Struct):
    shop: str
    item: str
    at: int
    cents: int
    weight: float
    price: Decimal
    note: str | None = None


class Fussy(sk.Sum):
    """An Aggregate of a user's with a mistake in it."""

    def state(self, partial: object) -> object:
        raise LookupError(f"no shelf for {partial}")


sales = app.topic(os.environ.get("LIFE_TOPIC", "sales"), value=Sale, timestamp="at", key="item", partitions=3)
times = app.topic(f"{sales.name}.times", value=Sale, partitions=2, errors="fail")

exact = {
    "sold": sk.Count(),
    "cents": sk.Sum("cents"),
    "weight": sk.Sum("weight"),
    "price": sk.Sum("price"),
    "least": sk.Min("weight"),
    "most": sk.Max("price"),
    "mean": sk.Mean("weight"),
    "spread": sk.Variance("cents"),
    "items": sk.Distinct("item"),
    "favourites": sk.Top(3, "item"),
    "first": sk.First("note"),
    "last": sk.Last("item"),
}
tumbling = app.view("tumbling", sales, key="shop", window=sk.Tumbling(seconds=10), aggregates=exact)
hopping = app.view("hopping", sales, key="shop", window=sk.Hopping(seconds=20, every=10), aggregates=exact)
session = app.view("session", sales, key=["shop", "item"], window=sk.Session(seconds=5), aggregates=exact)
total = app.view("total", sales, key="item", where=pl.col("cents") > 100, aggregates=exact)
broad = app.view("broad", sales, key="shop", window=sk.Tumbling(seconds=1), aggregates={"q": sk.Quantiles("cents")})
timed = app.view("timed", times, key="shop", window=sk.Tumbling(seconds=10), aggregates={"sold": sk.Count()})
