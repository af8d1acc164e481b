"""How long after a kill -9 until the first new checkpoint: StreamKit, Kafka Streams and Quix Streams on one load.

    python -m benchmarks.recovery [--keys 1000000 ...] [--peers kafka-streams quix streamkit] [--rounds 3] [--no-save]

Every peer keeps a count and a sum per key, exactly once, state in RocksDB and on a changelog, a checkpoint a second.
It is killed under load, with its disk intact and with its disk lost, and started again at once. What is timed is seen
from outside and is the same for all: the offsets that its group has committed on the source topic move beyond what was
committed at the kill. A figure counts only if afterwards every key's count and sum are right.

    load.py            the events: the topic's fill, a sender in the background, what every key must come to
    peer.py            what a peer is (`Peer`), what it is told (`Job`), its process
    watch.py           committed offsets and lag, from outside
    totals.py          reading a changelog, comparing it with what it must hold
    trial.py           build, kill, start again, time
    report.py          medians, recovery.md and recovery.json
    kafka_streams.py   Kafka Streams: CountPerKey.java, jars and compiler from Maven Central
    quix.py            Quix Streams: quix_count.py, in a virtual environment of its own
    streamkit.py       StreamKit
"""
