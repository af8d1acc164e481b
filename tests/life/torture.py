"""Workers, broker, disk and readers under a seeded schedule of faults, with every Answer and output compared.

    python -m tests.life.torture --seed 1 --schedules 20 --minutes 10

The schedule is the seed's; what it hits is a matter of microseconds. A difference is told with the seed, the schedule
so far and what differs first; its data and what its processes said stay where the report says.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import random
import shutil
import signal
import sys
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple, TypeVar

from streamkit.broker import BrokerSettings, EmbeddedBroker
from tests.life.torture_check import Difference
from tests.life.torture_worker import POINTS
from tests.life.torture_world import Process, World, make_world

T = TypeVar("T")

OFTEN = (
    "ahead",
    "changelog.apply",
    "committer",
    "store",
    "worker.settle",
    "worker.commit",
    "worker.write",
    "worker.report",
)
"""Points that are passed at every Checkpoint, so that a later pass is as good a moment."""
COMMITS = ("committer.begin", "committer.flush", "committer.offsets", "committer.commit")
HOLDS = (1.0, 5.5, 5.5, 7.0, 17.0)
"""Seconds a process is stopped for: the session lasts 4, a transaction 15."""


class Step(NamedTuple):
    """One fault: after `wait` seconds, at the worker picked; `torture` and `hold` are for the one that is started."""

    kind: str
    wait: float
    pick: int
    torture: str
    hold: float

    def __str__(self) -> str:
        return f"after {self.wait:.2f} s {self.kind} (pick {self.pick}, hold {self.hold:g} s) {self.torture}".rstrip()


def schedule(seed: int, number: int, faults: int) -> list[Step]:
    """The seed's schedule of this number; together they come to every kind of fault and every point in turn.

    >>> schedule(1, 2, 3) == schedule(1, 2, 3)
    True
    """
    draw = random.Random(f"{seed}/{number}")
    kinds = _dealt(seed, [kind for kind, weight in WEIGHTS.items() for _ in range(weight)])
    before = Counter(itertools.islice(kinds, number * faults))
    kills = _dealt(seed, [(w, p) for p in POINTS for w in ("before", "after")], before["die"])
    stops = _dealt(seed, [(w, p) for p in (*POINTS, *COMMITS * 4) for w in ("before", "after")], before["freeze"])
    steps = []
    for kind in itertools.islice(kinds, faults):
        torture = ""
        if kind in ("die", "freeze"):
            when, point = next(kills if kind == "die" else stops)
            call = draw.randint(1, 5) if point.startswith(OFTEN) else 1
            torture = f"{'kill' if kind == 'die' else 'stop'} {when} {point} {call}"
        elif kind == "slow":
            torture = f"slow before store.write {draw.choice([50, 300, 1500])}"
        steps.append(Step(kind, draw.uniform(0, 1.5), draw.randrange(1000), torture, draw.choice(HOLDS)))
    return steps


def _dealt(seed: int, cards: list[T], begin: int = 0) -> Iterator[T]:
    """The cards over and over in the seed's order, from number `begin` on."""
    random.Random(seed).shuffle(cards)
    return itertools.islice(itertools.cycle(cards), begin, None)


# -- what each kind of fault does -------------------------------------------------------------------------------------


def _picked(world: World, step: Step) -> Process | None:
    return world.workers[step.pick % len(world.workers)] if world.workers else None


def _kill(world: World, step: Step) -> None:
    if worker := _picked(world, step):
        worker.process.kill()
    world.start_worker()


def _die(world: World, step: Step) -> None:
    """Somebody is killed at a named point; a late point may never come: then it is not."""
    if len(world.workers) > 1 and (worker := _picked(world, step)):
        worker.process.kill()
    dies = world.start_worker(step.torture)
    point = step.torture.split()[2]
    world.rest(3)
    if point in ("worker.give_up", "group.revoked"):
        world.start_worker()  # takes its share
    elif point == "control.append" and not world.others:
        world.start_batch("total")  # asks for a seal
    deadline = time.monotonic() + 6
    while dies.process.poll() is None and time.monotonic() < deadline:
        world.rest(0.1)
    world.counts["died at a point"] += dies.process.poll() is not None


