"""The topology of the StreamKit peer: what it is called and what it reads comes from the environment."""

import os

import msgspec

import streamkit as sk


class Event(msgspec.Struct):
    key: str
    at: int
    value: int


app = sk.Topology(os.environ["COUNT_NAME"], standbys=int(os.environ.get("COUNT_STANDBYS", "0")))
events = app.topic(os.environ["COUNT_TOPIC"], value=Event, timestamp="at", key="key")
app.view("totals", events, key="key", aggregates={"count": sk.Count(), "sum": sk.Sum("value")})
