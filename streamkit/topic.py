"""Topics: a Kafka topic's name with what is known of its values."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from streamkit.codec import Codec, Json
from streamkit.errors import DefinitionError
from streamkit.schema import Schema, milliseconds

ErrorPolicy = Literal["dead_letter", "skip", "fail"]
"""What becomes of a record that cannot be used: sent to `NAME.dead-letter`, counted, or the end of the worker."""

REPLAYABLE = {
    "retention.ms": "-1",
    "message.timestamp.after.max.ms": str(2**63 - 1),
}
"""Configuration of topics that StreamKit makes. A record's timestamp is its event time: by Kafka's defaults one long
past is deleted at once, so a replay would find nothing, and one more than an hour ahead is refused."""

_NAME = re.compile(r"[a-zA-Z0-9._-]{1,200}")


@dataclass(frozen=True)
class Topic:
    """A topic and the type of its values.

    `timestamp` names the field that holds the event time (int milliseconds since the epoch, or datetime; without it
    the record's own timestamp counts); `key` the field whose text is the record's key, so that a key's events stay in
    one partition.
    """

    name: str
    value: Any
    timestamp: str | None = None
    key: str | None = None
    partitions: int = 4
    errors: ErrorPolicy = "dead_letter"
    codec: Codec = field(default_factory=Json)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in (".", ".."):
            raise DefinitionError(f"topic name {self.name!r}: use 1 to 200 letters, digits, '.', '_' and '-'")
        if self.partitions < 1:
            raise DefinitionError(f"topic {self.name!r}: partitions must be 1 or more, got {self.partitions}")
        if self.errors not in get_args(ErrorPolicy):
            raise DefinitionError(
                f"topic {self.name!r}: errors must be one of {', '.join(get_args(ErrorPolicy))}, got {self.errors!r}"
            )
        try:
            schema = Schema.of(self.value)
            if self.key is not None:
                _ = schema[self.key]
            self._check_timestamp(schema)
        except DefinitionError as error:
            raise DefinitionError(f"topic {self.name!r}: {error}") from None

    def _check_timestamp(self, schema: Schema) -> None:
        if self.timestamp is None:
            return
        found = schema[self.timestamp]
        if found.type not in (int, dt.datetime) or found.optional:
            raise DefinitionError(
                f"timestamp field {self.timestamp!r} must be int (milliseconds since the epoch) or datetime, "
                f"and not optional; it is {found.type!r}{' | None' if found.optional else ''}"
            )

    @cached_property
    def schema(self) -> Schema:
        return Schema.of(self.value)

    @cached_property
    def decode(self) -> Callable[[bytes], Any]:
        """Raises ValueError with the reason."""
        return self.codec.decoder(self.value)

    @cached_property
    def encode(self) -> Callable[[Any], bytes]:
        return self.codec.encoder(self.value)

    def key_of(self, value: Any) -> bytes | None:
        """The record key of a value: the text of its key field."""
        if self.key is None:
            return None
        item = getattr(value, self.key)
        return None if item is None else str(item).encode()

    def time_of(self, value: Any) -> int | None:
        """The event time of a value in milliseconds; None where the record's own timestamp counts."""
        if self.timestamp is None:
            return None
        moment = getattr(value, self.timestamp)
        return milliseconds(moment) if isinstance(moment, dt.datetime) else int(moment)

    @property
    def dead_letters(self) -> str:
        return f"{self.name}.dead-letter"

    @property
    def replays(self) -> str:
        """Where `streamkit dead-letter replay` sends events that an agent missed: never to the topic itself,
        where every View would count them a second time."""
        return f"{self.name}.replay"

    def describe(self) -> dict[str, Any]:
        """What the meaning of its records depends on: part of every View's fingerprint."""
        return {
            "topic": self.name,
            "codec": self.codec.name,
            "schema": self.schema.describe(),
            "timestamp": self.timestamp,
        }
