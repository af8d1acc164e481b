"""`streamkit generate`: made-up events."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

import typer

from streamkit.cli.options import BROKERS, CLIENT_CONFIG, TOPOLOGY, err, load, open_log
from streamkit.cli.sending import Sender, bar, make_topics
from streamkit.cli.signals import asked_to_stop
from streamkit.schema import milliseconds

EVENTS_PER_SECOND = 10_000.0
START = "2026-01-01T00:00:00Z"

_TICKS = 20
"""How often a second a paced run sends."""
_BATCH = 1_000


def generate(
    topology: TOPOLOGY,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="A topic that has a generator.", show_default=False)],
    count: Annotated[int | None, typer.Option(min=1, help="How many events.", show_default="until Ctrl-C")] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Events a second, in event time and in sending.",
            show_default=f"{EVENTS_PER_SECOND:,.0f} in event time, sent as fast as it goes",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other events; the same one, the same bytes.")] = 0,
    start: Annotated[
        str, typer.Option(help="Event time of the first event: ISO 8601 (UTC where it names no zone), or `now`.")
    ] = START,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
) -> None:
    """Send made-up events to a topic, by the generator that the topology declares for it (@app.generator).

    Events are decided by --seed, --start and --rate alone: two runs send the same bytes. The topic is made if it does
    not exist. Ctrl-C ends the run cleanly: what was counted is on the topic.

    Examples:  streamkit generate topologies/ad_clicks.py ad-events --count 1000000   |
    streamkit generate topologies/ad_clicks.py ad-events --rate 500 --start now
    """
    began = start_of(start)
    loaded, _ = load(topology)
    generator = loaded.find_generator(topic)
    values = islice(generator(seed, began, rate or EVENTS_PER_SECOND), count)
    with open_log(brokers, client_config) as log, asked_to_stop() as stop:
        make_topics(log, loaded, generator.topic)
        clock = time.monotonic()
        with Sender(log, generator.topic) as sender:
            send(values, sender, stop, count=count, rate=rate)
        seconds = time.monotonic() - clock
    err.print(f"{sender.sent:,} events sent to {topic} in {seconds:.1f} s, {sender.sent / seconds:,.0f} events/s")


def send(
    values: Iterator[Any], sender: Sender, stop: threading.Event, *, count: int | None = None, rate: float | None = None
) -> None:
    """Send until the values end or `stop` is set, no more than `rate` a second, with a bar."""
    batch = _BATCH if rate is None else max(1, min(_BATCH, round(rate / _TICKS)))
    began = time.monotonic()
    with bar("events", bounded=count is not None) as progress:
        task = progress.add_task("sending", total=count, count=0, rate=0.0)
        while not stop.is_set():
            before = sender.sent
            sender.send(islice(values, batch))
            if sender.sent == before:
                return
            now = time.monotonic()
            progress.update(task, completed=sender.sent, count=sender.sent, rate=sender.sent / max(now - began, 1e-9))
            if rate is not None and (ahead := began + sender.sent / rate - now) > 0:
                stop.wait(ahead)


def start_of(text: str) -> int:
    """Milliseconds since the epoch.

    >>> start_of("1970-01-01T00:00:01"), start_of("1970-01-01T01:00:01+01:00")
    (1000, 1000)
    """
    if text == "now":
        return time.time_ns() // 1_000_000
    try:
        return milliseconds(dt.datetime.fromisoformat(text))
    except ValueError:
        raise typer.BadParameter(f"--start {text!r}: expected `now` or ISO 8601, such as {START}") from None
