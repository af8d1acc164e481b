"""A worker in a process of its own, to be stopped and killed: it commits, and says where it is (`test_groups.py`)."""

from __future__ import annotations

import sys

from streamkit.errors import Fenced
from streamkit.log.kafka import KafkaLog, KafkaMember
from streamkit.record import TopicPartition
from streamkit.settings import Connection
from streamkit.testing.group_contracts import Hearer, share, wait


def say(word: str) -> None:
    print(word, flush=True)


def main(brokers: str, name: str) -> None:
    log = KafkaLog(Connection(brokers))
    hearer = Hearer()
    member: KafkaMember = log.join(f"{name}-group", [f"{name}-in"], hearer)
    share({TopicPartition(f"{name}-in", number) for number in range(4)}, member)
    say("has all")
    committer = log.committer(name)
    ask = member.metadata

    def asked() -> object:
        """The records are on the log; the offsets are next."""
        if not stopped:
            stopped.append("flushed")
            say("flushed")
            sys.stdin.readline()
        return ask()

    stopped: list[str] = []
    member.metadata = asked  # type: ignore[method-assign]
    while True:
        changes = {TopicPartition(f"{name}-changelog", 0): [(b"k", b"zombie")] * 3}
        try:
            committer.commit(changes, {TopicPartition(f"{name}-in", 0): 5}, member)
            say("committed")
        except Fenced:
            say("fenced")
        if sys.stdin.readline().strip() == "poll":
            break
    wait(lambda: bool(hearer.of("lost")), member)
    say(f"lost {len(hearer.of('lost'))}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
