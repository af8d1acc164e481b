"""Steps of records: pairs by the user's functions, one record or one key at a time."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import polars as pl

from streamkit.batch.mapreduce.pairs import KEY, VALUE, Pairs
from streamkit.batch.mapreduce.task import Skipped, TaskContext, TaskFailed, user_traceback
from streamkit.errors import DefinitionError
from streamkit.keys import decode_key
from streamkit.mapreduce import Step, To, pairs_of, takes_context

Pair = tuple[Any, Any]
Emit = Callable[[list[Pair]], None]

FIRST, MOST, MOST_COMBINED = 1_000, 50_000, 1_000_000
"""Pairs that wait before they become rows (with `combine`: before they are combined): at first, and at most."""
TOGETHER = 500
"""Pairs of `map` that are looked at together."""
_OBJECT = 100
"""Bytes that a value takes in memory beside what it weighs when it is written."""
_WAITING_SHARE = 8
"""Of a task's memory, pairs take so much while they wait; as rows they are there once more."""


def bound(function: Callable[..., Any], context: TaskContext) -> Callable[..., Any]:
    return partial(function, context=context) if takes_context(function) else function


class Mapper:
    """Runs `map` over values, and passes the pairs on; side outputs go to `side`.

    A value that `map` fails on is skipped while the job allows for that, and nothing it had yielded counts.
    """

    def __init__(self, step: Step, context: TaskContext, emit: Emit, side: Callable[[To], None], skip: int) -> None:
        assert step.map is not None
        self._map, self._context, self._emit, self._side = bound(step.map, context), context, emit, side
        self._skip = skip

    def feed(self, values: Sequence[Any], where: Callable[[int], str]) -> None:
        """`where(i)` tells where the i-th value comes from. Raises TaskFailed with that."""
        mapped, wants = self._map, isinstance(self._map, partial)
        made: list[Any] = []
        for at, value in enumerate(values):
            if wants:
                self._context.where = where(at)
            whole = len(made)
            try:
                made += pairs_of(mapped(value))
            except (DefinitionError, TaskFailed):
                raise
            except Exception as error:
                self._failed(where(at), error)
                del made[whole:]
            if len(made) >= TOGETHER or at + 1 == len(values):
                self._pass_on(made)
                made = []

    def pairs(self, pairs: list[Pair]) -> None:
        """Pairs of the step before. Raises TaskFailed."""
        for key, value in pairs:
            try:
                self._pass_on(list(pairs_of(self._map(key, value))))
            except (DefinitionError, TaskFailed):
                raise
            except Exception as error:
                raise TaskFailed(f"map failed at key {key!r}: {error!r}", user_traceback(error)) from error

    def _pass_on(self, made: list[Any]) -> None:
        if set(map(type, made)) <= _PAIR:
            self._emit(made)
            return
        for pair in made:
            if type(pair) is To:
                self._side(pair)
            else:
                self._emit([checked_pair(pair, "map")])

    def _failed(self, where: str, error: Exception) -> None:
        trace = user_traceback(error)
        skipped = self._context.done.skipped
        if len(skipped) >= self._skip:
            skips = f" ({len(skipped)} were skipped before, skip={self._skip})" if self._skip else ""
            raise TaskFailed(f"map failed at {where}: {error!r}{skips}", trace) from error
        skipped.append(Skipped(where, repr(error), trace if not skipped else ""))


_PAIR = {tuple}


