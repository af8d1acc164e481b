"""Followers: copies of tasks that are restored, followed, dropped and made anew; and who keeps standby copies."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamkit.changelog import block
from streamkit.changelog.changelogs import Changelogs
from streamkit.changelog.compaction import Compaction
from streamkit.changelog.follower import Follower
from streamkit.changelog.state import position_of
from streamkit.checkpoint import (
    BLOCK_KEY,
    COMPACTION_KEY,
    FORMAT_VERSION,
    MARK_KEY,
    Mark,
    changelog_topic,
    pack,
    task_prefix,
    task_range,
)
from streamkit.errors import StateError
from streamkit.log.base import Change
from streamkit.log.memory import MemoryLog
from streamkit.record import TopicPartition
from streamkit.serving.copies import Copies
from streamkit.speed.assignment import standby_tasks
from streamkit.store.base import Write
from streamkit.store.memory import MemoryReader, MemoryStore

TASK = TopicPartition("in", 0)


class Counting(MemoryStore):
    """Remembers how many keys each Write has put."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[int] = []

    def write(self, write: Write) -> None:
        self.writes.append(len([*write.puts, *write.deletes]))
        super().write(write)


class Place:
    """A changelog of two tasks, what its worker writes there, and one store."""

    def __init__(self) -> None:
        self.log, self.store = MemoryLog(), Counting()
        self.changelogs = Changelogs(self.log, "app")
        self.changelogs.make(TASK.topic, 2)

    @property
    def end(self) -> int:
        return self.log.ends(changelog_topic("app", TASK.topic))[TASK.partition]

    def append(self, changes: Iterable[Change], *, task: TopicPartition = TASK) -> None:
        """Blocks of one change each, without a Mark: a part of a Checkpoint."""
        prefix = task_prefix(task)
        self.send([(BLOCK_KEY, packed) for k, v in changes for packed in block.pack([(prefix + k, v)])], task)

    def send(self, records: Iterable[Change], task: TopicPartition = TASK) -> None:
        with closing(self.log.writer()) as writer:
            for key, value in records:
                writer.send(changelog_topic("app", task.topic), value, key=key, partition=task.partition)

    def checkpoint(self, changes: Iterable[Change], *, task: TopicPartition = TASK) -> None:
        self.append(changes, task=task)
        self.send([(MARK_KEY, pack(Mark(FORMAT_VERSION, int(time.time() * 1000), "worker")))], task)

    def compacted(self, changes: Iterable[Change], start: int) -> None:
        """A Checkpoint by which the changelog has it all from `start` on."""
        self.checkpoint([*changes, (COMPACTION_KEY, pack(Compaction(start)))])

    def cut(self, start: int) -> None:
        self.log.delete_records(changelog_topic("app", TASK.topic), {TASK.partition: start})

    def follower(self, *tasks: TopicPartition) -> Follower:
        follower = Follower(self.log, self.changelogs, self.store)
        follower.follow(tasks or [TASK])
        return follower

    def restore(self) -> int:
        """A new Follower brings the copy to the end; returns the records that it read."""
        with closing(self.follower()) as follower:
            return drain(follower)

    def copy(self, task: TopicPartition = TASK) -> dict[bytes, bytes]:
        """What the store's copy of a task holds, without the Mark."""
        prefix = task_prefix(task)
        found = {key[len(prefix) :]: value for key, value in self.store.scan(*task_range(task))}
        return {key: value for key, value in found.items() if key not in (MARK_KEY, COMPACTION_KEY)}

    def shown(self, task: TopicPartition = TASK) -> bool:
        """Do readers see the copy?"""
        copies = Copies(self.changelogs, lambda: [MemoryReader(self.store)])
        copies.refresh()
        return copies.of(task) is not None

    def make_anew(self) -> None:
        """As `streamkit reset` and the worker after it do."""
        self.log.delete(changelog_topic("app", TASK.topic))
        self.changelogs.forget()
        self.changelogs.make(TASK.topic, 2)


def drain(follower: Follower, batch: int = 100) -> int:
    count = 0
    while read := follower.step(max_records=batch):
        count += read
    return count


