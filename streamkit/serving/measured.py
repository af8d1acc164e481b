"""What workers have measured of their Checkpoints, as they left it on the changelogs."""

from __future__ import annotations

from contextlib import closing

import msgspec

from streamkit.changelog.changelogs import Changelogs, existing
from streamkit.changelog.state import unpack_mark
from streamkit.checkpoint import MARK_KEY, task_prefix
from streamkit.folder import DataFolder
from streamkit.interval import Measured
from streamkit.log.base import Log
from streamkit.record import TopicPartition
from streamkit.serving.copies import Copies, LocalStores
from streamkit.serving.replica import catch_up_once
from streamkit.topology import Topology

_unpack = msgspec.msgpack.Decoder(Measured).decode


def measured_of(topology: Topology, log: Log, folder: DataFolder) -> dict[str, Measured]:
    """The newest Measured of each worker by its name; empty where none has made a Checkpoint yet."""
    with closing(LocalStores(folder.stores)) as stores:
        copies = Copies(Changelogs(log, topology.name), stores)
        copies.refresh()
        there = existing(log, topology.name, topology.sources())
        tasks = [TopicPartition(topic, number) for topic, count in there.items() for number in range(count)]
        if any(copies.of(task) is None for task in tasks):
            catch_up_once(topology, log, folder.replica)
            copies.refresh()
        newest: dict[str, tuple[int, Measured]] = {}
        for task in tasks:
            copy = copies.of(task)
            found = copy.get([task_prefix(task) + MARK_KEY])[0] if copy is not None else None
            mark = None if found is None else unpack_mark(found, task)
            if mark is not None and mark.measured and mark.time >= newest.get(mark.worker, (0,))[0]:
                newest[mark.worker] = mark.time, _unpack(mark.measured)
    return {worker: measured for worker, (_, measured) in newest.items()}
