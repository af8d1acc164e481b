"""`streamkit verify`: the proof, asked for."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from streamkit.batch.plan import SPLIT_RECORDS, make_plan
from streamkit.cli.batch_run import SEAL_SECONDS, BatchRun
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
from streamkit.cut import Cut
from streamkit.errors import StateMissing
from streamkit.log.control import ControlTopic
from streamkit.serving.connect import open_serving


def verify(
    topology: TOPOLOGY,
    view: VIEW,
    processes: Annotated[int | None, typer.Option(min=1, help="How many at once.", show_default="all cores")] = None,
    seal_seconds: Annotated[
        float, typer.Option(min=0, help="How long to wait for the workers to seal.")
    ] = SEAL_SECONDS,
    archive: ARCHIVE = None,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
    data: DATA = None,
) -> None:
    """Recompute a View from archive and log and compare it, key by key, with BatchView + Segments at the same Cut.

    Prints the number of differences and the first divergence. Exit status: 0 for none, 1 for some.

    Example:  streamkit verify topologies/ad_clicks.py campaign
    """
    loaded, folder = load(topology, data)
    with open_log(brokers, client_config) as log:
        check_topics(log, loaded, topology)
        found = loaded.find_view(view)
        folder.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="verify-", dir=folder.root) as results:
            run = BatchRun(loaded, topology, found, log, folder, processes, Path(results), archive=archive)
            cut = _cut(run, seal_seconds)
            plan = make_plan(found, cut, run.source.starts(found.topic.name), {}, SPLIT_RECORDS)
            result = run.compute(plan)
            proof = run.prove(result)
    out.print(
        f"view {view}: {proof.differences} differences in {proof.slots:,} states at {cut} ({result.events:,} events)"
    )
    if proof.differences:
        out.print(f"first divergence: {proof.first}", markup=False)
        raise typer.Exit(1)


def _cut(run: BatchRun, seal_seconds: float) -> Cut:
    """A Cut that the speed layer has reached: sealed just now, or where a worker that has left put its state."""
    topic = run.log.describe(run.view.topic.name)
    with closing(ControlTopic(run.log, run.topology.name)) as control:
        sealed = run.seal(control, topic.partitions, seal_seconds)
    if sealed is not None:
        return sealed[0]
    with open_serving(run.topology, run.log, run.folder) as serving:
        segments = serving.segments(run.view)
    if not segments:
        raise StateMissing(f"view {run.view.name!r} has no Segments to verify: run `streamkit worker` first")
    err.print("verifying at the last Checkpoint")
    return Cut(topic.name, topic.id, {p: s.end for p, s in segments.items()})
