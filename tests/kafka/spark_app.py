"""A topology with a View of every kind, for the Spark Runner; its names come from the environment."""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Any

import msgspec
import polars as pl

import streamkit as sk

app = sk.Topology(os.environ.get("SPARK_TEST", "sparkling"))


class Sale(msgspec.Struct):
    shop: str
    item: str
    at: int
    cents: int
    weight: float
    price: Decimal
    note: str | None = None


class Fussy(sk.Sum):
    """An Aggregate of a user's that has not thought of everything."""

    def state(self, partial: Any) -> Any:
        if partial >= 1_000_000_000:
            raise LookupError(f"no shelf holds {partial}")
        return super().state(partial)


sales = app.topic(f"{app.name}-sales", value=Sale, timestamp="at", key="item", partitions=3)
strict = app.topic(f"{app.name}-strict", value=Sale, partitions=2, errors="fail")

exact: dict[str, sk.Aggregate[Any, Any]] = {
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
many = sk.Hopping(seconds=10, every=0.5)
tumbling = app.view("tumbling", sales, key="shop", window=sk.Tumbling(seconds=10), aggregates=exact)
hopping = app.view("hopping", sales, key=["shop", "item"], window=many, aggregates={"sold": sk.Count()})
session = app.view("session", sales, key="shop", window=sk.Session(seconds=2), aggregates=exact)
total = app.view("total", sales, key="item", where=pl.col("cents") > 100, aggregates=exact)
spread = app.view("spread", sales, key="shop", aggregates={"cents": sk.Quantiles("cents")})
timed = app.view("timed", strict, key="shop", window=sk.Tumbling(seconds=10), aggregates={"sold": sk.Count()})
fussy = app.view("fussy", strict, key="shop", aggregates={"cents": Fussy("cents")})
