"""Steps of records: pairs by the user's functions, one record or one key at a time."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

import polars as pl

from streamkit.batch.mapreduce.pairs import KEY, VALUE, Pairs
from streamkit.batch.mapreduce.task import Skipped, TaskContext, TaskFailed, user_traceback
from streamkit.errors import DefinitionError
from streamkit.keys import decode_key
from streamkit.mapreduce import Step, To, pairs_of, takes_context

Pair = tuple[Any, Any]
Emit = Callable[[Any, Any], None]

WAITING = 50_000
"""Pairs that wait before they become rows: with `combine`, the values that wait before they are combined."""


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
        mapped, emit, wants = self._map, self._emit, isinstance(self._map, partial)
        at = 0
        while at < len(values):
            try:
                for at, value in enumerate(values[at:] if at else values, at):  # noqa: B020
                    if wants:
                        self._context.where = where(at)
                    made = list(pairs_of(mapped(value)))
                    self._pass_on(made, emit)
                at += 1
            except (DefinitionError, TaskFailed):
                raise
            except Exception as error:
                self._failed(where(at), error)
                at += 1

    def pair(self, key: Any, value: Any) -> None:
        """One pair of the step before. Raises TaskFailed."""
        try:
            self._pass_on(list(pairs_of(self._map(key, value))), self._emit)
        except (DefinitionError, TaskFailed):
            raise
        except Exception as error:
            raise TaskFailed(f"map failed at key {key!r}: {error!r}", user_traceback(error)) from error

    def _pass_on(self, made: list[Any], emit: Emit) -> None:
        for pair in made:
            if type(pair) is tuple and len(pair) == 2:
                emit(*pair)
            elif type(pair) is To:
                self._side(pair)
            else:
                raise DefinitionError(f"map must yield pairs (key, value), or sk.To(...); it yielded {pair!r}")

    def _failed(self, where: str, error: Exception) -> None:
        trace = user_traceback(error)
        skipped = self._context.done.skipped
        if len(skipped) >= self._skip:
            skips = f" ({len(skipped)} were skipped before, skip={self._skip})" if self._skip else ""
            raise TaskFailed(f"map failed at {where}: {error!r}{skips}", trace) from error
        skipped.append(Skipped(where, repr(error), trace if not skipped else ""))


class Shuffled:
    """Collects pairs, and hands over rows of the shuffle; combines them before where the step can."""

    def __init__(self, step: Step, pairs: Pairs, context: TaskContext, write: Callable[[pl.DataFrame], None]) -> None:
        self._pairs, self._write = pairs, write
        self._combine = None if step.combine is None else combining(bound(step.combine, context))
        self._groups: dict[Any, list[Any]] = {}
        self._keys: list[Any] = []
        self._values: list[Any] = []
        self._waiting = 0
        self.emit: Emit = self._flat if self._combine is None else self._grouped

    def _flat(self, key: Any, value: Any) -> None:
        self._keys.append(key)
        self._values.append(value)
        if len(self._keys) >= WAITING:
            self.close()

    def _grouped(self, key: Any, value: Any) -> None:
        try:
            self._groups[key].append(value)
        except KeyError:
            self._groups[key] = [value]
        except TypeError as error:
            raise DefinitionError(f"a key must be hashable; got {key!r}: {error}") from None
        self._waiting += 1
        if self._waiting >= WAITING:
            self._combine_all()
            self._waiting = sum(map(len, self._groups.values()))
            if 2 * self._waiting >= WAITING:  # combining makes too little room: what there is goes out
                self._hand_over()

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
        combine = self._combine
        self._groups = {k: combine(k, v) if len(v) > 1 else v for k, v in self._groups.items()}

    def _hand_over(self) -> None:
        for key, values in self._groups.items():
            self._keys += [key] * len(values)
            self._values += values
        self._groups, self._waiting = {}, 0
        frame = self._pairs.frame(self._keys, self._values)
        self._keys, self._values = [], []
        self._write(frame)


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
                yield key, _checked(made)
        except (DefinitionError, TaskFailed):
            raise
        except Exception as error:
            raise TaskFailed(f"reduce failed at key {key!r}: {error!r}", user_traceback(error)) from error


def _sorted_pairs(pairs: Pairs, context: TaskContext, rows: Iterable[pl.DataFrame]) -> Iterator[tuple[bytes, Any]]:
    for frame in rows:
        context.done.records += len(frame)
        yield from zip(frame[KEY].to_list(), pairs.load(frame[VALUE].to_list()), strict=True)


def _checked(made: Any) -> Pair | To:
    if (type(made) is tuple and len(made) == 2) or type(made) is To:
        return made
    raise DefinitionError(f"reduce must yield pairs (key, value), or sk.To(...); it yielded {made!r}")