def changes(numbers: Iterable[int], keys: int = 7) -> list[Change]:
    """The same keys again and again; now and then one is deleted."""
    return [(b"k%d" % (n % keys), None if n % 5 == 4 else b"%d" % n) for n in numbers]


def result(made: Sequence[Change]) -> dict[bytes, bytes]:
    return {key: value for key, value in dict(made).items() if value is not None}


@pytest.fixture
def place() -> Place:
    return Place()


# -- restoring --------------------------------------------------------------------------------------------------------


def test_a_copy_is_restored_in_batches_each_with_the_last_value_of_a_key(place: Place) -> None:
    made = changes(range(999))
    place.checkpoint(made)
    place.store.writes.clear()
    assert place.restore() == 1_000
    assert place.copy() == result(made)
    assert len(place.store.writes) <= 1 + 10 + 1, "one Write a batch, and one each for a new copy and a whole one"
    assert max(place.store.writes) <= 7 + 2, "each key once, with the Mark and the Position"


def test_a_new_follower_goes_on_where_the_one_before_was_dropped(place: Place) -> None:
    made = changes(range(999))
    place.checkpoint(made)
    first = place.follower()
    read = first.step(max_records=300)
    first.close()  # killed: what it had read and not applied is nothing
    position = position_of(place.store, TASK)
    assert position is not None
    assert (position.offset, position.whole) == (read, False)
    assert read + place.restore() == 1_000
    assert place.copy() == result(made)
    assert place.restore() == 0, "a copy that is up to date is not read again"


def test_a_copy_that_is_being_restored_is_shown_to_nobody(place: Place) -> None:
    place.checkpoint(changes(range(99)))
    place.restore()
    assert place.shown()
    place.checkpoint(changes(range(100, 299)))
    with closing(place.follower()) as follower:
        follower.step(max_records=50)
        assert not follower.restored(TASK)
        assert not place.shown()
        restoring = follower.restoring()
        assert (restoring.tasks, restoring.done, restoring.total) == (1, 50, 200)
        drain(follower)
        assert follower.restored(TASK)
        assert follower.restoring().tasks == 0
    assert place.shown()


def test_an_empty_changelog_is_restored_at_once(place: Place) -> None:
    with closing(place.follower()) as follower:
        assert follower.restored(TASK)
    assert place.shown()
    assert place.copy() == {}


def test_control_records_at_the_end_are_passed(place: Place) -> None:
    place.checkpoint(changes(range(9)))
    for _ in range(2):
        place.log.gap(changelog_topic("app", TASK.topic), TASK.partition)
    place.restore()
    assert restored_to(place) == place.end == 12
    place.log.gap(changelog_topic("app", TASK.topic), TASK.partition)  # nothing else has come since
    place.restore()
    assert restored_to(place) == place.end == 13


def restored_to(place: Place) -> int:
    position = position_of(place.store, TASK)
    assert position is not None
    assert position.whole
    return position.offset


def test_tasks_are_restored_apart_from_each_other(place: Place) -> None:
    other = TopicPartition(TASK.topic, 1)
    place.checkpoint(changes(range(500)))
    place.checkpoint([(b"k", b"other")], task=other)
    with closing(place.follower(TASK, other)) as follower:
        while not follower.restored(other):
            follower.step(max_records=10)
        follower.drop([other])
        assert follower.following() == {TASK}
        drain(follower)
    assert (place.copy(), place.copy(other)) == (result(changes(range(500))), {b"k": b"other"})


# -- following --------------------------------------------------------------------------------------------------------


def test_a_part_of_a_checkpoint_is_not_shown_before_its_mark(place: Place) -> None:
    place.checkpoint([(b"a", b"1"), (b"b", b"1")])
    with closing(place.follower()) as follower:
        drain(follower)
        place.append([(b"a", b"2"), (b"b", None)])
        assert drain(follower) == 2
        assert place.copy() == {b"a": b"1", b"b": b"1"}
        place.checkpoint([(b"c", b"2")])
        drain(follower)
        assert place.copy() == {b"a": b"2", b"c": b"2"}
    assert restored_to(place) == place.end


