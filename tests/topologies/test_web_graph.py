"""The web graph of a crawl that is made up and of a real one: beside a plain loop, exactly, and beside networkx."""

from __future__ import annotations

import doctest
import gzip
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

import msgspec
import networkx as nx
import numpy as np
import pytest

from streamkit.testing.driver import Driver
from topologies import web_graph
from topologies.web_graph import DAMPING, GONE, ITERATIONS, WHOLE, Fetch, NoPage, canonical, resolved

REAL = Path(web_graph.__file__).parent / "data" / "python_docs" / "crawl.jsonl.gz"
DOCS = "https://docs.python.org/3.11/"

Links = dict[str, list[str]]


def real() -> list[Fetch]:
    with gzip.open(REAL) as file:
        return [msgspec.json.decode(line, type=Fetch) for line in file]


def made_up() -> list[Fetch]:
    return list(islice(web_graph.pages.function(7, 1_700_000_000_000, 100.0), 1_500))


class Crawled:
    """A crawl, and what the jobs make of it."""

    def __init__(self, fetches: Sequence[Fetch], split_records: int) -> None:
        self.fetches = fetches
        with Driver(web_graph.app, split_records=split_records) as driver:
            driver.send(web_graph.crawl, *fetches)
            jobs = web_graph.app.jobs
            self.counters = {name: driver.mapreduce(job).counters for name, job in jobs.items()}
            links, degrees, ranks = (driver.rows(jobs[name]) for name in ("link_graph", "in_degrees", "pagerank"))
            self.broken = sorted(driver.rows(jobs["link_graph"], "broken").iter_rows())
        self.links: Links = dict(links["url", "value"].iter_rows())
        self.degrees: dict[str, int] = dict(degrees["url", "value"].iter_rows())
        self.units: dict[str, int] = dict(ranks["url", "units"].iter_rows())
        self.ranks: dict[str, float] = dict(ranks["url", "rank"].iter_rows())


@cache
def real_one() -> Crawled:
    return Crawled(real(), 1_000)


@cache
def made_up_one() -> Crawled:
    return Crawled(made_up(), 400)


@pytest.fixture(scope="module", params=["real", "made up"])
def crawled(request: pytest.FixtureRequest) -> Crawled:
    return real_one() if request.param == "real" else made_up_one()


def graph(fetches: Sequence[Fetch]) -> tuple[Links, list[tuple[str, str]]]:
    """The links of all pages, and those to pages that are gone: by a plain loop."""
    newest: dict[str, Fetch] = {}
    for fetch in sorted(fetches, key=lambda f: f.fetched):
        newest[canonical(fetch.url)] = fetch
    gone = {url for url, fetch in newest.items() if fetch.status >= GONE}
    links: dict[str, set[str]] = {}
    broken = set()
    for url in newest.keys() - gone:
        links.setdefault(url, set())
        for href in newest[url].hrefs:
            try:
                target = resolved(url, href)
            except NoPage:
                continue
            if target in gone:
                broken.add((target, url))
            elif target != url:
                links[url].add(target)
                links.setdefault(target, set())
    return {url: sorted(targets) for url, targets in links.items()}, sorted(broken)


