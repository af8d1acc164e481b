"""The events, what each job must come to, and whether it did."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from benchmarks.peers.task import HOPPING_MS, WINDOW_MS

CAMPAIGNS, ADS_EACH, USERS, PARTITIONS = 100, 10, 50_000, 4
AD_TYPES = ("banner", "modal", "sponsored-search", "mail", "mobile")
EVENT_TYPES = ("view", "click", "purchase")
START_MS = 1_700_000_000_000
EVENTS_PER_SECOND = 10_000  # of event time
SKEW_MS = 50  # as in the Yahoo benchmark with skew
MEDIAN_PRICE, PRICE_SIGMA = 500_000, 0.7
BLOCK = 20_000
_PLACE = 10_000_000_000_000  # campaign and start of a window, in one number
JOBS = ("views", "unique", "heavy", "agent")

Totals = dict[tuple[str, int], tuple[float, ...]]
"""Key and start of the window -> the job's numbers, the count first."""
Integers = npt.NDArray[np.int64]

TOLERANCE: Mapping[str, tuple[float, ...]] = {
    "views": (0,),
    "unique": (0,),
    "heavy": (0, 0, 0, 0, 0.1, 0.1),
    "agent": (0, 1e-9, 1e-9),
}
"""By which part each number may be off: distinct users and medians may be estimates."""
FEW = 500
"""Of fewer events estimates are not compared: a median of few is what its definition makes of it."""

PRODUCER = {
    "log_level": "3",
    "linger.ms": "20",
    "compression.type": "lz4",
    "enable.idempotence": "true",
    "queue.buffering.max.messages": "500000",
    "queue.buffering.max.kbytes": "262144",
}


def ad_of(number: int) -> str:
    """An ad's name: 16 hex digits, in no order (2^64 / golden ratio)."""
    return f"{number * 0x9E3779B97F4A7C15 & 0xFFFF_FFFF_FFFF_FFFF:016x}"


def campaigns() -> dict[str, str]:
    """Each ad's campaign.

    >>> len(campaigns()), len(set(campaigns().values()))
    (1000, 100)
    """
    return {ad_of(n): f"c{n // ADS_EACH}" for n in range(CAMPAIGNS * ADS_EACH)}


@dataclass(frozen=True, eq=False)
class Block:
    """Columns of as many events as there are in a block, decided by its number alone."""

    number: int
    count: int = BLOCK

    @cached_property
    def _draw(self) -> dict[str, Integers]:
        rng = np.random.default_rng([1, self.number])
        at = np.arange(self.number * BLOCK, (self.number + 1) * BLOCK) * 1_000 // EVENTS_PER_SECOND
        drawn = {
            "ad": rng.integers(0, CAMPAIGNS * ADS_EACH, BLOCK),
            "kind": rng.integers(0, len(EVENT_TYPES), BLOCK),
            "user": rng.integers(0, USERS, BLOCK),
            "time": START_MS + at + rng.integers(-SKEW_MS, SKEW_MS + 1, BLOCK),
            "price": np.rint(MEDIAN_PRICE * rng.lognormal(0.0, PRICE_SIGMA, BLOCK)).astype(np.int64),
        }
        return {name: column[: self.count] for name, column in drawn.items()}

    def __getitem__(self, column: str) -> Integers:
        return self._draw[column]

    @property
    def campaign(self) -> Integers:
        return self["ad"] // ADS_EACH

    def messages(self) -> Iterator[tuple[int, bytes, bytes, bytes]]:
        """Partition, campaign, page, JSON of each event."""
        pages = np.random.default_rng([2, self.number]).bytes(16 * BLOCK).hex()
        columns = (self[name].tolist() for name in ("ad", "kind", "user", "time", "price"))
        for n, (ad, kind, user, time, price) in enumerate(zip(*columns, strict=True)):
            page = _uuid(pages[32 * n : 32 * n + 32])
            campaign = ad // ADS_EACH
            event = (
                f'{{"user_id":"{_uuid(f"{user * 0x9E3779B97F4A7C15:032x}")}","page_id":"{page}","ad_id":"{ad_of(ad)}",'
                f'"ad_type":"{AD_TYPES[ad % 5]}","event_type":"{EVENT_TYPES[kind]}","event_time":{time},'
                f'"ip_address":"10.{user >> 16}.{user >> 8 & 255}.{user & 255}","price":{price}}}'
            )
            yield campaign % PARTITIONS, b"c%d" % campaign, page.encode(), event.encode()


