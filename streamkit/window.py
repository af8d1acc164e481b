"""Windows: event time as part of the key, so a late event lands in its window, whichever layer sees it.

Times are integers, milliseconds since the epoch (negative before 1970); a window is `[start, end)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import polars as pl

from streamkit.aggregate import TIME
from streamkit.errors import DefinitionError

S = TypeVar("S")

START, END = "__start", "__end"

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))


class Window(ABC):
    """How event time becomes windows, said twice, for one time and for columns."""

    merges: ClassVar[bool] = False
    """True where windows of one key grow together as events arrive, so states need `coalesce`."""

    @abstractmethod
    def assign(self, time: int) -> list[tuple[int, int]]:
        """The windows `(start, end)` of an event at `time`, earliest first."""

    @abstractmethod
    def explode(self, frame: pl.DataFrame, keys: Sequence[str] = ()) -> pl.DataFrame:
        """The frame, which has a column TIME, with START and END; a row once for each of its windows.

        `keys` are the columns within which sessions are found.
        """

    def coalesce(self, spans: Iterable[tuple[int, int, S]], merge: Callable[[S, S], S]) -> list[tuple[int, int, S]]:
        """Partial states `(start, end, state)` of one key, those of one window merged, by time."""
        merged: dict[tuple[int, int], S] = {}
        for start, end, state in spans:
            span = (start, end)
            merged[span] = merge(merged[span], state) if span in merged else state
        return [(*span, merged[span]) for span in sorted(merged)]

    @abstractmethod
    def describe(self) -> str:
        """Canonical text, part of every fingerprint: equal for equal windows, whatever units they were given in."""

    def __repr__(self) -> str:
        return self.describe()


@dataclass(frozen=True, repr=False)
class Unbounded(Window):
    """One window for all time, `(0, 0)`: no window at all, without a special case anywhere."""

    def assign(self, time: int) -> list[tuple[int, int]]:
        del time
        return [(0, 0)]

    def explode(self, frame: pl.DataFrame, keys: Sequence[str] = ()) -> pl.DataFrame:
        del keys
        zero = pl.lit(0, dtype=pl.Int64)
        return frame.with_columns(zero.alias(START), zero.alias(END))

    def describe(self) -> str:
        return "Unbounded()"


@dataclass(frozen=True, init=False, repr=False)
class Tumbling(Window):
    """Windows side by side, from the epoch on.

    >>> Tumbling(seconds=10).assign(12_345)
    [(10000, 20000)]
    >>> Tumbling(seconds=60) == Tumbling(minutes=1), Tumbling(seconds=90)
    (True, Tumbling(90s))
    """

    size_ms: int

    def __init__(self, *, seconds: float = 0, minutes: float = 0, hours: float = 0, days: float = 0) -> None:
        """Raises DefinitionError unless the size is above 0 and in whole milliseconds."""
        object.__setattr__(self, "size_ms", _milliseconds("Tumbling", "size", seconds, minutes, hours, days))

    def assign(self, time: int) -> list[tuple[int, int]]:
        start = time // self.size_ms * self.size_ms
        return [(start, start + self.size_ms)]

    def explode(self, frame: pl.DataFrame, keys: Sequence[str] = ()) -> pl.DataFrame:
        del keys
        start = pl.col(TIME) // self.size_ms * self.size_ms
        return frame.with_columns(start.alias(START), (start + self.size_ms).alias(END))

    def describe(self) -> str:
        return f"Tumbling({_span(self.size_ms)})"


@dataclass(frozen=True, init=False, repr=False)
class Hopping(Window):
    """Windows of one size that start `every` so many seconds, so an event is in several: moving sums and means.

    >>> Hopping(seconds=60, every=30).assign(70_000)
    [(30000, 90000), (60000, 120000)]
    """

    size_ms: int
    every_ms: int

    def __init__(
        self, *, every: float, seconds: float = 0, minutes: float = 0, hours: float = 0, days: float = 0
    ) -> None:
        """`every` is in seconds. Raises DefinitionError unless `0 < every <= size`, both in whole milliseconds."""
        object.__setattr__(self, "size_ms", _milliseconds("Hopping", "size", seconds, minutes, hours, days))
        object.__setattr__(self, "every_ms", _milliseconds("Hopping", "every", every))
        if self.every_ms > self.size_ms:
            raise DefinitionError(
                f"{self}: a window every {_span(self.every_ms)} of {_span(self.size_ms)} leaves events in none; "
                f"expected every <= size"
            )

    def assign(self, time: int) -> list[tuple[int, int]]:
        after = time // self.every_ms * self.every_ms
        first = (time - self.size_ms) // self.every_ms * self.every_ms + self.every_ms
        return [(start, start + self.size_ms) for start in range(first, after + 1, self.every_ms)]

    def explode(self, frame: pl.DataFrame, keys: Sequence[str] = ()) -> pl.DataFrame:
        del keys
        after = pl.col(TIME) // self.every_ms * self.every_ms
        first = (pl.col(TIME) - self.size_ms) // self.every_ms * self.every_ms + self.every_ms
        starts = pl.int_ranges(first, after + 1, self.every_ms, dtype=pl.Int64)
        return (
            frame.with_columns(starts.alias(START))
            .explode(START, empty_as_null=True, keep_nulls=True)
            .with_columns((pl.col(START) + self.size_ms).alias(END))
        )

    def describe(self) -> str:
        return f"Hopping({_span(self.size_ms)}, every={_span(self.every_ms)})"


@dataclass(frozen=True, init=False, repr=False)
class Session(Window):
    """Events of a key with less than so much silence between them; a silence of exactly the gap begins a new session.

    >>> Session(seconds=30).assign(1_000)
    [(1000, 31000)]

    An event covers `[time, time + gap)`, a session is a connected component of such covers, so any partial sessions
    (of a batch, a partition, a layer) become sessions by joining those that overlap, in any order: `coalesce`.
    """

    merges: ClassVar[bool] = True

    gap_ms: int

    def __init__(self, *, seconds: float = 0, minutes: float = 0, hours: float = 0, days: float = 0) -> None:
        """Raises DefinitionError unless the gap is above 0 and in whole milliseconds."""
        object.__setattr__(self, "gap_ms", _milliseconds("Session", "gap", seconds, minutes, hours, days))

    def assign(self, time: int) -> list[tuple[int, int]]:
        return [(time, time + self.gap_ms)]

    def explode(self, frame: pl.DataFrame, keys: Sequence[str] = ()) -> pl.DataFrame:
        """Sessions of the frame's rows alone, by which the rows are sorted; `coalesce` joins them with others."""
        silence = pl.col(TIME).diff().fill_null(self.gap_ms) >= self.gap_ms
        begins = pl.any_horizontal(silence, *(pl.col(key).ne_missing(pl.col(key).shift()) for key in keys))
        session = begins.cum_sum()
        return (
            frame.sort(*keys, TIME, nulls_last=False)
            .with_columns(session.alias(START))
            .with_columns(
                pl.col(TIME).min().over(START).alias(START), (pl.col(TIME).max().over(START) + self.gap_ms).alias(END)
            )
        )

    def coalesce(self, spans: Iterable[tuple[int, int, S]], merge: Callable[[S, S], S]) -> list[tuple[int, int, S]]:
        merged: list[tuple[int, int, S]] = []
        for start, end, state in sorted(spans, key=lambda span: span[:2]):
            if merged and start < merged[-1][1]:
                first, last, before = merged[-1]
                merged[-1] = (first, max(last, end), merge(before, state))
            else:
                merged.append((start, end, state))
        return merged

    def describe(self) -> str:
        return f"Session({_span(self.gap_ms)})"


def _milliseconds(window: str, what: str, seconds: float, minutes: float = 0, hours: float = 0, days: float = 0) -> int:
    exact = seconds * 1_000 + minutes * 60_000 + hours * 3_600_000 + days * 86_400_000
    if not exact > 0:
        raise DefinitionError(f"{window}: {what} is {exact / 1_000:g} s, expected more than 0, such as seconds=10")
    if not float(exact).is_integer():
        raise DefinitionError(f"{window}: {what} is {exact:g} ms, expected whole milliseconds")
    return round(exact)


def _span(milliseconds: int) -> str:
    """In the largest unit that says it exactly.

    >>> _span(90_000), _span(3_600_000), _span(1_500)
    ('90s', '1h', '1500ms')
    """
    unit, size = next((unit, size) for unit, size in _UNITS if milliseconds % size == 0)
    return f"{milliseconds // size}{unit}"
