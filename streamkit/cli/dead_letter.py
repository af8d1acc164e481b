"""`streamkit dead-letter`: records that could not be used."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from streamkit.cli.options import BROKERS, CLIENT_CONFIG, TOPOLOGY, err, load, open_log, out
from streamkit.deadletter import REPLAY_AGENT, DeadLetter
from streamkit.errors import DefinitionError, TopicMissing
from streamkit.log.base import Log
from streamkit.log.scan import read_all
from streamkit.topic import REPLAYABLE, Topic
from streamkit.topology import Topology

app = typer.Typer(no_args_is_help=True, help="Records that could not be used: look at them, send them to agents again.")

TOPIC = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic that the records came from.")]


@app.command("list", epilog="Example:  streamkit dead-letter list app.py clicks --json > bad.ndjson")
def show(
    topology: TOPOLOGY,
    topic: TOPIC,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line, payload and reason whole.")] = False,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
) -> None:
    """Show a topic's dead letters: where each lay, who could not use it, why, and its payload."""
    loaded, _ = load(topology)
    with open_log(brokers, client_config) as log:
        letters = list(dead_letters(log, loaded.find_topic(topic)))
    if json:
        for letter in letters:
            typer.echo(msgspec.json.encode(_plain(letter)))
        return
    table = Table("record", "kind", "by", "time", "reason", "payload")
    for letter in letters:
        plain = _plain(letter)
        reason = letter.reason.strip().splitlines()[-1]
        cells = (
            f"{letter.source}/{letter.offset}",
            letter.kind,
            letter.by,
            plain["time"],
            reason,
            plain["payload"][:80],
        )
        table.add_row(*(cell.replace("[", "\\[") for cell in cells))
    if letters:
        out.print(table)
    out.print(f"{len(letters)} dead letters of topic {topic}")


@app.command(epilog="Example:  streamkit dead-letter replay app.py clicks --agent overspent")
def replay(
    topology: TOPOLOGY,
    topic: TOPIC,
    agent: Annotated[
        str | None, typer.Option(help="Only what this agent could not use.", show_default="all agents of the topic")
    ] = None,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
) -> None:
    """Send what agents could not use to them again, once they are mended.

    It goes to the topic TOPIC.replay, which only agents read: on TOPIC itself every View would count it a second time.
    What no agent is to blame for is not sent: a payload that is no value of the topic (mend it, and `streamkit load` it
    as a new record), or a record on which a View's expressions fail (mend the View: it is then computed anew).
    """
    loaded, _ = load(topology)
    with open_log(brokers, client_config) as log:
        sent, left = _replay(log, loaded, loaded.find_topic(topic), agent)
    for reason, count in left.items():
        err.print(f"{count} not sent: {reason}")
    out.print(f"{sent} events sent to {topic}.replay")


def dead_letters(log: Log, topic: Topic) -> Iterator[DeadLetter]:
    """Each once: at least once, a worker that was killed may have written some a second time."""
    seen = set()
    try:
        for record in read_all(log, topic.dead_letters):
            letter = DeadLetter.of(record)
            if letter.identity not in seen:
                seen.add(letter.identity)
                yield letter
    except TopicMissing:
        return


def _replay(log: Log, topology: Topology, topic: Topic, only: str | None) -> tuple[int, dict[str, int]]:
    agents = {a.name for a in topology.agents_of(topic.name)}
    if only is not None and only not in agents:
        raise DefinitionError(f"topic {topic.name!r} has no agent {only!r}; it has {', '.join(agents) or 'none'}")
    done = _replayed(log, topic)
    left: dict[str, int] = {}
    sent = 0
    log.create(topic.replays, partitions=log.describe(topic.name).partitions, config=REPLAYABLE)
    with closing(log.writer()) as writer:
        for letter in dead_letters(log, topic):
            reason = _reason_to_leave(letter, agents, only, done)
            if reason:
                left[reason] = left.get(reason, 0) + 1
                continue
            headers = [*letter.headers(), (REPLAY_AGENT, letter.by.encode())]
            # The partition it came from: the worker that has the Tables of its key reads that one.
            place = letter.source.partition
            time = letter.timestamp
            writer.send(topic.replays, letter.value, key=letter.key, timestamp=time, headers=headers, partition=place)
            sent += 1
        writer.flush()
    return sent, left


def _reason_to_leave(letter: DeadLetter, agents: set[str], only: str | None, done: set[object]) -> str:
    if letter.kind == "decode":
        return "the payload is no value of the topic; mend it and load it as a new record"
    if letter.kind == "view":
        return f"view {letter.by!r} cannot use it; mend the View, it is then computed anew"
    if letter.by not in agents:
        return f"the topology has no agent {letter.by!r} any more"
    if only is not None and letter.by != only:
        return f"meant for agent {letter.by!r}"
    return "sent before" if letter.identity in done else ""


def _replayed(log: Log, topic: Topic) -> set[object]:
    try:
        return {DeadLetter.of(record).identity for record in read_all(log, topic.replays)}
    except TopicMissing:
        return set()


def _plain(letter: DeadLetter) -> dict[str, str]:
    time = dt.datetime.fromtimestamp(letter.timestamp / 1000, dt.UTC)
    return {
        "topic": letter.source.topic,
        "partition": str(letter.source.partition),
        "offset": str(letter.offset),
        "kind": letter.kind,
        "by": letter.by,
        "time": time.isoformat(timespec="milliseconds"),
        "reason": letter.reason,
        "key": (letter.key or b"").decode(errors="replace"),
        "payload": (letter.value or b"").decode(errors="replace"),
    }
