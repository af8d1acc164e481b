"""Compaction of changelogs: what is no more, or is another value by now, need not be on one for ever.

While a task goes on working, each Checkpoint also copies a piece of the whole state to the changelog's end, key by key.
Once all has been copied the state is on the log twice, and what lies before the copying began is deleted:

    ....................|=======...=======...====...|.......   . changes   = copies
    ^ start             ^ began                     ^ copied: from here on the log may begin where it `began`

Who restores from there meets each key that there is: it was copied, unless it came after its place had been passed, and
then it is among the changes. A key that was changed or deleted after it was copied has that later on the log.

As the cleaner of a log-structured file system does it (Rosenblum and Ousterhout, "The design and implementation of a
log-structured file system", SOSP 1991); Kafka's own compaction knows keys of records only, not of what is in a Block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from streamkit.log.base import Change

LEAST = 32 << 20
"""Bytes of a changelog that are never worth copying: a copy of the state is made of them in a second."""
TIMES = 4
"""A changelog becomes this many times as large as the state before it is compacted."""
PIECE = 64 << 10
"""Bytes that a Checkpoint copies at least; else as many as it has changed, so copying ends, and costs a part of it."""


class Run(msgspec.Struct, frozen=True, array_like=True):
    """A compaction under way: the offset where it `began`, the next key to copy, bytes copied and written since."""

    began: int
    cursor: bytes = b""
    copied: int = 0
    written: int = 0


class Compaction(msgspec.Struct, frozen=True, array_like=True):
    """How a task's changelog is compacted; part of each of its Checkpoints.

    From offset `start` on the changelog has the whole state; `written` are the bytes of changes and copies since, and
    `size` those of the state, as nearly as is known.
    """

    start: int = 0
    written: int = 0
    size: int = 0
    run: Run | None = None

    def advance(
        self, end: int, changed: int, grown: int, entries: Callable[[bytes], Iterator[tuple[bytes, bytes]]]
    ) -> tuple[Compaction, list[Change]]:
        """The next Checkpoint's, and what it copies, before the changes that it makes.

        `end` is the changelog's end before it; its changes have `changed` bytes, `grown` of them for keys that are new.
        `entries` are the state before it from a key on.

        >>> state = [(b"a", b"1"), (b"b", b"2")]
        >>> Compaction(written=LEAST).advance(70, 10, 0, lambda key: iter(state))
        (Compaction(start=70, written=14, size=4, run=None), [(b'a', b'1'), (b'b', b'2')])
        """
        size, run = self.size + grown, self.run
        if run is None:
            written = self.written + changed
            if written <= LEAST + TIMES * size:
                return Compaction(self.start, written, size), []
            run = Run(end)
        copies: list[Change] = []
        copied, room = 0, max(PIECE, changed)
        for key, value in entries(run.cursor):
            if copied >= room:
                run = Run(run.began, key, run.copied + copied, run.written + changed + copied)
                return Compaction(self.start, self.written + changed + copied, size, run), copies
            copies.append((key, value))
            copied += len(key) + len(value)
        return Compaction(run.began, run.written + changed + copied, run.copied + copied + grown), copies
