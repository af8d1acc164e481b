"""Dead letters: records that could not be used, kept with the reason on the topic `NAME.dead-letter`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamkit.record import Headers, Record, TopicPartition

Kind = Literal["decode", "view", "agent"]
"""Who could not use it: nobody (its bytes are no value of the topic), one View's expressions, or one Agent."""

_PREFIX = "streamkit."
REPLAY_AGENT = _PREFIX + "agent"
"""Header of a replayed event: the agent it is meant for."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record's bytes, where it lay, and why it is here. `by` is the View or Agent; empty for `decode`."""

    kind: Kind
    by: str
    reason: str
    source: TopicPartition
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None

    @property
    def identity(self) -> tuple[str, str, TopicPartition, int]:
        """What makes two dead letters the same one, written again after a crash."""
        return self.kind, self.by, self.source, self.offset

    def headers(self) -> Headers:
        return [
            (_PREFIX + "kind", self.kind.encode()),
            (_PREFIX + "by", self.by.encode()),
            (_PREFIX + "reason", self.reason.encode()),
            (_PREFIX + "topic", self.source.topic.encode()),
            (_PREFIX + "partition", str(self.source.partition).encode()),
            (_PREFIX + "offset", str(self.offset).encode()),
            (_PREFIX + "timestamp", str(self.timestamp).encode()),
        ]

    @classmethod
    def of(cls, record: Record) -> DeadLetter:
        """Raises ValueError where the record was not written by `headers`.

        >>> letter = DeadLetter("agent", "alert", "boom", TopicPartition("clicks", 2), 7, 1_000, None, b"{}")
        >>> DeadLetter.of(Record("clicks.dead-letter", 0, 0, 5, None, b"{}", letter.headers())) == letter
        True
        """
        found = {name.removeprefix(_PREFIX): (value or b"").decode() for name, value in record.headers}
        kind = found.get("kind")
        if kind not in ("decode", "view", "agent"):
            raise ValueError(f"{record.topic}/{record.partition}/{record.offset} is no dead letter of StreamKit's")
        source = TopicPartition(found["topic"], int(found["partition"]))
        return cls(
            kind,  # type: ignore[arg-type]
            found["by"],
            found["reason"],
            source,
            int(found["offset"]),
            int(found["timestamp"]),
            record.key,
            record.value,
        )
