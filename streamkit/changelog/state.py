"""What a store has of a task besides its state: how far its copy is, what of its changelog is compacted, its format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec

from streamkit.changelog.changes import Changes
from streamkit.changelog.compaction import Compaction
from streamkit.checkpoint import (
    COMPACTION_KEY,
    FORMAT_KEY,
    FORMAT_VERSION,
    Mark,
    Position,
    pack,
    position_key,
    task_prefix,
)
from streamkit.errors import StateError
from streamkit.log.base import Change
from streamkit.packed import Packed
from streamkit.record import TopicPartition
from streamkit.store.base import Store, StoreReader, Write

_unpack_position = msgspec.msgpack.Decoder(Position).decode
_unpack_compaction = msgspec.msgpack.Decoder(Compaction).decode
_unpack_mark = msgspec.msgpack.Decoder(Mark).decode
_unpack_format = msgspec.msgpack.Decoder(list[Any]).decode
_NUMBER = 8


def unpack_mark(value: bytes, task: TopicPartition) -> Mark:
    """The Mark at the end of a Checkpoint of a task. Raises StateError where its format is not this version's.

    A Checkpoint is applied together with its Mark, so nothing that cannot be read gets into a copy with it.
    """
    found = _unpack_format(value)[0]
    if found != FORMAT_VERSION:
        raise StateError(
            f"the changelog of {task} was written in format {found!r}, this version of StreamKit reads "
            f"{FORMAT_VERSION}: use the version that wrote it; or stop the workers and begin anew: "
            f"`streamkit reset TOPOLOGY`"
        )
    return _unpack_mark(value)


def has_format(store: Store | StoreReader) -> bool:
    """Can this version read the copies in a store? One without a format is new."""
    found = store.get([FORMAT_KEY])[0]
    return found is None or int.from_bytes(found, "big") == FORMAT_VERSION


def claim_format(store: Store, about: str) -> None:
    """Give a new store this version's format. Raises StateError where it has another; `about` says what lies there."""
    if not has_format(store):
        found = int.from_bytes(store.get([FORMAT_KEY])[0] or b"", "big")
        raise StateError(
            f"{about} has format {found}, this version of StreamKit reads {FORMAT_VERSION}: use the version that wrote "
            f"it; or stop the workers and begin anew: `streamkit reset TOPOLOGY`"
        )
    store.write(Write(puts=[(FORMAT_KEY, FORMAT_VERSION.to_bytes(_NUMBER, "big"))]))


def store_write(changes: Mapping[TopicPartition, Changes]) -> Write:
    """The Write that makes a store's copies of tasks what a Checkpoint made of them, but for their Positions."""
    puts: list[Change] = []
    deletes: list[bytes] = []
    packed: list[Packed] = []
    for changed in changes.values():
        gone = [key for key, value in changed.rows if value is None]
        puts += [change for change in changed.rows if change[1] is not None] if gone else changed.rows
        deletes += gone
        packed += changed.packed
    return Write(puts=cast("list[tuple[bytes, bytes]]", puts), deletes=deletes, packed=packed)


def position_puts(positions: Mapping[TopicPartition, Position]) -> list[tuple[bytes, bytes]]:
    """The rest of that Write, which is known when the Checkpoint is on the changelogs."""
    return [(position_key(task), pack(position)) for task, position in positions.items()]


def within(task: TopicPartition, changes: Iterable[Change]) -> list[Change]:
    """Changes of a task by the keys that they have in a store and on a changelog."""
    prefix = task_prefix(task)
    return [(prefix + key, value) for key, value in changes]


def position_of(store: Store | StoreReader, task: TopicPartition) -> Position | None:
    found = store.get([position_key(task)])[0]
    return None if found is None else _unpack_position(found)


def compaction_of(store: Store | StoreReader, task: TopicPartition) -> Compaction | None:
    found = store.get([task_prefix(task) + COMPACTION_KEY])[0]
    return None if found is None else _unpack_compaction(found)
