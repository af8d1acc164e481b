"""The web's link graph, in-degrees and PageRank from the records of a crawl, by MapReduce jobs in chains.

    streamkit create-topics topologies/web_graph.py
    streamkit load topologies/web_graph.py crawl topologies/data/python_docs/crawl.jsonl.gz
    streamkit mapreduce topologies/web_graph.py
    streamkit query topologies/web_graph.py in_degrees https://docs.python.org/3.11/library/index.html
    streamkit query topologies/web_graph.py pagerank https://docs.python.org/3.11/library/index.html

Or with a crawl that is made up: `streamkit generate topologies/web_graph.py crawl --count 10000`.

All three jobs begin with the same two steps (`Graph`). Ranks are whole numbers, so that they are the same to the last
digit however the work is divided, and whatever it runs on.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes, urldefrag, urljoin, urlsplit, urlunsplit

import msgspec

import streamkit as sk
from streamkit.mapreduce import Context
from streamkit.schema import milliseconds

app = sk.Topology("web_graph")


class Fetch(msgspec.Struct):
    """A page as it was fetched: `hrefs` as they stand in it, relative ones, fragments, mail addresses and all."""

    url: str
    fetched: dt.datetime
    status: int
    hrefs: list[str]
    title: str = ""


class Broken(msgspec.Struct):
    """A page that links to one that is gone."""

    source: str


crawl = app.topic("crawl", value=Fetch, timestamp="fetched", key="url")


# -- links -------------------------------------------------------------------------------------------------------------

PORTS = {"http": 80, "https": 443}
UNRESERVED = "-._~"
KEPT = "!$&'()*+,;=:@/" + UNRESERVED


class NoPage(ValueError):
    """What a link leads to that is no page; says what it is."""


def canonical(url: str) -> str:
    """One spelling of a page's address. Raises NoPage.

    By RFC 3986, 6.2: scheme and host in lower case, no port that goes without saying, no empty path, escapes only where
    they are needed and in upper case; and no fragment. `www.` may be a host of its own.

    >>> canonical("HTTP://Example.org:80?q=%7ea#top"), canonical("https://example.org/a%2fb c")
    ('http://example.org/?q=~a', 'https://example.org/a%2Fb%20c')
    """
    try:
        parts = urlsplit(urldefrag(url.strip()).url)
        port, path, query = parts.port, _escaped(parts.path or "/"), _escaped(parts.query, "?")
    except ValueError as error:
        raise NoPage("malformed") from error
    if parts.scheme not in PORTS:
        raise NoPage(parts.scheme or "no scheme")
    if not parts.hostname:
        raise NoPage("malformed")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    where = host if port in (None, PORTS[parts.scheme]) else f"{host}:{port}"
    return urlunsplit((parts.scheme, where, path, query, ""))


def _escaped(text: str, also: str = "") -> str:
    """Each part between escapes that are needed, spelled one way.

    >>> _escaped("%41%2f%zz"), _escaped("ü")
    ('A%2F%25zz', '%C3%BC')
    """
    head, *rest = text.split("%")
    spelled = [quote(head, safe=KEPT + also)]
    for part in rest:
        raw = unquote_to_bytes(f"%{part[:2]}")
        if len(raw) != 1:  # a per cent sign that is no escape
            spelled.append("%25" + quote(part, safe=KEPT + also))
            continue
        plain = raw.isalnum() or raw.decode("latin-1") in UNRESERVED
        spelled.append((raw.decode() if plain else f"%{raw[0]:02X}") + quote(part[2:], safe=KEPT + also))
    return "".join(spelled)


def resolved(page: str, href: str) -> str:
    """The page that a link on a page leads to. Raises NoPage.

    >>> resolved("http://example.org/a/b.html", "../c.html#top"), resolved("http://example.org/", "//example.net")
    ('http://example.org/c.html', 'http://example.net/')
    """
    try:
        whole = urljoin(page, href.strip())
    except ValueError as error:
        raise NoPage("malformed") from error
    return canonical(whole)


# -- the graph ---------------------------------------------------------------------------------------------------------

GONE = 400
"""A page that was fetched with this status or a greater one is not there."""


class Graph:
    """Fetches to pages with the pages that they link to.

    Step 1: of a page's fetches the last one counts: they come to `reduce` in the order of time. Step 2: at its target
    a link learns whether that is there, and goes back to its source. Pages that are only linked to are pages, too.
    """

    TELLS = False
    """Whether links to pages that are gone go to the output `broken`."""

    def graph(self) -> list[sk.Step]:
        return [
            sk.Step(map=self.fetches, reduce=self.last, sort=_when),
            sk.Step(map=self.links, reduce=self.there, sort=_status_first),
            sk.Step(map=self.back, reduce=self.page, sort=_itself_first),
        ]

    def fetches(self, fetch: Fetch, context: Context) -> Iterator[tuple[str, Fetch]]:
        try:
            yield canonical(fetch.url), fetch
        except NoPage as no:
            context.count(f"fetches of no page: {no}")

    def last(self, url: str, fetches: Iterable[Fetch], context: Context) -> Iterator[tuple[str, Fetch]]:
        *earlier, newest = fetches
        context.count("pages fetched")
        context.count("fetches that a later one replaces", len(earlier))
        yield url, newest

    def links(self, url: str, fetch: Fetch, context: Context) -> Iterator[tuple[str, int | str]]:
        yield url, fetch.status
        if fetch.status >= GONE:
            return
        found = set()
        for href in fetch.hrefs:
            try:
                found.add(resolved(url, href))
            except NoPage as no:
                context.count(f"links to no page: {no}")
        found.discard(url)  # `#section`: a page recommends itself to nobody
        for target in sorted(found):
            yield target, url

    def there(self, url: str, marks: Iterator[int | str], context: Context) -> Iterator[tuple[str, str | None] | sk.To]:
        """`marks` are the page's own status, where it was fetched, then the pages that link to it."""
        gone = False
        for mark in marks:
            if isinstance(mark, int):
                gone = mark >= GONE
            elif gone:
                context.count("links to pages that are gone")
                if self.TELLS:
                    yield sk.To("broken", url, Broken(mark))
            else:
                yield url, mark
        if not gone:
            yield url, None

    def back(self, target: str, source: str | None) -> Iterator[tuple[str, str | None]]:
        yield (target, None) if source is None else (source, target)

    def page(self, url: str, targets: Iterable[str | None], context: Context) -> Iterator[tuple[str, list[str]]]:
        found = [target for target in targets if target is not None]
        context.count(PAGES)
        context.count("links", len(found))
        context.count("pages without links", int(not found))
        yield url, found


