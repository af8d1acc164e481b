"""A topology whose View is recomputed every two seconds; its names come from the environment."""

import os

import streamkit as sk
from tests.life.app import Click

app = sk.Topology(os.environ["LIFE_NAME"])
clicks = app.topic(os.environ["LIFE_TOPIC"], value=Click, timestamp="at", key="user", partitions=3)
app.view(
    "total", clicks, key="campaign", aggregates={"clicks": sk.Count()}, batch_every="2s", batch_full_every="10s"
)  # fmt: skip
