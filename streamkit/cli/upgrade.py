"""`streamkit upgrade`: from one version of a View to the next, and back."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Annotated

import typer

from streamkit.batch.plan import SPLIT_RECORDS
from streamkit.cli.batch import SEAL_SECONDS, BatchRun
from streamkit.cli.options import BROKERS, CLIENT_CONFIG, DATA, TOPOLOGY, VIEW, check_topics, err, load, open_log, out
from streamkit.control import Promoted
from streamkit.errors import CutMismatch, DefinitionError, StateMissing
from streamkit.folder import DataFolder
from streamkit.log.base import Log
from streamkit.log.control import ControlTopic
from streamkit.serving.connect import open_serving
from streamkit.serving.merge import Serving
from streamkit.serving.seam import Seam
from streamkit.serving.versions import Difference, differences
from streamkit.topology import Topology
from streamkit.view import View

_LOOK_SECONDS = 0.2


def upgrade(
    topology: TOPOLOGY,
    view: VIEW,
    back: Annotated[bool, typer.Option("--back", help="Switch readers to the version before.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Compute, follow and compare; do not switch.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait_seconds: Annotated[
        float, typer.Option(min=0, help="How long to wait for the workers to follow the log with the new version.")
    ] = 120.0,
    processes: Annotated[int | None, typer.Option(min=1, help="For the batch.", show_default="all cores")] = None,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
    data: DATA = None,
) -> None:
    """Switch readers of a View to its newest version in one step, once it is computed, kept up to date and compared.

    Declare the changed View beside the old one: app.view("campaign", ..., version=2). Start the workers with that file,
    then upgrade: the new version is recomputed in batch and proved, the workers go on from there, both versions are
    compared at one Cut, and one record on the control topic switches every reader. Both go on being kept up to date, so
    --back is as quick. Remove the old declaration when nobody wants it back.

    Examples:  streamkit upgrade app.py campaign   |   streamkit upgrade app.py campaign --back
    """
    loaded, folder = load(topology, data)
    with open_log(brokers, client_config) as log:
        check_topics(log, loaded, topology)
        with closing(ControlTopic(log, loaded.name)) as control:
            control.catch_up()
            old, new = _pair(loaded, view, control.published.version(view), back=back)
            if not back:
                run = BatchRun(loaded, topology, new, log, folder, processes)
                run.publish(run.plan(SEAL_SECONDS, SPLIT_RECORDS))
                _show(_compared(loaded, log, folder, (old, new), wait_seconds), old, new)
            if check:
                return
            if not yes:
                typer.confirm(f"Switch readers of {view!r} from {old.name} to {new.name}?", abort=True)
            control.append(Promoted(view, new.name))
    way = "" if back else f"; back: streamkit upgrade {topology} {view} --back"
    out.print(
        f"readers of view {view!r} are answered by {new.name} from now on (before: {old.name}){way}", markup=False
    )


def _pair(topology: Topology, view: str, promoted: str | None, *, back: bool) -> tuple[View, View]:
    """The version in force and the one to switch to. Raises DefinitionError."""
    versions = topology.versions(view)
    if not versions:
        raise DefinitionError(f"topology {topology.name!r} has no view {view!r}; it has {', '.join(topology.views)}")
    now = next((v for v in versions if v.name == promoted), versions[0])
    others = [v for v in versions if v.version < now.version] if back else [v for v in versions[-1:] if v is not now]
    if not others:
        which = "an older" if back else "a newer"
        raise DefinitionError(
            f"view {view!r}: {now.name} is in force, and {which} version is not declared (there is "
            f"{', '.join(v.name for v in versions)}). Declare it beside: app.view({view!r}, ..., "
            f"version={now.version - 1 if back else now.version + 1})"
        )
    return now, others[-1]


def _compared(
    topology: Topology, log: Log, folder: DataFolder, views: tuple[View, View], wait_seconds: float
) -> tuple[Difference, Seam]:
    """Both versions at one Cut, as soon as the workers have brought the new one to where the old one is."""
    deadline = time.monotonic() + wait_seconds
    said = False
    with open_serving(topology, log, folder) as serving:
        while (seams := _meet(serving, views)) is None:
            if time.monotonic() > deadline:
                raise StateMissing(
                    f"no worker has followed the log with {views[1].name} to where {views[0].name} is within "
                    f"{wait_seconds:g} s: start the workers with the file that declares both, or give them longer "
                    f"(--wait-seconds). Readers are still answered by {views[0].name}"
                )
            if not said:
                err.print(f"waiting for the workers to follow the log with {views[1].name}")
            said = True
            time.sleep(_LOOK_SECONDS)
        return differences(serving, *views, seams), seams[1]


def _meet(serving: Serving, views: tuple[View, View]) -> tuple[Seam, Seam] | None:
    """The Seams of both, None while the new one is behind or nobody follows it."""
    try:
        old, new = serving.seams(views)
    except (CutMismatch, StateMissing):
        return None
    return (old, new) if old.cut == new.cut and serving.segments(views[1]) else None


def _show(compared: tuple[Difference, Seam], old: View, new: View) -> None:
    found, seam = compared
    shared = ", ".join(found.shared) or "no aggregate"
    out.print(
        f"{old.name} and {new.name} at {seam.cut}: {found.same:,} states alike in {shared}, {found.changed:,} not; "
        f"{found.only_old:,} only in {old.name}, {found.only_new:,} only in {new.name}",
        markup=False,
    )
    for slot, name, before, after in found.examples:
        window = f" [{slot.start}, {slot.end})" if new.windowed else ""
        key = ", ".join(map(str, slot.key))
        out.print(f"  {key}{window} {name}: {before} -> {after}", markup=False)
