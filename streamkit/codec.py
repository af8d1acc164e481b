"""Codecs: bytes <-> values. A port; JSON is the one that exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec


class Codec(Protocol):
    """How a topic's values lie on the log."""

    @property
    def name(self) -> str:
        """Part of every View's fingerprint."""

    def decoder(self, type_: Any) -> Callable[[bytes], Any]:
        """A strict decoder: what it returns is a valid `type_`, else it raises ValueError with the reason."""

    def encoder(self, type_: Any) -> Callable[[Any], bytes]: ...


class Json:
    """JSON by msgspec: types are checked, nothing is coerced.

    >>> class Click(msgspec.Struct):
    ...     ad: str
    >>> Json().decoder(Click)(b'{"ad": "a1"}')
    Click(ad='a1')
    >>> Json().decoder(Click)(b'{"ad": 1}')
    Traceback (most recent call last):
    msgspec.ValidationError: Expected `str`, got `int` - at `$.ad`
    """

    name = "json"

    def decoder(self, type_: Any) -> Callable[[bytes], Any]:
        return msgspec.json.Decoder(type_).decode

    def encoder(self, type_: Any) -> Callable[[Any], bytes]:
        del type_
        return msgspec.json.Encoder().encode
