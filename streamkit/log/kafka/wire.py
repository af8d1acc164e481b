"""A socket to one broker, and as much of Kafka's protocol as fetching takes (Fetch v11: brokers since 2.3)."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamkit.record import Array, FlatBytes, TopicPartition

Address = tuple[str, int]

_FETCH, _VERSION = 1, 11
_ANYBODY, _COMMITTED, _NO_SESSION, _NO_EPOCH = -1, 1, -1, -1
_GREATEST = 1 << 30
"""Bytes of an answer: one that would be more is not Kafka's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is asked for: seconds to wait for so many bytes at least, bytes of an answer, those of one partition."""

    wait: float
    least: int
    bytes: int
    partition_bytes: int
    client_id: str

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Limits:
        """Those of a librdkafka client with these settings."""
        return cls(
            int(settings["fetch.wait.max.ms"]) / 1_000,
            int(settings.get("fetch.min.bytes", 1)),
            int(settings["fetch.max.bytes"]),
            int(settings["max.partition.fetch.bytes"]),
            str(settings.get("client.id", "rdkafka")),
        )


@dataclass(frozen=True, slots=True)
class Part:
    """What an answer has of one partition: an error's code or 0, where its batches lie, and who aborted what.

    `aborted` has producers and the first offsets of transactions that they aborted, which reach into these batches.
    """

    source: TopicPartition
    error: int
    start: int
    stop: int
    aborted: Sequence[tuple[int, int]]


class Wire:
    """One request at a time: `ask`, then `answer`. Raises OSError where the broker cannot be reached or goes away."""

    def __init__(self, address: Address, limits: Limits, patience: float) -> None:
        self._limits, self._numbers = limits, itertools.count()
        self._asked = 0
        self._socket = socket.create_connection(address, patience)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # With a timeout of Python's an answer would come piece by piece, and the interpreter's lock be waited for at
        # each; this one is the kernel's.
        self._socket.settimeout(None)
        self._patience = patience + limits.wait
        seconds, rest = divmod(self._patience, 1)
        self._socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(seconds), int(rest * 1_000_000))
        )

    def ask(self, positions: Mapping[TopicPartition, int]) -> None:
        """For the committed records of partitions from these offsets on. Where not all fits, the first come first."""
        self._asked = next(self._numbers)
        self._socket.sendall(fetch_request(self._asked, positions, self._limits))

    def answer(self) -> tuple[Array, list[Part]]:
        """The answer's bytes, with `FlatBytes.PADDING` more, and what is where in them."""
        size = int.from_bytes(self._receive(np.empty(4, np.uint8), 4).tobytes())
        if not 0 < size <= _GREATEST:
            raise OSError(f"an answer of {size} bytes")
        data = np.empty(size + FlatBytes.PADDING, np.uint8)
        data[size:] = 0
        return data, fetch_response(self._receive(data, size), self._asked)

    def close(self) -> None:
        """Also from another thread, which wakes one that waits for an answer."""
        with suppress(OSError):  # the broker has closed it
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _receive(self, into: Array, size: int) -> Array:
        there, view = 0, into.data
        while there < size:
            try:
                count = self._socket.recv_into(view[there:size], size - there, socket.MSG_WAITALL)
            except BlockingIOError:
                raise OSError(f"no answer in {self._patience:.0f} s") from None
            if not count:
                raise OSError("the broker has closed the connection")
            there += count
        return into


def fetch_request(number: int, positions: Mapping[TopicPartition, int], limits: Limits) -> bytes:
    """One topic may come several times: partitions keep their order, in which the broker fills its answer."""
    wait = round(limits.wait * 1_000)
    head = struct.pack(">hhi", _FETCH, _VERSION, number) + _text(limits.client_id)
    body = [
        struct.pack(">iiiibii", _ANYBODY, wait, limits.least, limits.bytes, _COMMITTED, 0, _NO_SESSION),
        struct.pack(">i", len(positions)),
    ]
    for (topic, partition), offset in positions.items():
        place = struct.pack(">iiiqqi", 1, partition, _NO_EPOCH, offset, -1, limits.partition_bytes)
        body.append(_text(topic) + place)
    body.append(struct.pack(">i", 0) + _text(""))
    request = head + b"".join(body)
    return struct.pack(">i", len(request)) + request


def fetch_response(data: Array, number: int) -> list[Part]:
    """Raises OSError where it is not what was asked for, or the broker refuses all of it."""
    there, _, error, _ = struct.unpack_from(">iihi", data.data)
    if there != number:
        raise OSError(f"answer {there} to request {number}")
    if error:
        raise OSError(f"the broker refuses to be fetched from: error {error}")
    parts: list[Part] = []
    (topics,) = struct.unpack_from(">i", data.data, 14)
    at = 18
    for _ in range(topics):
        (length,) = struct.unpack_from(">h", data.data, at)
        topic = data[at + 2 : at + 2 + length].tobytes().decode()
        (partitions,) = struct.unpack_from(">i", data.data, at + 2 + length)
        at += 6 + length
        for _ in range(partitions):
            part, at = _part(data, at, topic)
            parts.append(part)
    return parts


def _part(data: Array, at: int, topic: str) -> tuple[Part, int]:
    partition, error, _high, _stable, _start, aborted = struct.unpack_from(">ihqqqi", data.data, at)
    at += 34
    pairs = [struct.unpack_from(">qq", data.data, at + 16 * i) for i in range(aborted)]
    at += 16 * len(pairs) + 4  # and the replica to read from, of which there is none without a rack
    (size,) = struct.unpack_from(">i", data.data, at)
    at += 4
    end = at + max(size, 0)
    return Part(TopicPartition(topic, partition), error, at, end, pairs), end


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">h", len(encoded)) + encoded