class Shuffled:
    """Collects pairs, and hands over rows of the shuffle; combines them before where the step can."""

    def __init__(
        self, step: Step, pairs: Pairs, context: TaskContext, write: Callable[[pl.DataFrame], None], memory: int
    ) -> None:
        self._pairs, self._write, self._memory = pairs, write, memory
        self._combine = None if step.combine is None else combining(bound(step.combine, context))
        self._groups: defaultdict[Any, list[Any]] = defaultdict(list)
        self._keys: list[Any] = []
        self._values: list[Any] = []
        self._waiting, self._limit = 0, FIRST
        self.emit: Emit = self._flat if self._combine is None else self._grouped

    def _flat(self, pairs: list[Pair]) -> None:
        for key, value in _two(pairs):
            self._keys.append(key)
            self._values.append(value)
        if len(self._keys) >= self._limit:
            self._limit = self._room(self._values, MOST)
            self.close()

    def _grouped(self, pairs: list[Pair]) -> None:
        groups = self._groups
        try:
            for key, value in _two(pairs):
                groups[key].append(value)
        except TypeError as error:
            raise DefinitionError(f"a key must be hashable: {error}") from None
        self._waiting += len(pairs)
        if self._waiting >= self._limit:
            self._combine_all()
            self._limit = self._room((values[0] for values in groups.values()), MOST_COMBINED)
            self._waiting = sum(map(len, groups.values()))
            if 2 * self._waiting >= self._limit:  # combining makes too little room: what there is goes out
                self._hand_over()

    def _room(self, values: Iterable[Any], most: int) -> int:
        """How many values may wait, by what some of them weigh."""
        some = list(islice(values, 64))
        weight = sum(map(len, self._pairs.dump(some))) // max(1, len(some)) + _OBJECT
        return max(FIRST, min(most, self._memory // _WAITING_SHARE // weight))

    def close(self) -> None:
        """Hand over what waits."""
        if self._groups:
            self._combine_all()
            self._hand_over()
        if self._keys:
            frame = self._pairs.frame(self._keys, self._values)
            self._keys, self._values = [], []
            self._write(frame)

    def _combine_all(self) -> None:
        assert self._combine is not None
        combine, groups = self._combine, self._groups
        for key, values in groups.items():
            if len(values) > 1:
                groups[key] = combine(key, values)

    def _hand_over(self) -> None:
        for key, values in self._groups.items():
            self._keys += [key] * len(values)
            self._values += values
        self._groups.clear()
        self._waiting = 0
        frame = self._pairs.frame(self._keys, self._values)
        self._keys, self._values = [], []
        self._write(frame)


def _two(pairs: list[Pair]) -> list[Pair]:
    """Raises DefinitionError where one is not of two."""
    if set(map(len, pairs)) - {2}:
        raise DefinitionError(f"a pair is (key, value); got {next(p for p in pairs if len(p) != 2)!r}")
    return pairs


def checked_pair(made: Any, name: str) -> Pair:
    if type(made) is tuple and len(made) == 2:
        return made
    raise DefinitionError(f"{name} must yield pairs (key, value), or sk.To(...); it yielded {made!r}")


def combining(function: Callable[..., Any]) -> Callable[[Any, list[Any]], list[Any]]:
    """`combine` as a function to a list of values: a generator yields several, any other returns one."""
    plain = function.func if isinstance(function, partial) else function
    many = inspect.isgeneratorfunction(plain)

    def combine(key: Any, values: list[Any]) -> list[Any]:
        try:
            return list(function(key, values)) if many else [function(key, values)]
        except Exception as error:
            raise TaskFailed(f"combine failed at key {key!r}: {error!r}", user_traceback(error)) from error

    return combine


def reduced(
    step: Step, pairs: Pairs, context: TaskContext, rows: Iterable[pl.DataFrame]
) -> Iterator[tuple[Any, Pair | To]]:
    """What `reduce` makes of sorted rows, each with the key that it was made of. Raises TaskFailed with the key."""
    assert step.reduce is not None
    reduce, first, second = bound(step.reduce, context), itemgetter(0), itemgetter(1)
    for raw, group in groupby(_sorted_pairs(pairs, context, rows), key=first):
        key = decode_key(raw)
        context.where = f"key {key!r}"
        try:
            for made in pairs_of(reduce(key, map(second, group))):
                yield key, made if type(made) is To else checked_pair(made, "reduce")
        except (DefinitionError, TaskFailed):
            raise
        except Exception as error:
            raise TaskFailed(f"reduce failed at key {key!r}: {error!r}", user_traceback(error)) from error


def _sorted_pairs(pairs: Pairs, context: TaskContext, rows: Iterable[pl.DataFrame]) -> Iterator[tuple[bytes, Any]]:
    for frame in rows:
        context.done.records += len(frame)
        yield from zip(frame[KEY].to_list(), pairs.load(frame[VALUE].to_list()), strict=True)
