"""What every Log must do for workers that share a topic: membership in groups; `commit_contracts` goes on from here.

class TestMyGroups(GroupContract):
    def make_log(self) -> Log: ...
    def expire(self, member: Member) -> None: ...
    def committed(self, log: Log, group: str) -> Mapping[TopicPartition, int]: ...
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager

from streamkit.errors import Fenced, LogError, TopicChanged, TopicMissing
from streamkit.log.base import Committer, Log, Member, Reader
from streamkit.record import TopicPartition
from streamkit.testing.contracts import PATIENCE, expect, read

Sources = Collection[TopicPartition]


class Hearer:
    """A GroupListener that writes down what it hears; `then` is called with each word of it."""

    def __init__(self, then: Callable[[str, Sources], None] | None = None) -> None:
        self.heard: list[tuple[str, set[TopicPartition]]] = []
        self.then = then

    def assigned(self, sources: Sources) -> None:
        self._hear("assigned", sources)

    def revoked(self, sources: Sources) -> None:
        self._hear("revoked", sources)

    def lost(self, sources: Sources) -> None:
        self._hear("lost", sources)

    def of(self, word: str) -> set[TopicPartition]:
        return {source for heard, sources in self.heard if heard == word for source in sources}

    def _hear(self, word: str, sources: Sources) -> None:
        self.heard.append((word, set(sources)))
        if self.then is not None:
            self.then(word, sources)


def wait(until: Callable[[], bool], *members: Member) -> None:
    """Poll all members by turns until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < deadline, f"after {PATIENCE} s: {[sorted(member.owned()) for member in members]}"
        for member in members:
            member.poll(0.02)
        if not members:
            time.sleep(0.01)


def share(sources: Sources, *members: Member) -> None:
    """Poll until these members have all of the sources, shared evenly."""
    size, rest = divmod(len(sources), len(members))

    def shared() -> bool:
        sizes = sorted(len(member.owned()) for member in members)
        return sizes == sorted(size + (i < rest) for i in range(len(members)))

    wait(shared, *members)
    assert frozenset().union(*(member.owned() for member in members)) == frozenset(sources)


class Site:
    """A topic of 4 partitions, its changelog, a topic for output, and a group."""

    def __init__(self, log: Log, name: str, closing: ExitStack) -> None:
        self.log, self.name, self.group = log, name, f"{name}-group"
        self.topic, self.changelog, self.output = f"{name}-in", f"{name}-changelog", f"{name}-out"
        self._closing = closing
        self.sources = {TopicPartition(self.topic, number) for number in range(4)}

    def join(self, listener: Hearer | None = None, *topics: str) -> Member:
        member = self.log.join(self.group, topics or [self.topic], listener or Hearer(), name="contract")
        self._closing.callback(member.leave)
        return member

    def owner(self) -> Member:
        """A member that has everything."""
        member = self.join()
        share(self.sources, member)
        return member

    def committer(self, transactional_id: str | None = "") -> Committer:
        """Its id is `name` unless another one is given."""
        found = self.log.committer(self.name if transactional_id == "" else transactional_id)
        self._closing.callback(found.close)
        return found

    def reader(self, *topics: str) -> Reader:
        positions = {
            TopicPartition(topic, number): 0
            for topic in topics
            for number in range(self.log.describe(topic).partitions)
        }
        reader = self.log.reader(positions)
        self._closing.callback(reader.close)
        return reader

    def changes(self, number: int = 0) -> TopicPartition:
        return TopicPartition(self.changelog, number)

    def source(self, number: int = 0) -> TopicPartition:
        return TopicPartition(self.topic, number)

    def passed(self, reader: Reader, topic: str) -> None:
        """No transaction is open, and everything on the topic's log is read and past: nothing of it comes."""

        def at_the_end() -> bool:
            assert reader.poll(1_000, 0.05) == []
            ends = self.log.ends(topic, committed=False)
            positions = {source.partition: offset for source, offset in reader.positions().items()}
            return positions == ends == self.log.ends(topic)

        wait(at_the_end)


