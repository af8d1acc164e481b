"""What every Log must do for a Checkpoint to be all there or not at all, and for nobody to commit what is another's."""

from __future__ import annotations

import threading
from collections.abc import Collection
from contextlib import closing

from streamkit.errors import DeliveryFailed, Fenced
from streamkit.log.base import Change, Committer, Member
from streamkit.record import Headers, Record, TopicPartition
from streamkit.testing.contracts import expect, read
from streamkit.testing.group_contracts import GroupContract, Hearer, Site, Sources, share, wait


class CommitContract(GroupContract):
    """The part of the log port by which a Checkpoint is all there or not at all."""

    def test_a_commit_puts_everything_on_the_log_at_once(self) -> None:
        headers: Headers = (("a", b"1"), ("a", None), ("b", b""))
        with self.site() as site:
            member, committer, reader = site.owner(), site.committer(), site.reader(site.output, site.changelog)
            committer.send(site.output, b"x", key=b"k", timestamp=1_600_000_000_123, headers=headers, partition=1)
            committer.send(site.output, None, key=b"", partition=1)
            committer.send(site.output, b"", partition=1)
            assert reader.poll(10, 0.2) == []
            assert site.log.ends(site.output, committed=False) == {0: 0, 1: 0}
            changes: dict[TopicPartition, list[Change]] = {
                site.changes(0): [(b"a", b"1"), (b"b", None)],
                site.changes(2): [(b"c", b"")],
            }
            ends = committer.commit(changes, {site.source(0): 7, site.source(2): 9}, member)
            assert ends == {site.changes(0): 2, site.changes(2): 1}
            got = read(reader, 6)
            assert _rows(got, site.output) == [(1, 0, b"k", b"x"), (1, 1, b"", None), (1, 2, None, b"")]
            assert (got_first := next(r for r in got if r.topic == site.output)).headers == headers
            assert got_first.timestamp == 1_600_000_000_123
            assert _rows(got, site.changelog) == [(0, 0, b"a", b"1"), (0, 1, b"b", None), (2, 0, b"c", b"")]
            offsets = {site.source(0): 7, site.source(2): 9}
            wait(lambda: dict(self.committed(site.log, site.group)) == offsets)
            # A control record is after the last of each; nothing is after what is left alone.
            wait(lambda: site.log.ends(site.changelog) == {0: 3, 1: 0, 2: 2, 3: 0})
            assert site.log.ends(site.output) == {0: 0, 1: 4}

    def test_each_commit_goes_on_where_the_one_before_ended(self) -> None:
        with self.site() as site:
            member, committer, reader = site.owner(), site.committer(), site.reader(site.changelog)
            offset, expected = 0, []
            for turn in range(1, 6):
                changes: list[Change] = [(b"%d" % i, b"%d" % turn) for i in range(turn)]
                ends = committer.commit({site.changes(3): changes}, {site.source(3): turn}, member)
                expected += [(3, offset + i, key, value) for i, (key, value) in enumerate(changes)]
                assert ends == {site.changes(3): offset + turn}
                offset += turn + 1  # the control record
            assert _rows(read(reader, len(expected)), site.changelog) == expected

    def test_a_commit_may_be_of_offsets_alone_or_of_nothing(self) -> None:
        with self.site() as site:
            member, committer = site.owner(), site.committer()
            assert committer.commit({}, {}, member) == {}
            assert committer.commit({site.changes(): []}, {site.source(): 5}, member) == {}
            wait(lambda: dict(self.committed(site.log, site.group)) == {site.source(): 5})
            assert set(site.log.ends(site.changelog, committed=False).values()) == {0}

    def test_keys_choose_the_partition_that_a_writer_chooses(self) -> None:
        keys = [b"campaign-%d" % i for i in range(30)]
        with self.site() as site:
            member, committer, reader = site.owner(), site.committer(), site.reader(site.topic)
            with closing(site.log.writer()) as writer:
                for key in keys:
                    writer.send(site.topic, b"w", key=key)
                    committer.send(site.topic, b"c", key=key)
            committer.commit({}, {site.source(): 1}, member)
            places: dict[bytes | None, set[int]] = {}
            for record in read(reader, 60):
                places.setdefault(record.key, set()).add(record.partition)
            assert len(places) == 30
            assert all(len(partitions) == 1 for partitions in places.values())

    def test_any_thread_may_send_and_what_is_held_is_counted(self) -> None:
        with self.site() as site:
            member, committer, reader = site.owner(), site.committer(), site.reader(site.output)
            threads = [threading.Thread(target=self._send, args=(committer, site.output, i)) for i in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert committer.held() == 4 * 50 * 7
            committer.commit({}, {site.source(): 1}, member)
            assert committer.held() == 0
            assert len({r.key for r in read(reader, 200)}) == 200

    def _send(self, committer: Committer, topic: str, number: int) -> None:
        for i in range(50):
            committer.send(topic, b"abc", key=b"%d-%02d" % (number, i))

    def test_what_was_discarded_never_comes(self) -> None:
        with self.site() as site:
            member, committer, reader = site.owner(), site.committer(), site.reader(site.output)
            committer.send(site.output, b"no")
            committer.discard()
            assert committer.held() == 0
            committer.send(site.output, b"yes", partition=0)
            committer.commit({}, {site.source(): 1}, member)
            assert [r.value for r in read(reader, 1)] == [b"yes"]
            wait(lambda: site.log.ends(site.output) == {0: 2, 1: 0})

    # -- who may not --------------------------------------------------------------------------------------------------

    def test_a_member_that_was_dropped_commits_nothing_and_loses_nothing(self) -> None:
        with self.site() as site:
            member, committer, reader = site.owner(), site.committer(), site.reader(site.changelog)
            self.expire(member)
            committer.send(site.output, b"held", partition=0)
            for _ in range(2):
                with expect(Fenced):
                    committer.commit({site.changes(): [(b"k", b"zombie")]}, {site.source(): 5}, member)
            site.passed(reader, site.changelog)
            assert committer.held() == 4
            assert site.source() not in self.committed(site.log, site.group)
            # The same Committer with a member that is one.
            second = site.owner()
            committer.commit({site.changes(): [(b"k", b"alive")]}, {site.source(): 6}, second)
            assert [r.value for r in read(reader, 1)] == [b"alive"]
            assert [r.value for r in read(site.reader(site.output), 1)] == [b"held"]
            wait(lambda: dict(self.committed(site.log, site.group)) == {site.source(): 6})

    def test_a_member_that_has_left_commits_nothing(self) -> None:
        with self.site() as site:
            member, committer = site.owner(), site.committer()
            member.leave()
            with expect(Fenced):
                committer.commit({site.changes(): [(b"k", b"v")]}, {site.source(): 5}, member)
            assert set(site.log.ends(site.changelog, committed=False).values()) == {0}

    def test_what_is_not_its_own_a_member_does_not_commit(self) -> None:
        with self.site() as site:
            first, second, committer = site.join(), site.join(), site.committer()
            never = site.join()  # not polled: as far as it knows it owns nothing
            for member in (never, first):
                with expect(Fenced, str(site.source(0))):
                    committer.commit({}, dict.fromkeys(site.sources, 5), member)
            never.leave()
            share(site.sources, first, second)
            with expect(Fenced, str(min(second.owned()))):
                committer.commit({}, dict.fromkeys(site.sources, 5), first)
            committer.commit({}, dict.fromkeys(first.owned(), 5), first)

    def test_offsets_can_be_committed_while_partitions_are_given_back(self) -> None:
        with self.site() as site:
            committer = site.committer()

            def last_commit(word: str, sources: Sources) -> None:
                if word == "revoked":
                    committer.commit({site.changes(): [(b"k", b"last")]}, dict.fromkeys(sources, 9), first)

            first = site.join(Hearer(last_commit))
            share(site.sources, first)
            second = site.join()
            share(site.sources, first, second)
            wait(lambda: dict(self.committed(site.log, site.group)) == dict.fromkeys(second.owned(), 9))
            first.leave()
            wait(lambda: dict(self.committed(site.log, site.group)) == dict.fromkeys(site.sources, 9))
            assert len(read(site.reader(site.changelog), 2)) == 2

    def test_of_two_committers_with_one_id_the_first_is_fenced(self) -> None:
        with self.site() as site:
            member, first, reader = site.owner(), site.committer(), site.reader(site.changelog)
            first.commit({site.changes(): [(b"k", b"1")]}, {site.source(): 1}, member)
            second = site.committer()
            for _ in range(2):
                with expect(Fenced, site.name):
                    first.commit({site.changes(): [(b"k", b"2")]}, {site.source(): 2}, member)
            second.commit({site.changes(): [(b"k", b"3")]}, {site.source(): 3}, member)
            assert [r.value for r in read(reader, 2)] == [b"1", b"3"]

    # -- what cannot be delivered -------------------------------------------------------------------------------------

    def test_a_record_that_is_refused_stops_all_of_its_commit(self) -> None:
        with self.site() as site:
            member, committer, reader = site.owner(), site.committer(), site.reader(site.changelog)
            for topic, value in ((site.output, b"x" * 2_000_000), (f"{site.name}-missing", b"x")):
                committer.send(site.output, b"fine")
                committer.send(topic, value)
                with expect(DeliveryFailed, topic):
                    committer.commit({site.changes(): [(b"k", b"no")]}, {site.source(): 5}, member)
                assert committer.held() == 4 + len(value)
                committer.discard()
            with expect(DeliveryFailed, site.changelog):
                committer.commit({site.changes(): [(b"k", b"x" * 2_000_000)]}, {site.source(): 5}, member)
            committer.commit({site.changes(): [(b"k", b"yes")]}, {site.source(): 6}, member)
            assert [r.value for r in read(reader, 1)] == [b"yes"]
            assert dict(self.committed(site.log, site.group)) == {site.source(): 6}
            site.passed(site.reader(site.output), site.output)

    # -- at least once ------------------------------------------------------------------------------------------------

    def test_without_an_id_records_come_first_and_offsets_last(self) -> None:
        with self.site() as site:
            member, committer = site.owner(), site.committer(None)
            reader = site.reader(site.output, site.changelog)
            committer.send(site.output, b"x", key=b"k", timestamp=1_600_000_000_123, headers=[("h", b"1")], partition=1)
            assert committer.held() == 0
            assert [(r.key, r.value, r.timestamp, r.headers) for r in read(reader, 1)] == [
                (b"k", b"x", 1_600_000_000_123, (("h", b"1"),))
            ]
            committer.discard()
            for turn in (1, 2):
                changes: dict[TopicPartition, list[Change]] = {
                    site.changes(1): [(b"a", b"1"), (b"a", None)],
                    site.changes(2): [],
                }
                assert committer.commit(changes, {site.source(): turn}, member) == {site.changes(1): 2 * turn}
                assert len(read(reader, 2)) == 2
                self._wait_for_offset(site, turn, member)
            assert site.log.ends(site.changelog) == {0: 0, 1: 4, 2: 0, 3: 0}

    def _wait_for_offset(self, site: Site, offset: int, member: Member) -> None:
        wait(lambda: dict(self.committed(site.log, site.group)) == {site.source(): offset}, member)

    def test_without_an_id_a_record_that_is_refused_is_told_once_and_no_change_follows_it(self) -> None:
        with self.site() as site:
            member, committer = site.owner(), site.committer(None)
            committer.send(site.output, b"x" * 2_000_000)
            with expect(DeliveryFailed, site.output):
                committer.commit({site.changes(): [(b"k", b"v")]}, {site.source(): 1}, member)
            assert set(site.log.ends(site.changelog).values()) == {0}
            assert committer.commit({site.changes(): [(b"k", b"v")]}, {site.source(): 1}, member) == {site.changes(): 1}


def _rows(records: Collection[Record], topic: str) -> list[tuple[int, int, bytes | None, bytes | None]]:
    return sorted(
        ((r.partition, r.offset, r.key, r.value) for r in records if r.topic == topic), key=lambda row: row[:2]
    )
