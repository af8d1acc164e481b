"""MapReduce jobs in memory: what each part of a declaration does, and what is refused."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamkit as sk
from streamkit import control
from streamkit.batch.mapreduce.plan import make_plan
from streamkit.batch.mapreduce.run import JobRun
from streamkit.batch.mapreduce.task import TaskFailed
from streamkit.control import JobSent
from streamkit.errors import BadRecord, DefinitionError, StateMissing, StreamkitError, TopicChanged
from streamkit.log.scan import read_all
from streamkit.mapreduce import Context, MapReduce
from streamkit.serving.results import Results
from streamkit.testing.driver import Driver
from streamkit.topic import ErrorPolicy, Topic


class Visit(msgspec.Struct):
    user: str
    page: str
    time: int


class Seen(msgspec.Struct):
    user: str
    pages: int


def site(errors: ErrorPolicy = "dead_letter") -> tuple[sk.Topology, Topic]:
    app = sk.Topology("site")
    return app, app.topic("visits", value=Visit, key="user", errors=errors)


VISITS = [Visit(f"u{i % 7}", f"p{i % 3}", 1_000 - i) for i in range(100)]


class Pages:
    """Pages by user: typed, with combine."""

    def map(self, visit: Visit) -> Iterator[tuple[str, int]]:
        yield visit.user, 1

    def combine(self, _: str, counts: Iterable[int]) -> int:
        return sum(counts)

    def reduce(self, user: str, counts: Iterable[int]) -> tuple[str, int]:
        return user, sum(counts)


EXPECTED = Counter(visit.user for visit in VISITS)


def run(app: sk.Topology, topic: Topic, job: MapReduce, split_records: int = 13) -> pl.DataFrame:
    with Driver(app, split_records=split_records) as driver:
        driver.send(topic, *VISITS)
        driver.mapreduce(job)
        return driver.rows(job)


def counts(frame: pl.DataFrame) -> dict[Any, Any]:
    return dict(frame.iter_rows())


def test_a_class_counts_by_key() -> None:
    app, visits = site()
    assert counts(run(app, visits, app.mapreduce(visits, key="user")(Pages))) == EXPECTED


def test_a_function_is_map_and_what_is_not_annotated_is_json() -> None:
    app, visits = site()

    @app.mapreduce(visits, reduce=lambda user, times: [(user, [min(times), None])])
    def first(visit):  # type: ignore[no-untyped-def]
        return [(visit.user, visit.time)]

    rows = counts(run(app, visits, first))
    assert rows == {u: f"[{min(v.time for v in VISITS if v.user == u)},null]" for u in EXPECTED}


def test_steps_chain_and_keys_may_be_tuples() -> None:
    """Visits by user and page; then the page each user saw most; then how many users have each such page."""
    app, visits = site()

    class Favourites:
        def steps(self) -> list[sk.Step]:
            return [
                sk.Step(map=self.pairs, reduce=self.total),
                sk.Step(map=self.by_user, reduce=self.most),
                sk.Step(map=self.by_page, reduce=self.total_of_page),
            ]

        def pairs(self, visit: Visit) -> Iterator[tuple[tuple[str, str], int]]:
            yield (visit.user, visit.page), 1

        def total(self, key: tuple[str, str], ones: Iterable[int]) -> Iterator[tuple[tuple[str, str], int]]:
            yield key, sum(ones)

        def by_user(self, key: tuple[str, str], count: int) -> Iterator[tuple[str, tuple[int, str]]]:
            yield key[0], (count, key[1])

        def most(self, user: str, found: Iterable[tuple[int, str]]) -> Iterator[tuple[str, str]]:
            yield user, max(found)[1]

        def by_page(self, _: str, page: str) -> Iterator[tuple[str, int]]:
            yield page, 1

        def total_of_page(self, page: str, ones: Iterable[int]) -> Iterator[tuple[str, int]]:
            yield page, sum(ones)

    by_user: dict[str, Counter[str]] = {}
    for visit in VISITS:
        by_user.setdefault(visit.user, Counter())[visit.page] += 1
    expected = Counter(max((n, p) for p, n in pages.items())[1] for pages in by_user.values())
    assert counts(run(app, visits, app.mapreduce(visits)(Favourites))) == expected


def test_values_come_in_the_order_of_sort_and_a_step_partitions_as_it_likes() -> None:
    app, visits = site()

    class InTime:
        def map(self, visit: Visit) -> Iterator[tuple[str, Visit]]:
            yield visit.user, visit

        def sort(self, visit: Visit) -> int:
            return visit.time

        def partition(self, user: str, partitions: int) -> int:
            return int(user[1:]) % partitions

        def reduce(self, user: str, seen: Iterable[Visit]) -> Iterator[tuple[str, str]]:
            yield user, " ".join(str(visit.time) for visit in seen)

    with Driver(app, split_records=13) as driver:
        driver.send(visits, *VISITS)
        job = app.mapreduce(visits, partitions=3)(InTime)
        result = driver.mapreduce(job)
        assert counts(driver.rows(job)) == {
            u: " ".join(str(t) for t in sorted(v.time for v in VISITS if v.user == u)) for u in EXPECTED
        }
        folder = driver.folder / "mapreduce" / job.name / "results"
        users = [pl.read_parquet(folder / file.path)["key"].to_list() for file in result.files[""]]
    assert users == [["u0", "u3", "u6"], ["u1", "u4"], ["u2", "u5"]]


def test_counters_side_files_and_several_outputs(tmp_path: Path) -> None:
    app, visits = site()
    (tmp_path / "robots.txt").write_text("u1\nu2\n")
    users = app.topic("users", value=Seen, key="user")

    class People:
        def map(self, visit: Visit, context: Context) -> Iterator[Any]:
            if visit.user in context.files["robots"].read_text().split():
                context.count("robots")
                yield sk.To("robots", visit.user, Seen(visit.user, visit.time))
            else:
                yield visit.user, 1

        def reduce(self, user: str, ones: Iterable[int], context: Context) -> Iterator[tuple[str, Seen]]:
            assert context.counters["robots"] == 29
            yield user, Seen(user, sum(ones))

    job = app.mapreduce(visits, out=users, outputs={"robots": Seen}, files={"robots": tmp_path / "robots.txt"})(People)
    with Driver(app, split_records=13) as driver:
        driver.send(visits, *VISITS)
        result = driver.mapreduce(job)
        robots = driver.rows(job, "robots")
        sent = driver.records("users")
    assert result.counters == {"robots": 29}
    assert sorted(robots["pages"].to_list()) == sorted(v.time for v in VISITS if v.user in ("u1", "u2"))
    assert {(r.key, r.value) for r in sent} == {
        (u.encode(), msgspec.json.encode(Seen(u, n))) for u, n in EXPECTED.items() if u not in ("u1", "u2")
    }
    assert result.sent == {"": 5}


def test_a_job_without_reduce_keeps_what_is_mapped() -> None:
    app, visits = site()

    @app.mapreduce(visits)
    def late(visit: Visit) -> Iterator[tuple[str, int]]:
        if visit.time < 910:
            yield visit.user, visit.time

    frame = run(app, visits, late)
    assert sorted(frame.rows()) == sorted((v.user, v.time) for v in VISITS if v.time < 910)


def test_columns_give_what_records_give() -> None:
    app, visits = site()

    class Columns:
        def map(self, frame: pl.DataFrame) -> pl.DataFrame:
            return frame.select("user", n=pl.lit(1, pl.Int64))

        def combine(self, frame: pl.DataFrame) -> pl.DataFrame:
            return frame.group_by("user").agg(pl.col("n").sum())

        def reduce(self, frame: pl.DataFrame) -> pl.DataFrame:
            return frame.group_by("user").agg(pl.col("n").sum())

    assert counts(run(app, visits, app.mapreduce(visits, key="user", batches=True)(Columns))) == EXPECTED


def test_columns_come_sorted_and_keys_whole() -> None:
    app, visits = site()

    @app.mapreduce(visits, key="user", sort="time", batches=True, reduce=lambda frame: frame.select("user", "time"))
    def in_time(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.select("user", "page", "time")

    frame = run(app, visits, in_time)
    for user in EXPECTED:
        times = frame.filter(pl.col("user") == user)["time"].to_list()
        assert times == sorted(v.time for v in VISITS if v.user == user)


@pytest.mark.parametrize("packed", [False, True])
def test_files_are_read_whole_however_they_are_split(
    packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamkit.batch.mapreduce.source.FILE_SPLIT", 40)
    monkeypatch.setattr("streamkit.batch.mapreduce.source.BLOCK", 16)
    texts = [f"the {'very ' * (i % 5)}line {i}" for i in range(50)] + ["", "last without an end"]
    path = tmp_path / ("book.txt.gz" if packed else "book.txt")
    path.write_bytes(gzip.compress("\r\n".join(texts).encode()) if packed else "\r\n".join(texts).encode())
    app = sk.Topology("books")

    @app.mapreduce(sk.Files(str(tmp_path / "book.*")), reduce=lambda line, ones: (line, sum(ones)))
    def lines(line: sk.Line) -> Iterator[tuple[str, int]]:
        yield line.text, 1

    with Driver(app) as driver:
        driver.mapreduce(lines)
        assert counts(driver.rows(lines)) == {text: "1" for text in texts if text}


def test_json_lines_and_parquet_are_inputs_and_a_bad_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, VISITS[:60])))
    pl.DataFrame([msgspec.to_builtins(v) for v in VISITS[60:]]).write_parquet(tmp_path / "b.parquet")
    app = sk.Topology("site")
    both = [sk.Files(str(tmp_path / "a.jsonl"), Visit), sk.Files(str(tmp_path / "*.parquet"), Visit)]
    job = app.mapreduce(*both)(Pages)
    with Driver(app) as driver:
        driver.mapreduce(job)
        assert counts(driver.rows(job)) == EXPECTED
        (tmp_path / "a.jsonl").write_text('{"user": "u1", "page": "p", "time": 1}\n{"user": 1}\n')
        with pytest.raises(BadRecord, match=r"a\.jsonl.*39.*Expected `str`"):
            driver.mapreduce(job)


def test_a_failing_record_is_named_and_may_be_skipped() -> None:
    app, visits = site()

    @app.mapreduce(visits, reduce=lambda user, ones: (user, sum(ones)))
    def picky(visit: Visit) -> Iterator[tuple[str, int]]:
        yield visit.user, 1
        if visit.time == 950:
            raise ZeroDivisionError("no such time")

    with Driver(app, split_records=13) as driver:
        driver.send(visits, *VISITS)
        with pytest.raises(TaskFailed, match=r"map failed at visits/\d/\d+: ZeroDivisionError") as failed:
            driver.mapreduce(picky)
        assert "line" in failed.value.trace
        assert "in picky" in failed.value.trace
        assert "streamkit/batch" not in failed.value.trace
        result = driver.mapreduce(picky.skipping(1))
        assert result.skipped == 1
        # What the record had yielded before it failed does not count.
        assert counts(driver.rows(picky)) == {u: str(n - (u == VISITS[50].user)) for u, n in EXPECTED.items()}


def test_a_failing_partition_names_the_key_and_skips_no_record() -> None:
    app, visits = site()

    def refuses(user: str, partitions: int) -> int:
        raise ZeroDivisionError(f"{partitions} are too many for {user}")

    @app.mapreduce(visits, reduce=lambda user, ones: (user, sum(ones)), partition=refuses)
    def ones(visit: Visit) -> Iterator[tuple[str, int]]:
        yield visit.user, 1
        yield visit.user, 1

    with Driver(app, split_records=1_300) as driver:
        driver.send(visits, *VISITS * 6)
        with pytest.raises(TaskFailed, match=r"partition failed at key 'u\d': ZeroDivisionError") as failed:
            driver.mapreduce(ones.skipping(1_000))
        assert "in refuses" in failed.value.trace


def test_a_failing_reduce_names_the_key() -> None:
    app, visits = site()

    @app.mapreduce(visits, reduce=lambda user, ones: (user, 1 // (user != "u3")))
    def fails(visit: Visit) -> Iterator[tuple[str, int]]:
        yield visit.user, 1

    with pytest.raises(TaskFailed, match="reduce failed at key 'u3'"):
        run(app, visits, fails)


def test_what_is_no_value_is_counted_or_refused_by_the_topics_policy() -> None:
    policies: list[ErrorPolicy] = ["skip", "fail"]
    for policy in policies:
        app, visits = site(policy)
        job = app.mapreduce(visits)(Pages)
        with Driver(app) as driver:
            driver.send(visits, *VISITS)
            driver.log.writer().send("visits", b"{}", partition=2)
            if policy == "skip":
                assert driver.mapreduce(job).rejected == 1
                assert counts(driver.rows(job)) == EXPECTED
            else:
                with pytest.raises(BadRecord, match=r"visits/2/\d+: not a Visit"):
                    driver.mapreduce(job)


def test_a_run_that_was_killed_goes_on_at_its_cut() -> None:
    app, visits = site()
    calls: list[str] = []

    @app.mapreduce(visits, reduce=lambda user, ones: (user, sum(ones)), partitions=2)
    def slow(visit: Visit) -> Iterator[tuple[str, int]]:
        calls.append(visit.user)
        if len(calls) == 70:
            raise KeyboardInterrupt  # as kill -9 does: nothing below it has a chance to tidy up what is done
        yield visit.user, 1

    with Driver(app, split_records=13) as driver:
        driver.send(visits, *VISITS)
        with pytest.raises(KeyboardInterrupt):
            driver.mapreduce(slow)
        driver.send(visits, *VISITS)  # after the Cut
        driver.mapreduce(slow)
        assert counts(driver.rows(slow)) == {u: str(n) for u, n in EXPECTED.items()}
        assert len(calls) < 140
        driver.mapreduce(slow)
        assert counts(driver.rows(slow)) == {u: str(2 * n) for u, n in EXPECTED.items()}


def test_outputs_to_a_topic_come_once_though_sending_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    app, visits = site()
    users = app.topic("users", value=Seen, key="user")

    class Users:
        def map(self, visit: Visit) -> Iterator[tuple[str, int]]:
            yield visit.user, 1

        def reduce(self, user: str, ones: Iterable[int]) -> tuple[str, Seen]:
            return user, Seen(user, sum(ones))

    job = app.mapreduce(visits, out=users, partitions=2)(Users)
    monkeypatch.setattr("streamkit.batch.mapreduce.publish.SEND_ROWS", 2)
    with Driver(app) as driver:
        driver.send(visits, *VISITS)
        taken = 0
        make = driver.log.committer

        def failing(name: str | None = None) -> Any:
            committer = make(name)
            commit = committer.commit

            def once_less(*args: Any) -> Any:
                nonlocal taken
                taken += 1
                if taken == 3:
                    raise KeyboardInterrupt
                return commit(*args)

            monkeypatch.setattr(committer, "commit", once_less)
            return committer

        monkeypatch.setattr(driver.log, "committer", failing)
        with pytest.raises(KeyboardInterrupt):
            driver.mapreduce(job)
        assert 0 < len(driver.records("users")) < 7
        driver.mapreduce(job)
        sent = Counter(r.value for r in driver.records("users"))
        told = [control.decode(r.value or b"") for r in read_all(driver.log, control.control_topic("site"))]
        progress = [m.rows for m in told if isinstance(m, JobSent)]
    assert sent == Counter(msgspec.json.encode(Seen(u, n)) for u, n in EXPECTED.items())
    assert progress == sorted(set(progress))


def test_a_served_result_answers_by_key_with_its_cut_and_lag() -> None:
    app, visits = site()
    job = app.mapreduce(visits, key="user", served=True)(Pages)
    with pytest.raises(StreamkitError, match="not connected"):
        job.get("u1")
    with Driver(app) as driver:
        results = Results(driver.log, app, driver.folder / "mapreduce")
        job.connect(results)
        with pytest.raises(StateMissing, match="streamkit mapreduce"):
            job.get("u1")
        driver.send(visits, *VISITS)
        driver.mapreduce(job)
        driver.send(visits, *VISITS[:10])
        answer = job.get("u1")
        assert (answer.key, answer.value, answer.lag) == (("u1",), {"value": EXPECTED["u1"]}, 10)
        assert answer.cut.count() == 100
        assert not job.get("nobody").found
        assert {a.key[0]: a.value["value"] for a in job.scan()} == EXPECTED
        assert results.parse_key(job, ["u1"]) == "u1"
        (folder,) = (driver.folder / "mapreduce" / job.name / "results").iterdir()
        next(folder.iterdir()).write_bytes(b"damaged")
        with pytest.raises(StateMissing, match="damaged"):
            list(Results(driver.log, app, driver.folder / "mapreduce").scan(job))
        driver.log.delete("visits")
        driver.log.create("visits", partitions=4)
        with pytest.raises(TopicChanged):
            job.get("u1")


def test_a_served_result_has_one_pair_a_key_and_that_key() -> None:
    def job_of(reduce: Callable[..., Any]) -> tuple[sk.Topology, Topic, MapReduce]:
        app, visits = site()

        @app.mapreduce(visits, reduce=reduce, served=True)
        def users(visit: Visit) -> Iterator[tuple[str, int]]:
            yield visit.user, 1

        return app, visits, users

    with pytest.raises(DefinitionError, match="one pair a key"):
        run(*job_of(lambda user, ones: [(user, 1), (user, 2)]))
    with pytest.raises(DefinitionError, match="must yield the key"):
        run(*job_of(lambda user, ones: (user + "x", 1)))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 20), max_size=60), st.integers(1, 70), st.integers(1, 5))
def test_results_are_the_same_bytes_however_the_input_is_split(numbers: list[int], split: int, tasks: int) -> None:
    """Floats too: values of a key come in one order, whatever the splits."""

    class Sums:
        def map(self, visit: Visit) -> Iterator[tuple[int, float]]:
            yield visit.time % 5, visit.time / 7

        def reduce(self, key: int, values: Iterable[float]) -> tuple[int, float]:
            total = 0.0
            for value in values:
                total += value
            return key, total

    contents = []
    for records in (split, 1_000):
        app, visits = site()
        job = app.mapreduce(visits, partitions=tasks)(Sums)
        with Driver(app, split_records=records) as driver:
            driver.send(visits, *(Visit("u", "p", n) for n in numbers))
            result = driver.mapreduce(job)
            folder = driver.folder / "mapreduce" / "Sums" / "results"
            contents.append([(folder / file.path).read_bytes() for file in result.files[""]])
    assert contents[0] == contents[1]


def test_a_plan_of_other_code_is_not_gone_on_with(tmp_path: Path) -> None:
    app, visits = site()
    job = app.mapreduce(visits)(Pages)
    with Driver(app) as driver:
        driver.send(visits, *VISITS)
        run_ = JobRun(driver.log, job, tmp_path)
        (tmp_path / "plan.json").write_bytes(msgspec.json.encode(make_plan(job, driver.log)))
        assert run_.unfinished() is not None
        assert JobRun(driver.log, job.skipping(5), tmp_path).unfinished() is None