def _freeze(world: World, step: Step) -> None:
    if len(world.workers) > 1 and (worker := _picked(world, step)):
        worker.process.send_signal(signal.SIGTERM)
    world.start_worker(step.torture, hold=step.hold)
    world.rest(3)


def _pause(world: World, step: Step) -> None:
    if worker := _picked(world, step):
        worker.hold = step.hold
        worker.process.send_signal(signal.SIGSTOP)


def _add(world: World, _: Step) -> None:
    world.start_worker()


def _leave(world: World, step: Step) -> None:
    if worker := _picked(world, step):
        worker.process.send_signal(signal.SIGTERM)


def _slow(world: World, step: Step) -> None:
    _leave(world, step)
    world.start_worker(step.torture)
    world.rest(3)


def _lose_disk(world: World, step: Step) -> None:
    if (worker := _picked(world, step)) and (slot := world.slot_of(worker)):
        worker.kill()
        shutil.rmtree(slot / "state", ignore_errors=True)
    world.start_worker()


def _twins(world: World, _: Step) -> None:
    """Two at once on the same data folder: each must find a part of its own."""
    world.start_worker()
    world.start_worker()
    world.rest(2)


def _copy(world: World, step: Step) -> None:
    """One on a copy of a running one's folder, by the same name; then one of the two goes."""
    if not (worker := _picked(world, step)) or not (slot := world.slot_of(worker)) or not (slot / "name").exists():
        return world.counts.update({"copy: nothing to copy": 1})
    root = world.site.folder / f"copy-{uuid.uuid4().hex[:6]}"
    place = root / world.site.name / "workers" / "0"
    place.mkdir(parents=True)
    shutil.copy(slot / "name", place / "name")
    try:
        shutil.copytree(slot / "state", place / "state")
    except (OSError, shutil.Error):  # files that went away meanwhile
        world.counts["copy: torn"] += 1
    twin = world.start_worker(root=root)
    twin.torn = True
    world.rest(5)
    (worker if step.pick % 2 else twin).process.kill()
    world.rest(1)
    return None


def _batch(world: World, step: Step) -> None:
    views = ((), ("tumbling",), ("hopping",), ("session",), ("total",))[step.pick % 5]
    if not world.others:
        world.start_batch(*views)


def _kill_batch(world: World, step: Step) -> None:
    _batch(world, step)
    world.rest(step.pick / 1000 * 5)
    for batch in world.others:
        batch.process.kill()


def _reopen(world: World, step: Step) -> None:
    (world.far if step.pick % 2 else world.near).reopen()


def _broker(world: World, _: Step) -> None:
    world.restart_broker(kill=False)


def _kill_broker(world: World, _: Step) -> None:
    world.restart_broker(kill=True)


FAULTS: dict[str, Callable[[World, Step], None]] = {
    "kill": _kill, "die": _die, "freeze": _freeze, "pause": _pause, "add": _add, "leave": _leave, "slow": _slow,
    "lose_disk": _lose_disk, "twins": _twins, "copy": _copy, "batch": _batch, "kill_batch": _kill_batch,
    "reopen": _reopen, "broker": _broker, "kill_broker": _kill_broker,
}  # fmt: skip
WEIGHTS = dict.fromkeys(FAULTS, 1) | {"die": 5, "freeze": 4, "kill": 2, "pause": 2, "batch": 3, "copy": 2}
MOST = 3
"""Workers at a time: beyond that, some are told to leave."""


