"""Publication: one manifest, last. Anything before it leaves the old BatchView in force."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from streamkit.batch.run import Result
from streamkit.control import BatchView, Proof
from streamkit.log.control import ControlTopic


def manifest(result: Result, proof: Proof | None, *, now: Callable[[], float] = time.time) -> BatchView:
    plan = result.plan
    return BatchView(
        id=result.id,
        view=plan.view,
        fingerprint=plan.fingerprint,
        topic=plan.topic,
        topic_id=plan.topic_id,
        starts=plan.starts,
        offsets=plan.offsets,
        files=result.files,
        slots=result.slots,
        events=result.events,
        rejected=result.rejected,
        created=int(now() * 1000),
        proof=proof,
        base=plan.base.id if plan.base else "",
    )


def publish(control: ControlTopic, batch: BatchView) -> None:
    """From the moment this returns, and not before, Answers are made from `batch`."""
    control.append(batch)


def discard_old(control: ControlTopic, view: str, folder: Path) -> list[str]:
    """Delete the results in `folder` that no reader can hold: all but those of the BatchViews that are kept.

    Returns the ids deleted. Comes after the publication; a crash in between leaves files that the next one deletes.
    """
    control.catch_up()
    kept = {batch.id for batch in control.published.all().get(view, ())}
    gone = [path for path in folder.iterdir() if path.is_dir() and path.name not in kept | {"splits"}]
    for path in gone:
        shutil.rmtree(path)
    return [path.name for path in gone]
