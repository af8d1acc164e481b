"""Asks a View of StreamKit's, by `streamkit.connect`, for one probe after the other; says when each was there."""

from __future__ import annotations

import itertools
import json
import time

import streamkit as sk
from benchmarks.peers.programs.streamkit_topology import TASK, app
from benchmarks.peers.rate import PROBE_TIME, probe_campaign
from streamkit.errors import StreamkitError

POLL_SECONDS = 0.001


def main() -> None:
    view = app.views["job"]
    with sk.connect(app, brokers=TASK.brokers, data=TASK.directory):
        for probe in itertools.count():
            while not _is_there(view, probe_campaign(probe)):
                time.sleep(POLL_SECONDS)
            print(json.dumps({"probe": probe, "at": time.monotonic_ns()}), flush=True)


def _is_there(view: sk.View, campaign: str) -> bool:
    try:
        return view.get(campaign, window=PROBE_TIME).found
    except StreamkitError:  # the worker has not made its first Checkpoint yet
        return False


if __name__ == "__main__":
    main()
