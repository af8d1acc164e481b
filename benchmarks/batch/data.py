"""The records, put where peers read them, and what the jobs must come to."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import KafkaException, Producer

from benchmarks.peers import events

JOBS = ("words", "yahoo")
WORDS, WORDS_A_LINE, BLOCK = 100_000, 10, 20_000
FILES = 4
"""Files of each kind, and partitions of the topic: a block goes to the next one in turn."""
_CHANCES = np.cumsum(1 / np.arange(1, WORDS + 1)) / np.sum(1 / np.arange(1, WORDS + 1))
_NAMES = [f"word{n:x}" for n in range(WORDS)]

Places = Mapping[str, str]
"""Where the records of a job lie: `kafka` (a topic), `parquet`, `text` (folders)."""


def ranks(number: int) -> npt.NDArray[np.int64]:
    """The words of a block's lines, by their rank: rank k is k times as rare as the first. Decided by its number."""
    rng = np.random.default_rng([3, number])
    return np.minimum(np.searchsorted(_CHANCES, rng.random((BLOCK, WORDS_A_LINE))), WORDS - 1)


def lines(number: int, count: int) -> list[bytes]:
    """
    >>> lines(0, 1) == lines(0, 2)[:1], len(lines(7, 3)), lines(0, 1)[0].count(b" ")
    (True, 3, 9)
    """
    return [b'{"text":"%s"}' % " ".join([_NAMES[n] for n in row]).encode() for row in ranks(number)[:count].tolist()]


def blocks(job: str, records: int) -> Iterator[list[bytes]]:
    """All records of a job."""
    for number in range(-(-records // BLOCK)):
        count = min(BLOCK, records - number * BLOCK)
        if job == "words":
            yield lines(number, count)
        else:
            yield [event for *_, event in events.Block(number, count).messages()]


def expected(job: str, records: int) -> events.Totals:
    """The job's totals, from the numbers that the records were made of.

    >>> sum(n for (n,) in expected("words", 25_000).values())
    250000
    """
    if job == "yahoo":
        return events.expected("views", records)
    counts = np.zeros(WORDS, np.int64)
    for number in range(-(-records // BLOCK)):
        counts += np.bincount(ranks(number)[: records - number * BLOCK].ravel(), minlength=WORDS)
    return {(_NAMES[n], 0): (int(counts[n]),) for n in np.flatnonzero(counts).tolist()}


def put(job: str, records: int, brokers: str, topic: str, folder: Path) -> Places:
    """Make topic and files, and put the records into them. Raises KafkaException."""
    events.create(brokers, topic)
    producer = Producer({"bootstrap.servers": brokers, **events.PRODUCER})
    schema = pa.schema([("_value", pa.binary())])
    places = {"kafka": topic, "parquet": str(folder / "parquet"), "text": str(folder / "text")}
    for kind in ("parquet", "text"):
        Path(places[kind]).mkdir(parents=True)
    with ExitStack() as closers:
        tables = [
            closers.enter_context(pq.ParquetWriter(folder / "parquet" / f"{n}.parquet", schema, compression="zstd"))
            for n in range(FILES)
        ]
        texts = [closers.enter_context((folder / "text" / f"{n}.jsonl").open("wb")) for n in range(FILES)]
        for number, block in enumerate(blocks(job, records)):
            where = number % FILES
            tables[where].write_table(pa.table({"_value": block}, schema))
            texts[where].write(b"\n".join(block) + b"\n")
            events.produce(producer, topic, [{"value": each} for each in block], where % events.PARTITIONS)
    if left := producer.flush(120):
        raise KafkaException(f"topic {topic}: {left:,} of {records:,} records were not taken within 120 s")
    print(f"{job}: {records:,} records on topic {topic} and in files", file=sys.stderr, flush=True)
    return places