PAGES = "pages"


def _when(fetch: Fetch) -> tuple[int, int, str]:
    """The last fetch; of several at one time always the same."""
    return milliseconds(fetch.fetched), fetch.status, "\n".join(fetch.hrefs)


def _status_first(mark: int | str) -> tuple[bool, int | str]:
    return isinstance(mark, str), mark


def _itself_first(target: str | None) -> str:
    return target or ""


@app.mapreduce(crawl, key="url", served=True, outputs={"broken": Broken}, name="link_graph")
class LinkGraph(Graph):
    """Each page's links, sorted, each once; beside them `broken`: page that is gone, page that links to it."""

    TELLS = True

    def steps(self) -> list[sk.Step]:
        return self.graph()


@app.mapreduce(crawl, key="url", served=True, name="in_degrees")
class InDegrees(Graph):
    """How many pages link to each page."""

    def steps(self) -> list[sk.Step]:
        return [*self.graph(), sk.Step(map=self.votes, combine=self.add, reduce=self.total)]

    def votes(self, url: str, targets: list[str]) -> Iterator[tuple[str, int]]:
        yield url, 0
        for target in targets:
            yield target, 1

    def add(self, _: str, votes: Iterable[int]) -> int:
        return sum(votes)

    def total(self, url: str, votes: Iterable[int]) -> tuple[str, int]:
        return url, sum(votes)


# -- PageRank ----------------------------------------------------------------------------------------------------------

WHOLE = 10**18
"""All rank there is; a rank is a whole number of such parts."""
DAMPING = 85, 100
ITERATIONS = 20


class Node(msgspec.Struct):
    targets: list[str]
    rank: int = 0


class Rank(msgspec.Struct):
    """`rank` as a part of 1, and in units of 1 / WHOLE, which are exact."""

    rank: float
    units: int


