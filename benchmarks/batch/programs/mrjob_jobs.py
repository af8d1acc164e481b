"""The jobs as mrjob has them: a file of its own, which mrjob runs again for each task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mrjob.job import MRJob
from mrjob.protocol import JSONValueProtocol

from benchmarks.peers.task import told


class Words(MRJob):
    INPUT_PROTOCOL = JSONValueProtocol

    def mapper(self, _: None, line: dict[str, str]) -> Iterator[tuple[str, int]]:
        for word in line["text"].split():
            yield word, 1

    def combiner(self, word: str, counts: Iterable[int]) -> Iterator[tuple[str, int]]:
        yield word, sum(counts)

    def reducer(self, word: str, counts: Iterable[int]) -> Iterator[tuple[str, int]]:
        yield word, sum(counts)


class Yahoo(MRJob):
    INPUT_PROTOCOL = JSONValueProtocol

    def mapper_init(self) -> None:
        self._campaigns = told().campaigns()

    def mapper(self, _: None, event: dict[str, Any]) -> Iterator[tuple[tuple[str, int], int]]:
        if event["event_type"] == "view":
            time = event["event_time"]
            yield (self._campaigns[event["ad_id"]], time - time % 10_000), 1

    def combiner(self, key: list[Any], counts: Iterable[int]) -> Iterator[tuple[list[Any], int]]:
        yield key, sum(counts)

    def reducer(self, key: list[Any], counts: Iterable[int]) -> Iterator[tuple[list[Any], int]]:
        yield key, sum(counts)


if __name__ == "__main__":
    (Words if told().job == "words" else Yahoo).run()
