"""Options that commands share, and what they open."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from streamkit.changelog.follower import Restoring
from streamkit.errors import TopicMissing
from streamkit.folder import DataFolder
from streamkit.interval import show_seconds
from streamkit.loading import load_topology
from streamkit.log.base import Log
from streamkit.log.kafka import KafkaLog
from streamkit.settings import Connection
from streamkit.topic import REPLAYABLE
from streamkit.topology import Topology

TOPOLOGY = Annotated[
    str, typer.Argument(metavar="TOPOLOGY", help="file.py, file.py:attribute or module:attribute.", show_default=False)
]
VIEW = Annotated[str, typer.Argument(metavar="VIEW", help="Name of a View of the topology.", show_default=False)]
BROKERS = Annotated[
    str | None,
    typer.Option("--brokers", envvar="STREAMKIT_BROKERS", help="Kafka's addresses.", show_default="localhost:9092"),
]
CLIENT_CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--client-config",
        envvar="STREAMKIT_CLIENT_CONFIG",
        help="File of client settings (SASL, TLS, ...), passed to librdkafka untouched: .properties, .toml or .json. "
        "STREAMKIT_CLIENT_SASL_USERNAME and so on do the same by the environment.",
        show_default=False,
    ),
]
DATA = Annotated[
    Path | None,
    typer.Option("--data", envvar="STREAMKIT_DATA", help="The data folder.", show_default=".streamkit"),
]

ARCHIVE = Annotated[
    str | None,
    typer.Option(
        "--archive",
        envvar="STREAMKIT_ARCHIVE",
        metavar="URL",
        help="Where topics are archived: a folder, s3://bucket/path, gs://..., az://...",
        show_default="DATA/TOPOLOGY/archive",
    ),
]

out = Console(highlight=False, soft_wrap=True)
"""What was asked for: goes to standard output."""

err = Console(stderr=True, highlight=False, soft_wrap=True)
"""Progress, warnings and errors."""


@contextmanager
def open_log(brokers: str | None, client_config: Path | None) -> Iterator[KafkaLog]:
    """The log at the brokers that the options name."""
    with closing(KafkaLog(Connection.from_environment(brokers, client_config))) as log:
        yield log


def load(topology: str, data: Path | None = None) -> tuple[Topology, DataFolder]:
    """The Topology that the argument names, and its data folder."""
    loaded = load_topology(topology)
    return loaded, DataFolder.of(loaded.name, data)


def check_topics(log: Log, topology: Topology, spec: str) -> None:
    """Raises TopicMissing, with the way out, where a topic that is read does not exist."""
    there = set(log.topics())
    missing = [name for name in topology.sources() if name not in there]
    if missing:
        raise TopicMissing(
            f"topic {', '.join(missing)} of topology {topology.name!r} does not exist on the broker. Make it: "
            f"`streamkit create-topics {spec}`; or send to it: `streamkit load {spec} {missing[0]} FILE`"
        )


def create_topics(log: Log, topology: Topology) -> dict[str, bool]:
    """Make the topology's topics that do not exist, kept for ever; True for those that were made."""
    there = set(log.topics())
    made = {name: name not in there for name in topology.topics}
    for name, topic in topology.topics.items():
        if made[name]:
            log.create(name, partitions=topic.partitions, config=REPLAYABLE)
    return made


_told = 0.0


def restoring(progress: Restoring) -> None:
    """A line every two seconds while a reader follows changelogs to their ends."""
    global _told
    now = time.monotonic()
    if progress.seconds >= 2 and now - _told >= 2:
        _told = now
        left = "" if progress.left is None else f", {show_seconds(progress.left)} left"
        err.print(f"following the changelogs: {progress.done:,} of {progress.total:,} records{left}")


def is_empty(log: Log, topic: str) -> bool:
    return all(log.starts(topic)[p] == end for p, end in log.ends(topic).items())