def power_iteration(links: Links) -> dict[str, int]:
    """PageRank in whole numbers, as the topology defines it, in memory."""
    ranks = dict.fromkeys(links, WHOLE // len(links))
    for _ in range(ITERATIONS):
        got = Counter(dict.fromkeys(links, 0))
        for url, targets in links.items():
            for target in targets:
                got[target] += ranks[url] * DAMPING[0] // (DAMPING[1] * len(targets))
        spread = (WHOLE - got.total()) // len(links)
        ranks = {url: got[url] + spread for url in links}
    return ranks


def test_the_link_graph_is_that_of_a_plain_loop(crawled: Crawled) -> None:
    links, broken = graph(crawled.fetches)
    assert crawled.links == links
    assert crawled.broken == broken


def test_in_degrees_are_how_often_a_page_is_a_target(crawled: Crawled) -> None:
    found = Counter(target for targets in crawled.links.values() for target in targets)
    assert crawled.degrees == {url: found[url] for url in crawled.links}


def test_ranks_are_those_of_a_plain_loop_to_the_last_unit(crawled: Crawled) -> None:
    assert crawled.units == power_iteration(crawled.links)


def test_no_rank_is_lost(crawled: Crawled) -> None:
    assert WHOLE - len(crawled.links) < sum(crawled.units.values()) <= WHOLE
    assert all(crawled.ranks[url] == units / WHOLE for url, units in crawled.units.items())


def test_ranks_are_those_of_floats_and_near_those_that_networkx_converges_to(crawled: Crawled) -> None:
    web, alpha = nx.DiGraph(crawled.links), DAMPING[0] / DAMPING[1]
    moves = nx.to_numpy_array(web, nodelist=list(web))
    out = moves.sum(axis=1, keepdims=True)
    moves = np.where(out > 0, moves / np.maximum(out, 1), 1 / len(web))
    ranks = np.full(len(web), 1 / len(web))
    for _ in range(ITERATIONS):
        ranks = alpha * ranks @ moves + (1 - alpha) / len(web)
    ours = np.array([crawled.ranks[url] for url in web])
    np.testing.assert_allclose(ours, ranks, rtol=1e-11, atol=0)
    converged = nx.pagerank(web, alpha=alpha, tol=1e-12, max_iter=500)
    assert np.abs(ours - np.array([converged[url] for url in web])).sum() < 1e-3


def test_what_is_made_up_has_all_that_a_crawl_has() -> None:
    crawled = made_up_one()
    assert crawled.broken
    degrees = sorted(crawled.degrees.values())
    assert degrees[-1] > 10 * degrees[len(degrees) // 2]  # some are linked to by many, most by few
    counted = crawled.counters["link_graph"]
    some = ("fetches that a later one replaces", "links to no page: mailto", "links to no page: malformed")
    assert all(counted[name] > 0 for name in (*some, "pages without links", "links to pages that are gone"))
    assert counted["pages"] == len(crawled.links)
    assert counted["links"] == sum(map(len, crawled.links.values()))


def test_the_best_of_the_real_crawl_are_the_pages_of_every_menu() -> None:
    crawled = real_one()
    best = sorted(crawled.units, key=lambda url: -crawled.units[url])[:8]
    assert {DOCS + "index.html", DOCS + "genindex.html", DOCS + "py-modindex.html"} <= set(best)
    assert crawled.links[DOCS + "genindex.html"] == []  # not crawled: only linked to


@pytest.mark.parametrize(
    ("href", "found"),
    [
        ("c.html", "http://example.org/a/c.html"),
        ("../c.html?x=1#top", "http://example.org/c.html?x=1"),
        ("//Example.NET", "http://example.net/"),
        ("HTTPS://example.org:443/%7euser/%2f", "https://example.org/~user/%2F"),
        ("https://example.org:8080/", "https://example.org:8080/"),
        (" ü b%zz ", "http://example.org/a/%C3%BC%20b%25zz"),
        ("http://[::1]/", "http://[::1]/"),
        ("?q", "http://example.org/a/b.html?q"),
        ("", "http://example.org/a/b.html"),
    ],
)
def test_a_link_is_spelled_one_way(href: str, found: str) -> None:
    assert resolved("http://example.org/a/b.html", href) == found
    assert canonical(found) == found


@pytest.mark.parametrize(
    ("href", "reason"),
    [
        ("mailto:a@example.org", "mailto"), ("javascript:void(0)", "javascript"), ("http://[broken", "malformed"),
        ("http://h:port/", "malformed"), ("http://h/\ud800", "malformed"),
    ],
)  # fmt: skip
def test_what_is_no_page_says_what_it_is(href: str, reason: str) -> None:
    with pytest.raises(NoPage, match=reason):
        resolved("http://example.org/", href)


def test_examples() -> None:
    failed, tried = doctest.testmod(web_graph)
    assert tried
    assert not failed


def test_the_generator_is_decided_by_its_seed() -> None:
    def some(seed: int) -> Iterator[Fetch]:
        return islice(web_graph.pages.function(seed, 0, 1.0), 50)

    assert list(some(1)) == list(some(1)) != list(some(2))
