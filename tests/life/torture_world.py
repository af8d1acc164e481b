"""What is tortured: workers in processes, batch runs, a load, readers that ask all the time, on one broker."""

from __future__ import annotations

import faulthandler
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from streamkit.broker import EmbeddedBroker
from streamkit.errors import StreamkitError
from streamkit.folder import DataFolder
from streamkit.native.loader import SWITCH
from tests.kafka.site import ROOT, Site, make_site
from tests.life.app import Click, topology
from tests.life.torture_check import RUBBISH, Asker, Difference, Input, compare_outputs

APP = ROOT / "tests" / "life" / "torture_app.py"
PATIENCE = 150.0
OUTAGE = 20.0
"""Seconds after a broker's fault in which a process may leave because none answered when it started."""
MOST_COMPLAINTS = 4
"""Processes may leave without being told to so often in a schedule: they are started again, as a supervisor does."""
_TICK = 0.05


@dataclass
class Process:
    """A worker or a batch run, and what is to become of it."""

    label: str
    root: Path
    said: Path
    process: subprocess.Popen[bytes]
    hold: float = 1.0
    """Seconds after which it is woken where it was stopped."""
    wake: float | None = None
    torn: bool = False
    """It runs on a copy of files that were being written: it may find them unusable, and say so."""

    def stopped(self) -> bool:
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] in "Tt"

    def words(self) -> str:
        return self.said.read_text(errors="replace").strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Load(threading.Thread):
    """Sends clicks, and a few records that are none, until it is stopped."""

    def __init__(self, site: Site, seed: str, rate: int) -> None:
        super().__init__(name="load", daemon=True)
        self._site, self._random, self._burst = site, random.Random(seed), max(1, rate // 10)
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            # What the log has is what counts: a record that was given up may be there, or not.
            with suppress(StreamkitError), closing(self._site.log.writer()) as writer:
                while not self._over.is_set():
                    for _ in range(self._random.randint(1, self._burst)):
                        key, value = self._record()
                        writer.send(self._site.topic, value, key=key)
                    writer.flush()
                    self._over.wait(0.05)
            self._over.wait(_TICK)

    def stop(self, seconds: float = PATIENCE) -> bool:
        """False where it is still at it."""
        self._over.set()
        self.join(seconds)
        return not self.is_alive()

    def _record(self) -> tuple[bytes | None, bytes]:
        draw = self._random
        if draw.random() < 0.01:
            return draw.choice([None, b"u1", b"u2"]), draw.choice(RUBBISH)
        click = Click(
            f"c{draw.randrange(8)}", f"u{draw.randrange(30)}", draw.randrange(-5, 500), draw.randrange(90_000)
        )
        topic = self._site.app.topics[self._site.topic]
        return topic.key_of(click), topic.encode(click)


@dataclass
class World:
    """One schedule's application. `tick` is to be called often: it buries the dead and wakes the stopped."""

    broker: EmbeddedBroker
    site: Site
    seed: str
    standbys: int
    rate: int
    workers: list[Process] = field(default_factory=list)
    others: list[Process] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    """What processes said that left without being told to."""
    _number: int = 0
    _outage: float = float("-inf")
    _restart: threading.Thread | None = None

    def __post_init__(self) -> None:
        brokers = self.site.brokers
        self.site.data.batch.mkdir(parents=True)
        (self.site.folder / "said").mkdir()
        self.plain = Input(brokers, self.site.topic)
        self.near = self._asker("near", self.site.data, follow=False)
        self.far = self._asker("far", self._node("far"), follow=True)
        self.load = Load(self.site, self.seed, self.rate)
        for thread in (self.near, self.far, self.load):
            thread.start()

    # -- time ---------------------------------------------------------------------------------------------------------

    def rest(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.tick()
            time.sleep(_TICK)

    def until(self, what: str, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Raises Difference where it does not come to be."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                stacks = "".join(map(_where, [*self.workers, *self.others]))
                askers = "; ".join(asker.where() for asker in (self.near, self.far))
                raise Difference(f"{what}: not after {seconds:g} s; {askers}{stacks}")
            self.tick()
            time.sleep(_TICK)

    def tick(self) -> None:
        for asker in (self.near, self.far):
            if asker.failure is not None:
                raise asker.failure
        for one in [*self.workers, *self.others]:
            if one.process.poll() is not None:
                self._bury(one)
            elif one.wake is not None and time.monotonic() > one.wake:
                one.wake = None
                one.process.send_signal(signal.SIGCONT)
            elif one.wake is None and one.stopped():
                one.wake = time.monotonic() + one.hold
                self.counts["stopped"] += 1

    def _bury(self, one: Process) -> None:
        (self.workers if one in self.workers else self.others).remove(one)
        status, words = one.process.returncode, one.words()
        if found := re.search(r"([1-9][\d,]*) differences to the speed layer", words):
            raise Difference(f"{one.label}: {found[0]}\n{words}")
        if status in (0, -signal.SIGKILL, -signal.SIGTERM):  # by SIGTERM: it had hardly begun
            return
        no_broker = "no Kafka broker answers" in words and time.monotonic() - self._outage < OUTAGE
        kind = "no broker" if no_broker else "torn copy" if one.torn else "complaint"
        self.counts[f"left: {kind}"] += 1
        if kind == "complaint":
            self.complaints.append(f"{one.label} left with {status}:\n{words[-2000:]}")
            if len(self.complaints) > MOST_COMPLAINTS:
                raise Difference(f"processes leave again and again, the last one, {self.complaints[-1]}")

    # -- processes ----------------------------------------------------------------------------------------------------

    def start_worker(self, torture: str = "", *, hold: float = 1.0, root: Path | None = None) -> Process:
        command = ["worker", str(APP), "--checkpoint", "100ms"]
        worker = self._start(f"worker ({torture})" if torture else "worker", command, torture, root)
        worker.hold = hold
        self.workers.append(worker)
        return worker

    def start_batch(self, *views: str) -> Process:
        command = ["batch", str(APP), *views, "--seal-seconds", "4", "--split-records", "2000", "--processes", "1"]
        self.others.append(batch := self._start("batch", command))
        return batch

    def _start(self, label: str, arguments: Sequence[str], torture: str = "", root: Path | None = None) -> Process:
        self._number += 1
        said = self.site.folder / "said" / f"{self._number}.txt"
        root = root or self.site.folder
        environment = {
            **self.site.environment(), "LIFE_STANDBYS": str(self.standbys), "TORTURE": torture,
            "STREAMKIT_DATA": str(root), SWITCH: ("on", "off", "auto")[self._number % 3],
        }  # fmt: skip
        command = [sys.executable, "-m", "tests.life.torture_worker", *arguments]
        with said.open("wb") as out:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=ROOT)
        return Process(f"{label} {self._number}", root, said, process)

    def slot_of(self, worker: Process) -> Path | None:
        """The slot of the data folder that a worker has claimed."""
        for slot in DataFolder.of(self.site.name, worker.root).slots():
            with suppress(OSError, ValueError):
                if json.loads(slot.note.read_text()).get("pid") == worker.process.pid:
                    return slot.path
        return None

    # -- broker -------------------------------------------------------------------------------------------------------

    def restart_broker(self, *, kill: bool) -> None:
        """Stop and start it, in a thread: other faults come meanwhile."""
        self.broker_is_back()

        def restart() -> None:
            pid = self.broker.status().pid
            if kill and pid is not None:
                os.kill(pid, signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            else:
                self.broker.stop()
            self.broker.start()
            self._outage = time.monotonic()

        self._outage = float("inf")
        self._restart = threading.Thread(target=restart, name="broker")
        self._restart.start()

    def broker_is_back(self) -> None:
        if self._restart is not None:
            while self._restart.is_alive():
                self.rest(_TICK)
            self._restart = None
            if not self.broker.status().running:
                raise RuntimeError(f"the broker did not come back: {self.broker.logs()}")

    # -- readers ------------------------------------------------------------------------------------------------------

    def _asker(self, name: str, folder: DataFolder, *, follow: bool) -> Asker:
        app = topology(self.site.topic, name=self.site.name)
        return Asker(name, app, self.site.brokers, folder, self.plain, f"{self.seed}/{name}", follow=follow)

    def _node(self, name: str) -> DataFolder:
        """A data folder of its own, but for the BatchViews, which nodes share."""
        folder = DataFolder.of(self.site.name, self.site.folder / name)
        folder.path.mkdir(parents=True)
        folder.batch.symlink_to(self.site.data.batch)
        return folder

    # -- the end ------------------------------------------------------------------------------------------------------

    def settle(self) -> int:
        """The faults are over: whoever still runs must come to the log's end by itself. Returns records compared."""
        self.broker_is_back()
        self.load.stop()
        for worker in self.workers:
            if worker.root != self.site.folder:  # nobody would read what it makes there
                worker.process.kill()
        if not self.workers:
            self.start_worker()
        self.until("batch runs end", lambda: not self.others)
        ends = self._patiently_ends()
        self.until(f"the workers come to {ends}", lambda: self._come_to(ends))
        for worker in list(self.workers):
            worker.process.send_signal(random.Random(self.seed).choice([signal.SIGTERM, signal.SIGKILL]))
        self.until("workers leave", lambda: not self.workers, 30)
        last = self._start("last worker", ["worker", str(APP), "--until-caught-up"])
        self.others.append(last)
        self.until("the last worker catches up", lambda: last.process.poll() is not None)
        if last.process.returncode:
            raise Difference(f"worker --until-caught-up left with {last.process.returncode}: {last.words()}")
        return self._compare_all(ends)

    def _come_to(self, ends: dict[int, int]) -> bool:
        if not self.workers:
            self.start_worker()
        return self.near.came_to(ends) and self.far.came_to(ends)

    def _patiently_ends(self) -> dict[int, int]:
        for _ in range(10):
            with suppress(StreamkitError):
                return self.site.log.ends(self.site.topic)
        return self.site.log.ends(self.site.topic)

    def _compare_all(self, ends: dict[int, int]) -> int:
        outputs = compare_outputs(self.site.log, self.plain, ends)
        fresh = self._asker("fresh", self._node("fresh"), follow=False)
        fresh.start()
        self.until("a fresh node comes to the end", lambda: fresh.failure is not None or fresh.came_to(ends))
        fresh.stop(PATIENCE)
        if fresh.failure is not None:
            raise fresh.failure
        self.counts["answers"] += fresh.compared
        return outputs + sum(ends.values())

    def close(self) -> None:
        for one in [*self.workers, *self.others]:
            one.kill()
        if self._restart is not None:
            self._restart.join()
        for thread in (self.load, self.near, self.far):
            if not thread.stop(PATIENCE):
                self.complaints.append(f"{thread.name} is not back after {PATIENCE:g} s; stacks are on standard error")
                faulthandler.dump_traceback()
        for asker in (self.near, self.far):
            self.counts["answers"] += asker.compared
            self.counts.update({f"refused: {why}": count for why, count in asker.refused.items()})
        self.plain.close()

    def discard(self) -> None:
        """Leave nothing on the broker and on the disk."""
        for topic in self.site.log.topics():
            if self.site.name in topic:
                self.site.log.delete(topic)
        shutil.rmtree(self.site.folder)


def _where(one: Process) -> str:
    """What a process says last: its threads' stacks."""
    one.process.send_signal(signal.SIGUSR1)
    with suppress(subprocess.TimeoutExpired):
        one.process.wait(1.0)
    return f"\n--- {one.label} (pid {one.process.pid}):\n{one.words()[-4000:]}"


def make_world(broker: EmbeddedBroker, brokers: str, folder: Path, name: str, seed: str, rate: int) -> World:
    folder.mkdir(parents=True)
    standbys = random.Random(seed).choice([0, 1])
    return World(broker, make_site(brokers, name, folder), seed, standbys, rate)