# -- schedules --------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    schedules: int = 0
    records: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    difference: str = ""

    def line(self) -> str:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items()))
        others = ", ".join(f"{what} {count}" for what, count in sorted(self.counts.items()) if what != "answers")
        return (
            f"{self.schedules} schedules, {self.faults.total()} faults ({kinds}); {self.records:,} records checked, "
            f"{self.counts['answers']:,} Answers compared, {int(bool(self.difference))} differences, "
            f"{len(self.complaints)} complaints [{others}]"
        )


class Torture:
    """Schedules one after the other on one broker."""

    def __init__(self, data: Path, port: int, *, rate: int = 400, say: Callable[[str], None] = print) -> None:
        self.data, self.rate, self._say = data, rate, say
        self.report = Report()
        self._broker = EmbeddedBroker(BrokerSettings(data / "broker", port=port, heap="512m"))

    def run(self, seed: int, numbers: Iterator[int], *, faults: int, minutes: float) -> Report:
        """Until the numbers or the minutes are over, or something differs."""
        deadline = time.monotonic() + minutes * 60
        try:
            brokers = self._broker.start()
            for number in numbers:
                if time.monotonic() > deadline or not self._one(brokers, seed, number, faults):
                    break
        finally:
            self._broker.stop()
        return self.report

    def _one(self, brokers: str, seed: int, number: int, faults: int) -> bool:
        """One schedule; False where something differs."""
        steps, done, began = schedule(seed, number, faults), list[str](), time.monotonic()
        name = f"torture-{seed}-{number}-{uuid.uuid4().hex[:6]}"
        world = make_world(self._broker, brokers, self.data / name, name, f"{seed}/{number}", self.rate)
        try:
            self._suffer(world, steps, done, began)
            self.report.records += world.settle()
        except Exception as failure:
            told = str(failure) if isinstance(failure, Difference) else traceback.format_exc()
            lines = "\n  ".join(done)
            self.report.difference = (
                f"DIFFERENCE, seed {seed}, schedule {number} (standbys {world.standbys}), after "
                f"{time.monotonic() - began:.1f} s; data in {world.site.folder}\n  {lines}\n{told}"
            )
        finally:
            world.close()
            self.report.schedules += 1
            self.report.counts += world.counts
            self.report.complaints += [f"seed {seed}, schedule {number}: {c}" for c in world.complaints]
        for complaint in world.complaints:
            self._say(f"complaint, seed {seed}, schedule {number}: {complaint}")
        self._say(f"schedule {seed}/{number}: {time.monotonic() - began:.0f} s; so far {self.report.line()}")
        if not self.report.difference:
            world.discard()
        return not self.report.difference

    def _suffer(self, world: World, steps: list[Step], done: list[str], began: float) -> None:
        for _ in range(2):
            world.start_worker()
        world.rest(2)
        for step in steps:
            world.rest(step.wait)
            done.append(f"{time.monotonic() - began:.1f} s: {step}")
            self.report.faults[step.kind] += 1
            FAULTS[step.kind](world, step)
            if not world.workers:
                world.start_worker()
            for worker in world.workers[: -MOST or None]:
                worker.process.send_signal(signal.SIGTERM)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schedules", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first schedule, to run one again")
    parser.add_argument("--minutes", type=float, default=10.0, help="begin no schedule after so long")
    parser.add_argument("--faults", type=int, default=8, help="faults in a schedule")
    parser.add_argument("--rate", type=int, default=400, help="records a second, roughly")
    parser.add_argument("--data", type=Path, help="where broker and workers have their data; default: a new one")
    parser.add_argument("--port", type=int, default=0, help="of the broker; 0: a free one")
    given = parser.parse_args()
    faulthandler.register(signal.SIGUSR1)
    data = given.data or Path(mkdtemp(prefix="streamkit-torture-"))
    torture = Torture(data, given.port, rate=given.rate, say=lambda line: print(line, flush=True))
    numbers = iter(range(given.first, given.first + given.schedules))
    report = torture.run(given.seed, numbers, faults=given.faults, minutes=given.minutes)
    print(report.difference or report.line())
    return 1 if report.difference or report.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
