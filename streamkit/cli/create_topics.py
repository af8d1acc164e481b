"""`streamkit create-topics`."""

from __future__ import annotations

from streamkit.cli.options import BROKERS, CLIENT_CONFIG, TOPOLOGY, load, open_log, out
from streamkit.cli.options import create_topics as create


def create_topics(topology: TOPOLOGY, brokers: BROKERS = None, client_config: CLIENT_CONFIG = None) -> None:
    """Make the topology's topics that do not exist yet, with its partitions, kept for ever (retention.ms=-1).

    Example:  streamkit create-topics topologies/ad_clicks.py
    """
    loaded, _ = load(topology)
    with open_log(brokers, client_config) as log:
        for name, made in create(log, loaded).items():
            info = log.describe(name)
            out.print(f"{name}: {'made' if made else 'was there'}, {info.partitions} partitions, id {info.id}")