def test_what_comes_while_a_copy_is_restored_waits_for_its_mark(place: Place) -> None:
    place.checkpoint([(b"a", b"1"), (b"b", b"1")])
    with closing(place.follower()) as follower:
        place.append([(b"a", b"2")])
        assert drain(follower) == 4, "in one batch"
        assert follower.restored(TASK)
        assert place.copy() == {b"a": b"1", b"b": b"1"}
        place.checkpoint([(b"b", b"2")])
        drain(follower)
        assert place.copy() == {b"a": b"2", b"b": b"2"}


def test_several_checkpoints_at_once_are_shown_one_after_the_other(place: Place) -> None:
    place.checkpoint([(b"a", b"1")])
    with closing(place.follower()) as follower:
        drain(follower)
        place.store.writes.clear()
        for n in range(3):
            place.checkpoint([(b"a", b"%d" % n), (b"b%d" % n, b"")])
        place.append([(b"a", b"9")])
        drain(follower)
        assert place.copy()[b"a"] == b"2"
        assert len(place.store.writes) == 3


def test_a_follower_that_is_dropped_within_a_checkpoint_begins_that_one_again(place: Place) -> None:
    place.checkpoint([(b"a", b"1")])
    with closing(place.follower()) as follower:
        drain(follower)
        place.append([(b"a", b"2"), (b"b", b"2")])
        drain(follower)
    place.checkpoint([(b"c", b"2")])
    assert place.restore() == 4, "the two that waited for their Mark, and the rest"
    assert place.copy() == {b"a": b"2", b"b": b"2", b"c": b"2"}


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), max_size=12), st.lists(st.integers(1, 25), min_size=1, max_size=30))
def test_whatever_the_batches_the_copy_is_some_checkpoint(sizes: list[int], batches: list[int]) -> None:
    place, made, states = Place(), list[Change](), [dict[bytes, bytes]()]
    with closing(place.follower()) as follower:
        for number, size in enumerate(sizes):
            more = changes(range(number * 10, number * 10 + size))
            place.checkpoint(more)
            made += more
            states.append(result(made))
        for batch in batches:
            follower.step(max_records=batch)
            assert place.copy() in states
        drain(follower)
    assert place.copy() == states[-1]


# -- copies of no use -------------------------------------------------------------------------------------------------


def test_a_changelog_made_anew_has_its_copy_made_anew(place: Place) -> None:
    place.checkpoint([(b"old", b"1"), (b"k", b"1")])
    place.restore()
    place.make_anew()
    assert not place.shown(), "it is a copy of what is no more"
    place.checkpoint([(b"k", b"2")])
    assert place.restore() == 2
    assert place.copy() == {b"k": b"2"}
    assert place.shown()


def test_a_copy_that_was_away_while_its_changelog_was_cut_is_made_anew(place: Place) -> None:
    place.checkpoint([(b"k", b"1"), (b"gone", b"1")])
    place.restore()
    place.checkpoint([(b"gone", None)])
    start = place.end
    place.compacted([(b"k", b"2")], start)
    place.cut(start)
    assert place.restore() == 3, "what is left on the log"
    assert place.copy() == {b"k": b"2"}, "what was deleted while it was away is gone"
    assert place.restore() == 0


def test_a_copy_whose_next_record_is_the_first_of_a_cut_changelog_goes_on(place: Place) -> None:
    place.checkpoint([(b"k", b"1")])
    place.restore()
    start = place.end
    place.compacted([(b"other", b"2")], start)  # that `k` was copied is not true: here it tells a copy made anew
    place.cut(start)
    assert place.restore() == 3
    assert place.copy() == {b"k": b"1", b"other": b"2"}


@pytest.mark.parametrize("whole", [False, True])
def test_a_changelog_that_is_cut_while_it_is_read_is_read_from_its_start(place: Place, whole: bool) -> None:
    place.checkpoint([(b"k%d" % n, b"1") for n in range(20)])
    with closing(place.follower()) as follower:
        follower.step(max_records=5)
        if whole:
            drain(follower)
        place.checkpoint([(b"k3", None)])
        start = place.end
        place.compacted([(b"k%d" % n, b"2") for n in range(20) if n != 3], start)
        place.cut(start)
        drain(follower)
        assert follower.restored(TASK)
        assert place.copy() == {b"k%d" % n: b"2" for n in range(20) if n != 3}


