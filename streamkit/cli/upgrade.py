"""`streamkit upgrade`: from one version of a View to the next, and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import Annotated, TypeVar

import typer

from streamkit.checkpoint import Segments
from streamkit.cli.batch_run import BatchRun, CutFrom, Wish
from streamkit.cli.options import (
    ARCHIVE,
    BROKERS,
    CLIENT_CONFIG,
    DATA,
    TOPOLOGY,
    VIEW,
    check_topics,
    err,
    load,
    open_log,
    out,
)
from streamkit.control import BatchView, Promoted
from streamkit.cut import Cut
from streamkit.errors import CutMismatch, DefinitionError, StateMissing
from streamkit.folder import DataFolder
from streamkit.log.base import Log
from streamkit.log.control import ControlTopic
from streamkit.serving.connect import open_serving
from streamkit.serving.merge import Serving
from streamkit.serving.seam import Seam
from streamkit.serving.versions import Difference, differences
from streamkit.speed.worker import group_of
from streamkit.topology import Topology
from streamkit.view import View

_LOOK_SECONDS = 0.2
_SAY_SECONDS = 2.0
_START_SECONDS = 5.0
"""How long a worker that was started just now may take until it is known."""

T = TypeVar("T")


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
    archive: ARCHIVE = None,
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
    if back and check:
        raise DefinitionError("--check compares with a newer version, --back goes to an older one: give one of them")
    loaded, folder = load(topology, data)
    with open_log(brokers, client_config) as log:
        check_topics(log, loaded, topology)
        with closing(ControlTopic(log, loaded.name)) as control:
            control.catch_up()
            old, new = _pair(loaded, view, control.published.version(view), back=back)
            if back:
                _show_behind(loaded, log, folder, new)
            else:
                wait = _Wait(loaded, log, folder, wait_seconds)
                before = _declared(loaded, view, old, new)
                at = wait.for_workers(topology, before, new)
                run = BatchRun(loaded, topology, new, log, folder, processes, archive=archive)
                run.recompute(Wish(at=at))
                control.catch_up()
                _show(wait.for_one_cut(before, new, control.published.latest(new.name)), before, new)
            if check:
                out.print(f"readers of view {view!r} are still answered by {old}", markup=False)
                return
            if not yes:
                typer.confirm(f"Switch readers of {view!r} from {old} to {new.name}?", abort=True)
            control.append(Promoted(view, new.name))
    way = "" if back else f"; back: streamkit upgrade {topology} {view} --back"
    out.print(f"readers of view {view!r} are answered by {new.name} from now on (before: {old}){way}", markup=False)


def _pair(topology: Topology, view: str, promoted: str | None, *, back: bool) -> tuple[str, View]:
    """The name of the version in force, which may be declared no more, and the View to switch to.

    Raises DefinitionError.
    """
    versions = topology.versions(view)
    if not versions:
        names = ", ".join(dict.fromkeys(v.base for v in topology.views.values()))
        raise DefinitionError(
            f"topology {topology.name!r} has no view {view!r}; it has {names or 'none'} (named without a version: "
            f"upgrade takes the newest)"
        )
    now = promoted or versions[0].name
    number = int(now.partition("@")[2] or 1)
    others = [v for v in versions if (v.version < number if back else v.version > number)]
    if others:
        return now, others[-1]
    there = f"view {view!r}: {now} is in force"
    declared = ", ".join(v.name for v in versions)
    if not back:
        raise DefinitionError(
            f"{there}, and no newer version is declared (there is {declared}). Declare the changed view beside it: "
            f"app.view({view!r}, ..., version={number + 1})"
        )
    if number == 1:
        raise DefinitionError(f"{there}, the first version: there is none to go back to")
    raise DefinitionError(
        f"{there}, and no older version is declared (there is {declared}). Declare the one to go back to beside it, as "
        f"it was, and start the workers with that file"
    )


def _declared(topology: Topology, view: str, old: str, new: View) -> View:
    """The version in force. Raises DefinitionError where it is declared no more: there is nothing to compare with."""
    for version in topology.versions(view):
        if version.name == old:
            return version
    raise DefinitionError(
        f"view {view!r}: {old} is in force and this topology does not declare it, so {new.name} can be compared with "
        f"nothing: declare it again, as it was, beside {new.name}"
    )


def _show_behind(topology: Topology, log: Log, folder: DataFolder, view: View) -> None:
    """What readers will see of the version to go back to. Raises where they would have no Answer."""
    with open_serving(topology, log, folder) as serving:
        seam, lag = serving.seam(view), serving.lag(view)
    out.print(f"{view.name} answers at {seam.cut}, lag {lag:,} records", markup=False)


class _Wait:
    """Looks at the state until the workers have done what is waited for.

    Each look opens it anew: where workers run on other machines, that is what follows their changelogs to the end.
    """

    def __init__(self, topology: Topology, log: Log, folder: DataFolder, seconds: float) -> None:
        self._topology, self._log, self._folder, self._seconds = topology, log, folder, seconds
        self._began = time.monotonic()
        self._deadline = self._began + seconds
        self._said = float("-inf")

    def for_workers(self, spec: str, old: View, new: View) -> CutFrom | None:
        """Until workers have the new version in all partitions: before anything is computed that nobody would follow.

        Returns where to cut: None where the workers can seal, else where the old version is, and the new one not yet.
        Sealed instead, the new one's first records would be the batch, and the workers' part all the others.
        Raises StateMissing, soon where no worker runs at all.
        """
        while not self._log.members(group_of(self._topology.name)):
            if time.monotonic() > min(self._deadline, self._began + _START_SECONDS):
                raise StateMissing(
                    f"no worker of topology {self._topology.name!r} runs, so nobody would keep {new.name} up to date: "
                    f"start `streamkit worker {spec}`, then upgrade"
                )
            self._say("for a worker to start")
            time.sleep(_LOOK_SECONDS)
        partitions = self._log.describe(new.topic.name).partitions

        def known(serving: Serving) -> tuple[Cut, Mapping[int, Segments]] | None:
            cut = serving.seam(old).cut  # before the new one's Segments, or those would seem behind by what came since
            segments = serving.segments(new)
            return (cut, segments) if len(segments) == partitions else None

        cut, segments = self._until(
            known,
            f"for workers that know {new.name}: start them again with {spec}",
            f"the workers that run do not know {new.name}: not all of its partitions have been opened",
        )
        if all(segments[partition].end >= end for partition, end in cut.offsets.items()):
            return None
        return cut, {partition: s.all()[0][0] for partition, s in segments.items()}

    def for_one_cut(self, old: View, new: View, batch: BatchView | None) -> tuple[Difference, Seam]:
        """Until both versions are at one Cut, the new one from this BatchView on; what they hold there.

        Workers that had read on beyond the BatchView read again from there. Switched before they have, readers would
        see the Cut go back. Raises StateMissing.
        """
        waiting = f"for the workers to follow the log with {new.name}"

        def meet(serving: Serving) -> tuple[Difference, Seam] | None:
            a, b = serving.seams((old, new))
            if a.cut == b.cut and b.batch == batch:
                return differences(serving, old, new, (a, b)), b
            self._say(f"{waiting}: {max(0, serving.lag(new) - serving.lag(old)):,} records behind {old.name}")
            return None

        return self._until(meet, waiting, f"the workers have not brought {new.name} to where {old.name} is")

    def _until(self, look: Callable[[Serving], T | None], waiting: str, missed: str) -> T:
        while True:
            # Mended by the workers' next Checkpoint.
            with suppress(CutMismatch, StateMissing), open_serving(self._topology, self._log, self._folder) as serving:
                if (found := look(serving)) is not None:
                    return found
            if time.monotonic() > self._deadline:
                raise StateMissing(
                    f"{missed} (within {self._seconds:g} s): start them again with the file that declares both "
                    f"versions, or wait longer (--wait-seconds). Readers are answered as before"
                )
            self._say(waiting)
            time.sleep(_LOOK_SECONDS)

    def _say(self, waiting: str) -> None:
        if time.monotonic() - self._said >= _SAY_SECONDS:
            self._said = time.monotonic()
            err.print(f"waiting {waiting}", markup=False)


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
