"""`streamkit reset`: begin anew."""

from __future__ import annotations

import shutil
import uuid
from contextlib import closing, suppress
from typing import Annotated

import typer

from streamkit.checkpoint import changelog_topic
from streamkit.cli.options import BROKERS, CLIENT_CONFIG, DATA, TOPOLOGY, load, open_log, out
from streamkit.control import KeptOn, Reset
from streamkit.errors import StateLocked, TopicMissing
from streamkit.folder import DataFolder
from streamkit.log.base import Log
from streamkit.log.control import ControlTopic
from streamkit.speed.worker import group_of
from streamkit.topology import Topology


def reset(
    topology: TOPOLOGY,
    views: Annotated[
        list[str] | None, typer.Argument(metavar="[VIEW...]", help="Default: the whole topology.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
    data: DATA = None,
) -> None:
    """Discard the Segments and BatchViews of Views; they are computed anew from the log's start.

    With VIEW, workers that run do so at their next Checkpoint, others when they start. Without, all of the topology's
    state goes, changelogs, the agents' Tables and offsets with it, and agents then see every event again: stop the
    workers first. The topics themselves are never touched.

    Examples:  streamkit reset app.py campaign   |   streamkit reset app.py --yes
    """
    loaded, folder = load(topology, data)
    names = [loaded.find_view(name).name for name in views or loaded.views]
    what = ", ".join(names) if views else f"the whole state of topology {loaded.name!r}"
    if not yes:
        typer.confirm(f"Discard {what}?", abort=True)
    with open_log(brokers, client_config) as log:
        if views is None:
            _discard_state(loaded, log, folder)
        with closing(ControlTopic(log, loaded.name)) as control:
            for name in names:
                control.append(Reset(name, uuid.uuid4().hex))
            for topic in loaded.sources() if views is None else ():
                control.append(KeptOn(topic, ""))  # after the deletion: a worker would be refused in between
        for name in names:
            shutil.rmtree(folder.batch / name, ignore_errors=True)
    out.print(f"discarded {what}; the workers compute it anew from the log's start")


def _discard_state(topology: Topology, log: Log, folder: DataFolder) -> None:
    """Changelogs first: every copy of the state, here or elsewhere, is then one of a changelog that is no more."""
    running = log.members(group_of(topology.name))
    if running:
        raise StateLocked(
            f"{len(running)} workers of topology {topology.name!r} run ({', '.join(sorted(running))}): stop them first"
            f" (one that was killed counts until its session has run out). To discard Views only, name them"
        )
    for topic in topology.sources():
        with suppress(TopicMissing):
            log.delete(changelog_topic(topology.name, topic))
    for slot in folder.slots():
        shutil.rmtree(slot.path)
    shutil.rmtree(folder.replica, ignore_errors=True)
