"""Tables: what agents remember, by key; kept in the worker's store and moved by its Checkpoints."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import msgspec

from streamkit.errors import DefinitionError, StreamkitError


class TableBackend(Protocol):
    """Where a running worker keeps a Table's values."""

    def get(self, table: Table, key: Any) -> Any:
        """The value, or None."""

    def put(self, table: Table, key: Any, value: Any) -> None: ...

    def delete(self, table: Table, key: Any) -> None: ...


running_tables: ContextVar[TableBackend | None] = ContextVar("streamkit_tables", default=None)
"""Where the worker keeps Tables whose agent is running here: a test may have several workers in one process."""


@dataclass(frozen=True, eq=False)
class Table:
    """A dictionary that survives the worker: an agent's state, its outputs and its offsets move together.

    Keys are text, whole numbers, bytes, or tuples of them. Each source partition has a Table of its own, that of the
    event being processed, so a key must be one whose events share a partition (the topic's key). A value changed in
    place is kept only when it is assigned again, as in Faust.
    """

    name: str
    default: Callable[[], Any] | None
    value: Any
    pickled: bool

    def __post_init__(self) -> None:
        if self.pickled == (self.value is not Any):
            raise DefinitionError(
                f"table {self.name!r}: give value=TYPE (a msgspec type: int, list[float], a Struct ...), "
                f"or pickle=True for values that only pickle can write"
            )

    @cached_property
    def dump(self) -> Callable[[Any], bytes]:
        return pickle.dumps if self.pickled else msgspec.msgpack.Encoder().encode

    @cached_property
    def load(self) -> Callable[[bytes], Any]:
        return pickle.loads if self.pickled else msgspec.msgpack.Decoder(self.value).decode

    def get(self, key: Any, default: Any = None) -> Any:
        found = self._connected().get(self, key)
        return default if found is None else found

    def __getitem__(self, key: Any) -> Any:
        found = (running_tables.get() or self._connected()).get(self, key)
        if found is None:
            if self.default is None:
                raise KeyError(key)
            found = self.default()
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        (running_tables.get() or self._connected()).put(self, key, value)

    def __delitem__(self, key: Any) -> None:
        self._connected().delete(self, key)

    def __contains__(self, key: Any) -> bool:
        return self._connected().get(self, key) is not None

    def _connected(self) -> TableBackend:
        backend = running_tables.get()
        if backend is None:
            raise StreamkitError(f"table {self.name!r} is used outside an agent of a running worker or Driver")
        return backend
