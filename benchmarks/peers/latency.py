"""The job `views` at a fixed rate: from producing an event until its count can be read.

Twenty times a second a probe is sent among the events: a view of an ad whose campaign comes only once. Where it can be
read first is the peer's own: StreamKit's View, by `streamkit.connect` from another process; others' output topic.
Only probes count that are sent after the peer has caught up with the rate, and some seconds more.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import events, quix, rate
from benchmarks.peers.kafka_streams import PEERS as KAFKA_STREAMS
from benchmarks.peers.peer import PROGRAMS, ROOT, Peer
from benchmarks.peers.report import Found
from benchmarks.peers.run import RunError
from benchmarks.peers.task import VARIABLE, Task
from benchmarks.process import kill_all, launch, said
from benchmarks.setup import SetupError
from streamkit.errors import StreamkitError

CAUGHT_UP_SECONDS = 2.5
SETTLE_SECONDS = 10.0
"""After it has caught up: queues get empty, JIT compilers warm."""
PATIENCE_SECONDS = 60.0
KEPT_UP = 0.95
INTERVAL = re.compile(r"-\d+ms$")
ON_TOPIC = "until its result is readable on the output topic"


@dataclass(frozen=True)
class Timed:
    """A peer as it is set up for latency. `peer` is what it needs, None for StreamKit, which has a worker to start."""

    name: str
    title: str
    timed: str
    settings: Mapping[str, str]
    peer: Peer | None = None

    def processes(self, task: Task) -> list[tuple[Sequence[str | Path], Mapping[str, str]]]:
        """The peer's, and the one that watches for its results."""
        python = {"PYTHONPATH": str(ROOT)}
        watch: list[str | Path] = [
            sys.executable,
            "-m",
            "benchmarks.peers.programs.watch_topic",
            task.brokers,
            out_of(task),
        ]
        if self.peer:
            return [self.peer.command(task), (watch, python)]
        worker: list[str | Path] = [
            sys.executable,
            "-m",
            "streamkit",
            "worker",
            PROGRAMS / "streamkit_topology.py",
            "--quiet",
        ]
        told = {**python, "STREAMKIT_BROKERS": task.brokers, "STREAMKIT_DATA": task.directory}
        return [(worker, told), ([*watch[:2], "benchmarks.peers.programs.watch_view"], told)]


def timed() -> list[Timed]:
    by_name = {peer.name: peer for peer in KAFKA_STREAMS}
    view = "until `View.get` of another process has it"
    at_once = {"statestore.cache.max.bytes": "0", "producer.linger.ms": "1"}
    return [
        Timed("streamkit", "StreamKit, exactly once, Checkpoint 1 s", view, {"checkpoint": "1s"}),
        Timed("streamkit-100ms", "StreamKit, exactly once, Checkpoint 100 ms", view, {"checkpoint": "100ms"}),
        Timed("streamkit-10ms", "StreamKit, exactly once, Checkpoint 10 ms", view, {"checkpoint": "10ms"}),
        Timed("streamkit-5ms", "StreamKit, at least once, Checkpoint 5 ms", view,
              {"checkpoint": "5ms", "guarantee": "at_least_once"}),
        Timed("kafka-streams-100ms", "Kafka Streams, exactly once, 100 ms", ON_TOPIC, {},
              by_name["kafka-streams-100ms"]),
        Timed("kafka-streams", "Kafka Streams, at least once, no cache", ON_TOPIC, at_once, by_name["kafka-streams"]),
        Timed("quix", "Quix Streams, at least once", ON_TOPIC, {}, quix.PEERS[0]),
    ]  # fmt: skip


def out_of(task: Task) -> str:
    return f"{task.group}-out"


def measure(brokers: str, run: str, directory: Path, peers: Sequence[Peer], failed: Mapping[str, str],
            options: argparse.Namespace) -> dict[str, Found]:  # fmt: skip
    """All rates of all of these peers that are timed."""
    ads = directory / "probes.json"
    ads.write_text(json.dumps(rate.all_campaigns()))
    asked = {peer.name for peer in peers}
    found: dict[str, Found] = {}
    for each in timed():
        also = INTERVAL.sub("", each.name) in asked and not options.small
        if each.name not in asked and not also:
            continue
        about: Found = {"title": each.title, "timed": each.timed, "version": each.peer.version if each.peer else ""}
        found[each.name] = about
        if why := failed.get(each.name) or _prepared(each):
            about["failed"] = why
            continue
        about["rates"] = {}
        for events_per_second in options.rates:
            task = _task(each, brokers, f"{run}-{each.name}-{events_per_second}-latency", directory, ads)
            try:
                at = _figures(_latencies(each, task, events_per_second, options.seconds))
            except RunError as error:
                at = {"failed": str(error)}
            about["rates"][str(events_per_second)] = at
            print(f"latency: {each.name} at {events_per_second:,} events/s: {at}", file=sys.stderr, flush=True)
    return found


