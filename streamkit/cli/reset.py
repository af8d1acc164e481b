"""`streamkit reset`: begin anew."""

from __future__ import annotations

import shutil
from contextlib import closing
from typing import Annotated

import typer

from streamkit.checkpoint import segments_range, states_range, view_key
from streamkit.cli.options import BROKERS, CLIENT_CONFIG, DATA, TOPOLOGY, load, open_log, out
from streamkit.control import Reset
from streamkit.folder import DataFolder
from streamkit.log.control import ControlTopic
from streamkit.store.base import Write
from streamkit.store.rocksdb import RocksStore


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
    """Discard the Segments and BatchViews of Views; they are computed anew from the log's start. Stop the worker first.

    Without VIEW all of the topology's state goes, the agents' Tables and offsets with it: agents then see every event
    again. The topics themselves are never touched.

    Examples:  streamkit reset app.py campaign   |   streamkit reset app.py --yes
    """
    loaded, folder = load(topology, data)
    names = [loaded.find_view(name).name for name in views or loaded.views]
    what = ", ".join(names) if views else f"the whole state of topology {loaded.name!r}"
    if not yes:
        typer.confirm(f"Discard {what}?", abort=True)
    with open_log(brokers, client_config) as log:
        _discard_state(folder, names if views else None)
        with closing(ControlTopic(log, loaded.name)) as control:
            for name in names:
                control.append(Reset(name))
        for name in names:
            shutil.rmtree(folder.batch / name, ignore_errors=True)
    out.print(f"discarded {what}; `streamkit worker` computes it anew from the log's start")


def _discard_state(folder: DataFolder, views: list[str] | None) -> None:
    """The store is opened, so that its lock refuses while a worker runs."""
    if not folder.state.exists():
        return
    with closing(RocksStore.open(folder.state)) as store:
        for name in views or ():
            store.write(Write(deletes=[view_key(name)], ranges=[segments_range(name), states_range(name)]))
    if views is None:
        shutil.rmtree(folder.state)
        folder.worker.unlink(missing_ok=True)
