"""Events at a fixed rate, and among them probes: views of an ad and a campaign that come once.

python -m benchmarks.peers.rate BROKERS TOPIC RATE      # until standard input ends; a line for each probe
"""

from __future__ import annotations

import json
import select
import sys
import time
from typing import Any

from confluent_kafka import Producer

from benchmarks.peers.events import PARTITIONS, PRODUCER, START_MS, blocks, campaigns, produce

PROBES = 4_000
PROBE_TIME = START_MS
PROBE_SECONDS = 0.05
TICK_SECONDS = 0.005
EVENTS = 40_000  # sent again and again


def probe_campaign(number: int) -> str:
    return f"p{number}"


def probe_ad(number: int) -> str:
    return f"probe{number:011d}"


def probe_of(key: bytes) -> int | None:
    """The probe whose campaign a result's key begins with; None where it is none's.

    >>> probe_of(b"p12 1700000000000"), probe_of(b"p7"), probe_of(b"c12")
    (12, 7, None)
    """
    return int(key.split(b" ")[0][1:]) if key.startswith(b"p") else None


def probe_event(number: int) -> bytes:
    return (
        f'{{"user_id":"00000000-0000-0000-0000-000000000000","page_id":"00000000-0000-0000-0000-000000000000",'
        f'"ad_id":"{probe_ad(number)}","ad_type":"banner","event_type":"view","event_time":{PROBE_TIME},'
        f'"ip_address":"10.0.0.1","price":1}}'
    ).encode()


def all_campaigns() -> dict[str, str]:
    """Each ad's campaign, the probes' too."""
    return campaigns() | {probe_ad(n): probe_campaign(n) for n in range(PROBES)}


def send(brokers: str, topic: str, rate: int) -> None:
    """Says of each probe when it was produced; at the end, how many events were sent and how long that took."""
    producer = Producer({"bootstrap.servers": brokers, **PRODUCER, "linger.ms": "1"})
    waiting: list[list[dict[str, Any]]] = [[] for _ in range(PARTITIONS)]
    for block in blocks(EVENTS):
        for partition, campaign, _, event in block.messages():
            waiting[partition].append({"key": campaign, "value": event})
    began, sent, probe, turn = time.monotonic(), 0, 0, 0
    while not select.select([sys.stdin], [], [], TICK_SECONDS)[0]:
        elapsed = time.monotonic() - began
        while (due := int(elapsed * rate) - sent) > 0:
            of, start = waiting[turn % PARTITIONS], turn * 1_000 % (EVENTS // PARTITIONS // 2)
            some = of[start : start + min(due, 1_000)]
            produce(producer, topic, some, turn % PARTITIONS)
            sent, turn = sent + len(some), turn + 1
        if probe < min(PROBES, elapsed / PROBE_SECONDS):
            print(json.dumps({"probe": probe, "at": time.monotonic_ns()}), flush=True)
            message = {"key": probe_campaign(probe).encode(), "value": probe_event(probe)}
            produce(producer, topic, [message], probe % PARTITIONS)
            probe += 1
    producer.flush(30)
    print(json.dumps({"sent": sent, "seconds": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    send(sys.argv[1], sys.argv[2], int(sys.argv[3]))