def _prepared(each: Timed) -> str:
    """Why it cannot be had, empty where it can: a peer may be timed that is not among those asked for."""
    try:
        if each.peer and not each.peer.version:
            each.peer.prepare()
    except (SetupError, StreamkitError) as error:
        return f"cannot be had here: {error}"
    return ""


def _task(each: Timed, brokers: str, name: str, directory: Path, ads: Path) -> Task:
    (directory / name).mkdir()
    own = dict(each.peer.settings) if each.peer else {}
    task = Task(
        brokers=brokers, topic=f"{name}-events", partitions=events.PARTITIONS, job="latency", events=sys.maxsize,
        total=sys.maxsize, group=name, directory=str(directory / name), ads=str(ads),
        settings={**own, **each.settings, "job.out": f"{name}-out"},
    )  # fmt: skip
    events.create(brokers, task.topic)
    events.create(brokers, out_of(task))
    return task


def _figures(seconds: Sequence[float]) -> Found:
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50": round(cuts[49] * 1e3, 1), "p99": round(cuts[98] * 1e3, 1), "probes": len(seconds)}


class Lines:
    """What a process says of probes, as it comes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.at: dict[int, float] = {}
        self.end: dict[str, Any] = {}
        self.process = process
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            told = json.loads(line)
            if "probe" in told:
                self.at[told["probe"]] = told["at"] / 1e9
            else:
                self.end = told


def _waiting(process: subprocess.Popen[bytes], directory: Path) -> Callable[[Callable[[], bool], float, str], None]:
    """Waits for a condition while the process runs. Raises RunError if it ends, or with what is told, after so long."""

    def wait(condition: Callable[[], bool], patience: float, what: str) -> None:
        deadline = time.monotonic() + patience
        while not condition():
            if (code := process.poll()) is not None:
                raise RunError(f"the program ended with {code}. Its last words:\n{said(directory)}")
            if time.monotonic() > deadline:
                raise RunError(what)
            time.sleep(0.02)

    return wait


def _latencies(each: Timed, task: Task, events_per_second: int, seconds: float) -> list[float]:
    """Seconds from sent to seen of the probes sent in so many seconds. Raises RunError."""
    directory = Path(task.directory)
    with ExitStack() as closers:

        def start(command: Sequence[str | Path], environment: Mapping[str, str], stdout: int | None) -> Any:
            process = launch(command, directory, {**environment, VARIABLE: task.dump()}, stdout)
            closers.callback(kill_all, process)
            return process

        peer, watch = each.processes(task)
        running = start(*peer, subprocess.DEVNULL)
        sender = _sender(task, events_per_second)
        closers.callback(kill_all, sender)
        sent, seen = Lines(sender), Lines(start(*watch, subprocess.PIPE))

        wait = _waiting(running, directory)

        def caught_up() -> bool:
            newest = max(seen.at, default=-1)
            return newest in sent.at and seen.at[newest] - sent.at[newest] < CAUGHT_UP_SECONDS

        wait(caught_up, PATIENCE_SECONDS, "does not keep up")
        first = max(sent.at) + int(min(SETTLE_SECONDS, seconds) / rate.PROBE_SECONDS)
        last = first + int(seconds / rate.PROBE_SECONDS)
        wait(lambda: max(sent.at) >= last, 2 * (SETTLE_SECONDS + seconds), "the sender does not keep up")
        assert sender.stdin
        sender.stdin.close()
        sender.wait()
        sent.thread.join()
        if sent.end["sent"] < KEPT_UP * events_per_second * sent.end["seconds"]:
            raise RunError(f"only {sent.end['sent'] / sent.end['seconds']:,.0f} events/s could be sent")
        wanted = [probe for probe in sent.at if probe >= first]
        wait(lambda: all(probe in seen.at for probe in wanted), PATIENCE_SECONDS, "does not keep up")
        return [seen.at[probe] - sent.at[probe] for probe in wanted]


def _sender(task: Task, events_per_second: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.peers.rate", task.brokers, task.topic, str(events_per_second)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True)