def blocks(events: int) -> Iterator[Block]:
    for number in range(-(-events // BLOCK)):
        yield Block(number, min(BLOCK, events - number * BLOCK))


def _uuid(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def create(brokers: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": brokers, "log_level": 3})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1, config={"retention.ms": "-1"})])[topic].result()


def fill(brokers: str, topic: str, events: int, *, by_page: bool = False) -> None:
    """Make the topic and put the events on it, keyed by campaign or by page. Raises KafkaException."""
    create(brokers, topic)
    producer = Producer({"bootstrap.servers": brokers, **PRODUCER})
    for block in blocks(events):
        by_partition: list[list[dict[str, Any]]] = [[] for _ in range(PARTITIONS)]
        for n, (partition, campaign, page, event) in enumerate(block.messages()):
            where, key = (n % PARTITIONS, page) if by_page else (partition, campaign)
            by_partition[where].append({"key": key, "value": event})
        for partition, some in enumerate(by_partition):
            produce(producer, topic, some, partition)
    if left := producer.flush(60):
        raise KafkaException(f"topic {topic}: {left:,} of {events:,} events were not taken within 60 s")
    print(f"topic {topic}: {events:,} events", file=sys.stderr)


def produce(producer: Producer, topic: str, some: list[dict[str, Any]], partition: int) -> None:
    """Send them all, waiting where the queue is full."""
    while some and producer.produce_batch(topic, some, partition=partition) < len(some):
        some = [each for each in some if each.pop("_error", None)]
        producer.poll(0.1)
    producer.poll(0)


# -- what a job must come to -------------------------------------------------------------------------------------------


def expected(job: str, events: int) -> Totals:
    """The job's totals, from the numbers that the events were made of."""
    if job == "unique":
        return {("keys", 0): (events,), ("events", 0): (events,)}
    drawn = list(blocks(events))
    view = np.concatenate([block["kind"] for block in drawn]) == 0
    columns = {name: np.concatenate([block[name] for block in drawn])[view] for name in ("ad", "user", "time", "price")}
    campaign = columns["ad"] // ADS_EACH
    if job == "agent":
        return {
            (f"c{n}", 0): (len(some), float(some.mean()), float(some.std()))
            for n, some in _grouped(campaign, columns["price"])
        }
    if job == "views":
        windows = columns["time"] // WINDOW_MS
        pairs, numbers = np.unique(np.stack([campaign, windows]), axis=1, return_counts=True)
        return {
            (f"c{n}", window * WINDOW_MS): (count,)
            for n, window, count in zip(*pairs.tolist(), numbers.tolist(), strict=True)
        }
    return _heavy(campaign, columns["time"], columns["user"], columns["price"])


def _grouped(keys: Integers, values: Integers) -> Iterator[tuple[int, Integers]]:
    order = np.argsort(keys, kind="stable")
    found, starts = np.unique(keys[order], return_index=True)
    yield from zip(found.tolist(), np.split(values[order], starts[1:]), strict=True)


def _heavy(campaign: Integers, times: Integers, users: Integers, prices: Integers) -> Totals:
    """Each event is in six windows: all that start in the 60 s up to it."""
    starts = [(times // WINDOW_MS - back) * WINDOW_MS for back in range(HOPPING_MS // WINDOW_MS)]
    places = np.concatenate([campaign * _PLACE + each for each in starts])
    rows = np.tile(np.arange(len(campaign)), len(starts))
    found: Totals = {}
    for place, some in _grouped(places, rows):
        got = prices[some]
        numbers = len(got), int(got.sum()), int(got.min()), int(got.max()), len(np.unique(users[some]))
        found[f"c{place // _PLACE}", place % _PLACE] = (*numbers, float(np.median(got)))
    return found


def total(totals: Totals) -> int:
    """What the counts sum to: of `unique` the events only."""
    return int(totals[("events", 0)][0] if ("events", 0) in totals else sum(row[0] for row in totals.values()))


def wrong(job: str, found: Sequence[Sequence[Any]], right: Totals) -> str:
    """What differs from the right totals, empty where nothing does.

    >>> right = {("c1", 0): (5,), ("c2", 0): (7,)}
    >>> wrong("views", [["c1", 0, 5], ["c2", 0, 7]], right)
    ''
    >>> wrong("views", [["c1", 0, 5], ["c2", 0, 8]], right)
    '1 of 2 totals are wrong; c2, window 0: (8,), expected (7,)'
    >>> wrong("views", [["c1", 0, 5]], right)
    '1 of 2 totals are wrong; c2, window 0: nothing, expected (7,)'
    """
    got: dict[tuple[str, int], tuple[Any, ...]] = {(row[0], int(row[1])): tuple(row[2:]) for row in found}
    bad = [where for where in right | got if not _near(job, got.get(where), right.get(where))]
    if not bad:
        return ""
    where = bad[0]
    return (
        f"{len(bad):,} of {len(right):,} totals are wrong; {where[0]}, window {where[1]}: "
        f"{got.get(where, 'nothing')}, expected {right.get(where, 'nothing')}"
    )


def _near(job: str, got: tuple[Any, ...] | None, right: tuple[float, ...] | None) -> bool:
    """Numbers that a peer does not have (None) are not compared."""
    if got is None or right is None or len(got) != len(right):
        return False
    return all(
        g is None or (allowed >= 0.01 and right[0] < FEW) or abs(g - r) <= allowed * abs(r)
        for g, r, allowed in zip(got, right, TOLERANCE[job], strict=True)
    )
