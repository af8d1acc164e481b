"""Keys as bytes whose order is the keys' order: what the shuffle sorts and groups by.

Encoding: FoundationDB's tuple layer (its specification, design/tuple.md), for None, bytes, text, whole numbers of any
size, floats, bools and tuples of them. Its Python package takes some 2 us a key; a key a record is on the batch layer's
hot path, so plain texts and numbers have a short way here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from streamkit.errors import DefinitionError

_NONE, _BYTES, _TEXT, _TUPLE, _ZERO, _FLOAT, _FALSE, _TRUE = 0x00, 0x01, 0x02, 0x05, 0x14, 0x21, 0x26, 0x27
_LONGEST = 8
"""Bytes of a whole number up to which its length is in the tag."""


def encode_keys(keys: Sequence[Any]) -> list[bytes]:
    """Each key, encoded. Raises DefinitionError for one that is of no such kind."""
    kinds = set(map(type, keys))
    if kinds == {str}:
        return [b"\x02" + key.encode() for key in keys] if not any("\0" in key for key in keys) else _each(keys)
    return _each(keys)


def encode_key(key: Any) -> bytes:
    """
    >>> ordered = [None, b"", "", "a", "a\\0", "b", (1, "x"), -300, -1, 0, 7, 256, 2**70, -0.5, 1.5, False, True]
    >>> encoded = [encode_key(key) for key in ordered]
    >>> encoded == sorted(encoded), [decode_key(e) for e in encoded] == ordered
    (True, True)
    """
    return _encode(key, nested=False)


def decode_key(encoded: bytes) -> Any:
    """The key again."""
    if encoded[0] == _TEXT:
        return (encoded[1:] if b"\0" not in encoded else encoded[1:].replace(b"\0\xff", b"\0")).decode()
    value, _ = _decode(encoded, 0, nested=False)
    return value


def _each(keys: Sequence[Any]) -> list[bytes]:
    return [_encode(key, nested=False) for key in keys]


def _encode(key: Any, *, nested: bool) -> bytes:
    encoder = _ENCODERS.get(type(key))
    if encoder is None:
        raise DefinitionError(
            f"a key is None, bytes, text, a whole number, a float, a bool or a tuple of them; got {key!r} "
            f"({type(key).__name__})"
        )
    return encoder(key, nested)


def _raw(tag: int, raw: bytes, nested: bool) -> bytes:
    # Within a tuple it needs an end: zero, so that what is shorter comes first; zeros in it are made longer than that.
    escaped = raw.replace(b"\0", b"\0\xff")
    return bytes([tag]) + escaped + (b"\0" if nested else b"")


def _whole(number: int) -> bytes:
    if number == 0:
        return bytes([_ZERO])
    size = (abs(number).bit_length() + 7) // 8
    if size <= _LONGEST:
        if number > 0:
            return bytes([_ZERO + size]) + number.to_bytes(size, "big")
        return bytes([_ZERO - size]) + (number + (1 << 8 * size) - 1).to_bytes(size, "big")
    if size > 255:
        raise DefinitionError(f"a whole number of {size} bytes is too long for a key (255 at most)")
    if number > 0:
        return bytes([_ZERO + _LONGEST + 1, size]) + number.to_bytes(size, "big")
    return bytes([_ZERO - _LONGEST - 1, 255 - size]) + (number + (1 << 8 * size) - 1).to_bytes(size, "big")


def _float(number: float) -> bytes:
    (bits,) = struct.unpack(">Q", struct.pack(">d", number))
    bits = bits ^ ((1 << 64) - 1) if bits >> 63 else bits | 1 << 63
    return bytes([_FLOAT]) + struct.pack(">Q", bits)


def _tuple(parts: tuple[Any, ...], nested: bool) -> bytes:
    del nested
    # A None within is two bytes, as one zero is the tuple's end.
    inner = b"".join(b"\0\xff" if part is None else _encode(part, nested=True) for part in parts)
    return bytes([_TUPLE]) + inner + b"\0"


_ENCODERS: dict[type, Callable[[Any, bool], bytes]] = {
    type(None): lambda _, __: bytes([_NONE]),
    bytes: lambda key, nested: _raw(_BYTES, key, nested),
    str: lambda key, nested: _raw(_TEXT, key.encode(), nested),
    int: lambda key, _: _whole(key),
    float: lambda key, _: _float(key),
    bool: lambda key, _: bytes([_TRUE if key else _FALSE]),
    tuple: _tuple,
}


def _decode(data: bytes, at: int, *, nested: bool) -> tuple[Any, int]:
    tag, at = data[at], at + 1
    if tag == _NONE:
        return None, at
    if tag in (_BYTES, _TEXT):
        raw, at = _raw_of(data, at) if nested else (data[at:], len(data))
        raw = raw.replace(b"\0\xff", b"\0")
        return raw if tag == _BYTES else raw.decode(), at
    if tag in (_FALSE, _TRUE):
        return tag == _TRUE, at
    if tag == _FLOAT:
        (bits,) = struct.unpack(">Q", data[at : at + 8])
        bits = bits & ~(1 << 63) if bits >> 63 else bits ^ ((1 << 64) - 1)
        return struct.unpack(">d", struct.pack(">Q", bits))[0], at + 8
    if tag == _TUPLE:
        return _tuple_of(data, at)
    return _whole_of(data, tag, at)


def _raw_of(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.index(b"\0", at)
    while data[end + 1 : end + 2] == b"\xff":
        end = data.index(b"\0", end + 2)
    return data[at:end], end + 1


def _tuple_of(data: bytes, at: int) -> tuple[tuple[Any, ...], int]:
    parts: list[Any] = []
    while True:
        if data[at] == 0:
            if data[at + 1 : at + 2] != b"\xff":
                return tuple(parts), at + 1
            parts.append(None)
            at += 2
        else:
            part, at = _decode(data, at, nested=True)
            parts.append(part)


def _whole_of(data: bytes, tag: int, at: int) -> tuple[int, int]:
    size = tag - _ZERO
    if abs(size) > _LONGEST:
        length = data[at] if size > 0 else 255 - data[at]
        size, at = (length if size > 0 else -length), at + 1
    number = int.from_bytes(data[at : at + abs(size)], "big")
    return (number if size >= 0 else number - (1 << 8 * -size) + 1), at + abs(size)