def test_a_changelog_that_somebody_else_has_cut_is_no_truth_any_more(place: Place) -> None:
    place.checkpoint([(b"k", b"1")])
    start = place.end
    place.compacted([(b"k", b"2")], start)
    place.checkpoint([(b"other", b"1")])
    place.cut(start + 1)
    for _ in range(2):  # and it stays so
        with pytest.raises(StateError, match=rf"of in/0, .*began at offset {start + 1} .* from {start} on.* reset "):
            place.restore()
        assert not place.shown()
    place.make_anew()
    place.checkpoint([(b"k", b"3")])
    place.restore()
    assert place.copy() == {b"k": b"3"}


def test_a_changelog_that_retention_has_emptied_is_told_too(place: Place) -> None:
    place.checkpoint([(b"k", b"1")])
    place.cut(place.end)
    with pytest.raises(StateError, match=r"in/0.*began at offset 2 .* from 0 on"):
        place.restore()


def test_what_is_no_block_is_told_with_its_place(place: Place) -> None:
    place.checkpoint([(b"k", b"1")])
    place.send([(b"k", b"v")])
    with pytest.raises(
        StateError, match=r"in/0: the record at streamkit.app.changelog.in/0 offset 2 is no Block.*reset"
    ):
        place.restore()


def test_a_copy_is_anew_before_anything_of_it_is_applied(place: Place) -> None:
    place.checkpoint([(b"k%d" % n, b"1") for n in range(50)])
    place.restore()
    place.make_anew()
    place.checkpoint([(b"other", b"2")])
    with closing(place.follower()):
        assert place.copy() == {}, "nothing of the old one is left"


# -- standbys ---------------------------------------------------------------------------------------------------------

Members = Mapping[str, frozenset[TopicPartition]]


@st.composite
def groups(draw: st.DrawFn) -> Members:
    """Members, idle ones too, and who owns which task."""
    names = draw(st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=6, unique=True))
    owners = draw(st.lists(st.sampled_from(names), max_size=20))
    return {name: frozenset(TopicPartition("t", n) for n, o in enumerate(owners) if o == name) for name in names}


def placed(members: Members, standbys: int) -> dict[TopicPartition, set[str]]:
    """Who keeps a copy of each task."""
    kept = {name: standby_tasks(members, name, standbys) for name in members}
    return {task: {n for n, tasks in kept.items() if task in tasks} for owned in members.values() for task in owned}


@settings(deadline=None)
@given(groups(), st.integers(0, 4))
def test_each_task_has_its_copies_and_none_with_its_owner(members: Members, standbys: int) -> None:
    for task, keepers in placed(members, standbys).items():
        assert len(keepers) == min(standbys, len(members) - 1)
        assert not any(task in members[keeper] for keeper in keepers)


@settings(deadline=None)
@given(groups(), st.integers(1, 3))
def test_a_member_that_comes_takes_copies_and_moves_no_others(members: Members, standbys: int) -> None:
    before, after = placed(members, standbys), placed({**members, "newcomer": frozenset()}, standbys)
    for task, keepers in after.items():
        assert keepers - {"newcomer"} <= before[task]
        assert keepers == before[task] or "newcomer" in keepers


@settings(deadline=None)
@given(groups(), st.integers(1, 3))
def test_a_task_that_changes_hands_moves_one_copy_at_most(members: Members, standbys: int) -> None:
    names = sorted(members)
    task = next((t for owned in members.values() for t in owned), None)
    if task is None:
        return
    for name in names:
        moved = {m: (owned | {task} if m == name else owned - {task}) for m, owned in members.items()}
        before, after = placed(members, standbys), placed(moved, standbys)
        assert len(after[task] - before[task]) <= 1
        assert {t: k for t, k in after.items() if t != task} == {t: k for t, k in before.items() if t != task}


def test_copies_are_spread() -> None:
    members = {f"m{i}": frozenset(TopicPartition("t", n) for n in range(i * 20, i * 20 + 20)) for i in range(5)}
    counts = [len(standby_tasks(members, name, 1)) for name in members]
    assert sum(counts) == 100
    assert max(counts) <= 2 * min(counts)


def test_a_member_that_the_group_does_not_know_keeps_nothing() -> None:
    assert standby_tasks({"m": {TASK}}, "other", 1) == set()
