"""Makes `crawl.jsonl.gz`: crawls the HTML of a documentation package from its index page, breadth first.

    apt-get download python3.11-doc && dpkg -x python3.11-doc_*.deb unpacked
    python crawl.py unpacked/usr/share/doc/python3.11/html crawl.jsonl.gz

A page is fetched from its file; one that is linked to and has no file is a 404. What lies outside the folder is not
fetched. `fetched` is when the page's file was made, so that the same package gives the same bytes.
"""

from __future__ import annotations

import datetime as dt
import gzip
import json
import sys
from collections import deque
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

SITE = "https://docs.python.org/3.11/"
SKIPPED = ("genindex", "py-modindex", "contents", "whatsnew/", "c-api/", "distutils/", "extending/", "_")
"""Not crawled, so that a test can carry it: indexes, what programmers in C read, and histories, a half of all links.

Links to them stand: they are pages that are only linked to."""


class Anchors(HTMLParser):
    """The title of a page, and its `<a href>` as they stand there."""

    def __init__(self) -> None:
        super().__init__()
        self.title, self._in_title = "", False
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = tag == "title"
        href = dict(attrs).get("href")
        if tag == "a" and href is not None:
            self.hrefs.append(href)

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title, self._in_title = data.strip(), False


def crawl(folder: Path) -> Iterator[dict[str, Any]]:
    """Pages in the order that they are found in."""
    waiting, seen = deque([SITE + "index.html"]), {SITE + "index.html"}
    while waiting:
        url = waiting.popleft()
        file = folder / unquote(url.removeprefix(SITE))
        if not file.is_file():
            yield {"url": url, "fetched": _time(folder / "index.html"), "status": 404, "title": "", "hrefs": []}
            continue
        page = Anchors()
        page.feed(file.read_text())
        yield {"url": url, "fetched": _time(file), "status": 200, "title": page.title, "hrefs": page.hrefs}
        for href in page.hrefs:
            target = urldefrag(urljoin(url, href)).url
            below = target.removeprefix(SITE)
            if target.startswith(SITE) and target not in seen and not below.startswith(SKIPPED):
                seen.add(target)
                waiting.append(target)


def _time(file: Path) -> str:
    return dt.datetime.fromtimestamp(int(file.stat().st_mtime), dt.UTC).isoformat()


if __name__ == "__main__":
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    lines = "".join(json.dumps(page) + "\n" for page in crawl(source))
    target.write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
