"""Values between the stages: msgpack where their type is declared, pickle where it is not."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import polars as pl

from streamkit.batch.mapreduce.task import TaskFailed, user_traceback
from streamkit.errors import DefinitionError
from streamkit.keys import encode_keys
from streamkit.mapreduce import MapReduce, Step, pair_types

KEY, SORT, VALUE = "__key", "__sort", "__value"
"""The columns of pairs in the shuffle."""
PARTITION, TIE = "__p", "__tie"
"""Beside them: the reduce task that a row goes to, and a hash of what the order does not hold. Rows of one key and sort
come in the order of that hash, so that a result is the same to the bit however the input was divided; sorting by what
they hold would take as long as it is. Both are signed, as Spark knows no other numbers."""


class Values:
    """How the values of one step lie in the shuffle."""

    def __init__(self, step: Step) -> None:
        types = pair_types(step.map)
        self._type = types[1] if types else None
        self._dump: Callable[[Any], bytes]
        self._load: Callable[[bytes], Any]
        if types is None:
            self._dump, self._load = _pickle, pickle.loads
        else:
            self._dump, self._load = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(types[1]).decode

    def dump(self, values: Sequence[Any]) -> list[bytes]:
        """Raises DefinitionError for a value that cannot be written."""
        try:
            return [self._dump(value) for value in values]
        except (TypeError, pickle.PicklingError, AttributeError) as error:
            raise DefinitionError(f"a value cannot be kept ({error}); yield Structs, numbers, texts, ...") from error

    def load(self, dumped: Sequence[bytes]) -> list[Any]:
        """Raises DefinitionError where a value is not of the type that `map` is annotated with."""
        try:
            return [self._load(raw) for raw in dumped]
        except msgspec.ValidationError as error:
            raise DefinitionError(
                f"map is annotated to yield values of {self._type}, and yielded another: {error}"
            ) from error


def _pickle(value: Any) -> bytes:
    return pickle.dumps(value, protocol=5)


class Pairs:
    """Rows of the shuffle, made of pairs."""

    def __init__(self, step: Step, partitions: int) -> None:
        self._step, self._partitions = step, partitions
        self._values = Values(step)
        self.order = [KEY, *([SORT] if step.sort is not None else []), TIE]

    def frame(self, keys: Sequence[Any], values: Sequence[Any]) -> pl.DataFrame:
        """Raises DefinitionError for a key or value that cannot be one."""
        encoded = pl.Series(KEY, encode_keys(keys), dtype=pl.Binary)
        columns = [self._places(keys, encoded), encoded]
        if callable(self._step.sort):
            columns.append(pl.Series(SORT, encode_keys(_each("sort", self._step.sort, values, keys)), dtype=pl.Binary))
        dumped = pl.Series(VALUE, self._values.dump(values), dtype=pl.Binary)
        return pl.DataFrame([*columns, dumped, dumped.hash(seed=1).reinterpret(signed=True).alias(TIE)])

    def load(self, dumped: Sequence[bytes]) -> list[Any]:
        return self._values.load(dumped)

    def dump(self, values: Sequence[Any]) -> list[bytes]:
        return self._values.dump(values)

    def _places(self, keys: Sequence[Any], encoded: pl.Series) -> pl.Series:
        if self._step.partition is None:
            return (encoded.hash(seed=0) % self._partitions).cast(pl.Int32).alias(PARTITION)
        partition = self._step.partition
        places = _each("partition", lambda key: partition(key, self._partitions), keys, keys)
        for key, place in zip(keys, places, strict=True):
            if type(place) is not int or not 0 <= place < self._partitions:
                raise DefinitionError(
                    f"partition({key!r}, {self._partitions}) returned {place!r}; expected a whole number from 0 to "
                    f"{self._partitions - 1}"
                )
        return pl.Series(PARTITION, places, dtype=pl.Int32)


def _each(name: str, function: Callable[[Any], Any], values: Sequence[Any], keys: Sequence[Any]) -> list[Any]:
    """What a function of the user's returns for each value. Raises TaskFailed with the value's key."""
    made = []
    for key, value in zip(keys, values, strict=True):
        try:
            made.append(function(value))
        except Exception as error:
            raise TaskFailed(f"{name} failed at key {key!r}: {error!r}", user_traceback(error)) from error
    return made


def values_of(job: MapReduce, stage: int) -> Values:
    return Values(job.steps[stage])