@dataclass(frozen=True)
class Iteration:
    """A step of PageRank's power iteration (Page, Brin, Motwani, Winograd: "The PageRank Citation Ranking: Bringing
    Order to the Web", Stanford InfoLab 1999), in whole numbers.

    A page sends 85 % of its rank along its links, to each the same whole number of units. All that is not sent is
    spread evenly over all pages: the other 15 %, what pages without links have, what a division by the number of links
    leaves. How much that is need not be added up: it is WHOLE without what was sent, which `map` counts and `reduce`, a
    stage later, finds among the counters. A division of it by the number of pages may leave fewer units than there are
    pages; nobody has them for one iteration, and by the same subtraction they are spread in the next. So the ranks sum
    to WHOLE without that remainder, after any number of iterations: nothing gets lost for good.

    Before the first one, no page has rank, nothing is sent, and WHOLE is spread evenly: what one starts from.
    """

    number: int

    @property
    def sent(self) -> str:
        return f"rank sent along links, iteration {self.number:02}"

    def map(self, url: str, node: Node, context: Context) -> Iterator[tuple[str, Node | int]]:
        yield url, node
        if node.targets and node.rank:
            share = node.rank * DAMPING[0] // (DAMPING[1] * len(node.targets))
            context.count(self.sent, share * len(node.targets))
            for target in node.targets:
                yield target, share

    def combine(self, _: str, parts: Iterable[Node | int]) -> Iterator[Node | int]:
        got = 0
        for part in parts:
            if isinstance(part, Node):
                yield part
            else:
                got += part
        yield got

    def reduce(self, url: str, parts: Iterable[Node | int], context: Context) -> Iterator[tuple[str, Node]]:
        spread = WHOLE - context.counters.get(self.sent, 0)
        rank = spread // context.counters[PAGES]
        targets: list[str] = []
        for part in parts:
            if isinstance(part, Node):
                targets = part.targets
            else:
                rank += part
        yield url, Node(targets, rank)


@app.mapreduce(crawl, key="url", served=True, name="pagerank")
class PageRank(Graph):
    """Each page's PageRank after ITERATIONS steps of the power iteration, from all pages alike."""

    def steps(self) -> list[sk.Step]:
        turns = [Iteration(number) for number in range(ITERATIONS + 1)]
        first = sk.Step(map=self.nodes, combine=turns[0].combine, reduce=turns[0].reduce)
        chain = [sk.Step(map=turn.map, combine=turn.combine, reduce=turn.reduce) for turn in turns[1:]]
        return [*self.graph(), first, *chain, sk.Step(map=self.ranks, reduce=self.rank)]

    def nodes(self, url: str, targets: list[str]) -> Iterator[tuple[str, Node | int]]:
        yield url, Node(targets)

    def ranks(self, url: str, node: Node) -> Iterator[tuple[str, int]]:
        yield url, node.rank

    def rank(self, url: str, ranks: Iterable[int]) -> Iterator[tuple[str, Rank]]:
        for units in ranks:
            yield url, Rank(units / WHOLE, units)


# -- a crawl that is made up -------------------------------------------------------------------------------------------

LINKS_EACH = 5


@app.generator(crawl)
def pages(seed: int, start: int, rate: float) -> Iterator[Fetch]:
    """A crawl of a web that grows: each page links to some before it, and the more a page is linked to, the likelier
    (Barabási and Albert: "Emergence of scaling in random networks", Science 286, 1999). Written as people write links:
    relative, with fragments, twice; with links to pages nobody fetched, and to what is no page. One fetch in twenty is
    of a page that was fetched before, and one page in thirty is gone."""
    chance, made = random.Random(seed), 0
    ends: list[int] = []
    at = dt.datetime.fromtimestamp(start / 1000, dt.UTC)
    while True:
        again = made > 20 and chance.random() < 0.05
        number = chance.randrange(made) if again else made
        made += not again
        chosen = [_chosen(chance, ends, made) for _ in range(LINKS_EACH)]
        ends += chosen
        hrefs = [_written(chance, number, target) for target in chosen]
        if chance.random() < 0.2:  # a page that nobody fetches; and one without links, now and then
            hrefs = [*hrefs, f"https://elsewhere.example/{chance.randrange(1 + made // 10)}"] if hrefs[1:] else []
        status = 404 if chance.random() < 1 / 30 else 200
        yield Fetch(_address(number), at, status, hrefs if status == 200 else [], f"Page {number}")
        at += dt.timedelta(seconds=chance.expovariate(rate))


def _chosen(chance: random.Random, ends: list[int], made: int) -> int:
    """A page that others link to, by how many do; now and then any page."""
    return chance.choice(ends) if ends and chance.random() < 0.8 else chance.randrange(made)


def _address(number: int) -> str:
    return f"https://site{number % 50}.example/{number // 1000}/{number}.html"


def _written(chance: random.Random, source: int, target: int) -> str:
    address, kind = _address(target), chance.randrange(8)
    if kind == 0:
        return f"{address}#part-{chance.randrange(9)}"
    if kind == 1:
        return address.replace("https://site", "HTTPS://Site").replace(".example/", ".example:443/")
    if kind == 2:
        return chance.choice(["mailto:someone@site.example", "javascript:void(0)", "#top", "http://[broken"])
    if source % 50 == target % 50:
        return f"../{target // 1000}/{target}.html"
    return address