class GroupContract(ABC):
    """The part of the log port by which workers share topics."""

    @abstractmethod
    def make_log(self) -> Log: ...

    @abstractmethod
    def expire(self, member: Member) -> None:
        """Let the group drop the member behind its back. It is not polled any more after that."""

    @abstractmethod
    def committed(self, log: Log, group: str) -> Mapping[TopicPartition, int]:
        """The group's offsets as the broker has them."""

    @contextmanager
    def site(self) -> Iterator[Site]:
        with closing(self.make_log()) as log, ExitStack() as stack:
            site = Site(log, f"contract-{uuid.uuid4().hex[:12]}", stack)
            topics = {site.topic: 4, site.changelog: 4, site.output: 2}
            try:
                for topic, partitions in topics.items():
                    log.create(topic, partitions=partitions, config={"retention.ms": "-1"})
                yield site
                stack.close()
            finally:
                there = log.topics()
                for topic in topics:
                    if topic in there:
                        log.delete(topic)

    # -- membership ---------------------------------------------------------------------------------------------------

    def test_one_member_gets_every_partition(self) -> None:
        with self.site() as site:
            assert site.log.members(site.group) == {}
            listener = Hearer()
            member = site.join(listener)
            assert member.owned() == frozenset()
            share(site.sources, member)
            assert listener.of("assigned") == site.sources
            assert {word for word, _ in listener.heard} == {"assigned"}
            wait(lambda: site.log.members(site.group) == {member.id: site.sources}, member)

    def test_partitions_move_only_when_they_were_given_back(self) -> None:
        with self.site() as site:

            def revoking(word: str, sources: Sources) -> None:
                if word == "revoked":
                    assert first.owned() >= set(sources)
                    second.poll(1.0)  # for as long as a few heartbeats
                    assert not second.owned() & set(sources), "given away while it was still owned"

            listener, other = Hearer(revoking), Hearer()
            first = site.join(listener)
            share(site.sources, first)
            second = site.join(other)
            share(site.sources, first, second)
            assert [word for word, _ in listener.heard] == ["assigned", "revoked"]
            assert listener.of("revoked") == other.of("assigned") == second.owned()
            wait(lambda: set(site.log.members(site.group).values()) == {first.owned(), second.owned()}, first, second)
            listener.then = None

    def test_who_leaves_is_replaced_at_once(self) -> None:
        with self.site() as site:
            gone = Hearer()
            first, second = site.join(), site.join(gone)
            share(site.sources, first, second)
            had, owned_when_told = second.owned(), []
            gone.then = lambda *_: owned_when_told.append(second.owned())
            second.leave()
            assert owned_when_told == [had]
            assert gone.heard[-1] == ("revoked", set(had))
            assert second.owned() == frozenset()
            second.leave()
            with expect(LogError, "left"):
                second.poll()
            started = time.monotonic()
            share(site.sources, first)
            assert time.monotonic() - started < PATIENCE / 2, "as if it had died"
            first.leave()
            assert site.log.members(site.group) == {}

    def test_a_poll_returns_when_something_has_changed_or_its_time_is_over(self) -> None:
        with self.site() as site:
            member = site.join()
            started = time.monotonic()
            member.poll(PATIENCE)
            assert member.owned() == site.sources
            assert time.monotonic() - started < PATIENCE / 2
            started = time.monotonic()
            member.poll(0.3)
            member.poll()
            assert 0.25 <= time.monotonic() - started < 3

    def test_what_the_listener_raises_comes_out_of_poll_and_the_member_can_still_leave(self) -> None:
        with self.site() as site:

            def failing(word: str, sources: Sources) -> None:
                del sources
                raise Fenced(f"while {word}")

            first = site.join()
            share(site.sources, first)
            second = site.join(Hearer(failing))
            with expect(Fenced, "while assigned"):
                wait(lambda: False, first, second)
            with expect(Fenced, "while revoked"):
                second.leave()
            second.leave()
            share(site.sources, first)

    def test_a_missing_topic_is_named_when_joining(self) -> None:
        with self.site() as site, expect(TopicMissing, f"{site.name}-missing"):
            site.join(None, site.topic, f"{site.name}-missing")

    def test_a_group_shares_several_topics(self) -> None:
        with self.site() as site:
            topics = [site.topic, site.output]
            sources = site.sources | {TopicPartition(site.output, number) for number in range(2)}
            members = [site.join(None, *topics) for _ in range(2)]
            share(sources, *members)

    def test_a_topic_that_grows_gives_its_group_more(self) -> None:
        with self.site() as site:
            member = site.owner()
            before = site.log.describe(site.topic)
            info = site.log.grow(site.topic, 6)
            assert (info.id, info.partitions) == (before.id, 6)
            assert info == site.log.describe(site.topic) == site.log.grow(site.topic, 6) == site.log.grow(site.topic, 5)
            share({TopicPartition(site.topic, number) for number in range(6)}, member)
            with expect(TopicMissing, f"{site.name}-missing"):
                site.log.grow(f"{site.name}-missing", 2)

    # -- readers of what is assigned ----------------------------------------------------------------------------------

    def test_a_reader_is_given_partitions_and_loses_them(self) -> None:
        with self.site() as site:
            self._put(site, {site.topic: 4, site.output: 2})
            with closing(site.log.reader({})) as reader:
                assert (reader.poll(10, 0), reader.positions()) == ([], {})
                reader.add({site.source(1): 2})
                assert [(r.partition, r.offset) for r in read(reader, 3, at_most=2)] == [(1, 2), (1, 3), (1, 4)]
                reader.add({TopicPartition(site.output, 1): 0})
                assert {(r.topic, r.partition) for r in read(reader, 5)} == {(site.output, 1)}
                assert reader.positions() == {site.source(1): 5, TopicPartition(site.output, 1): 5}
                reader.remove([site.source(1), site.source(3)])
                assert reader.positions() == {TopicPartition(site.output, 1): 5}
                self._put(site, {site.topic: 4})
                assert reader.poll(10, 0.2) == []
                reader.add({site.source(1): 9, site.source(0): 8})
                assert {(r.partition, r.offset) for r in read(reader, 3)} == {(1, 9), (0, 8), (0, 9)}
                reader.add({site.source(1): 7})
                assert [r.offset for r in read(reader, 3)] == [7, 8, 9]
                reader.remove(list(reader.positions()))
                assert (reader.poll(10, 0), reader.positions()) == ([], {})

    def test_what_was_buffered_of_a_partition_is_not_read_after_it_was_removed(self) -> None:
        with self.site() as site:
            self._put(site, {site.topic: 4}, count=200)
            reader = site.reader(site.topic)
            read(reader, 1, at_most=1)
            reader.remove([site.source(0), site.source(1)])
            assert {r.partition for r in read(reader, 300, at_most=50)} <= {2, 3}

    def test_partitions_that_are_not_there_cannot_be_added(self) -> None:
        with self.site() as site, closing(site.log.reader({})) as reader:
            with expect(TopicChanged, f"{site.topic}/4"):
                reader.add({site.source(4): 0})
            with expect(TopicMissing, f"{site.name}-missing"):
                reader.add({TopicPartition(f"{site.name}-missing", 0): 0})
            assert reader.positions() == {}

    def _put(self, site: Site, topics: Mapping[str, int], count: int = 5) -> None:
        with closing(site.log.writer()) as writer:
            for topic, partitions in topics.items():
                for number in range(partitions):
                    for i in range(count):
                        writer.send(topic, b"%d" % i, partition=number)
