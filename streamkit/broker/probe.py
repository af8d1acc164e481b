"""Ask an address whether a Kafka broker answers there and which cluster it is: one Metadata request on a plain socket.

The client library is imported in `log.kafka` alone, and an AdminClient takes seconds to say that nobody is there.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

METADATA, VERSION, CORRELATION = 3, 2, 7
"""Metadata v2: the first with the cluster id, the last simple one; brokers keep it for old clients (KIP-896)."""


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """What a broker says of its cluster; `brokers` counts those that may be used, 0 while it is still starting."""

    id: str
    brokers: int


def describe_cluster(host: str, port: int, *, timeout_seconds: float = 2.0) -> ClusterInfo | None:
    """The cluster at `host:port`, or None where nothing that speaks Kafka answers in time."""
    try:
        with socket.create_connection((host, port), timeout=timeout_seconds) as connection:
            connection.sendall(metadata_request())
            (size,) = struct.unpack(">i", _exactly(connection, 4))
            return parse_metadata(_exactly(connection, size)) if 0 < size < 1 << 20 else None
    except (OSError, ValueError, struct.error):
        return None


def metadata_request() -> bytes:
    """A Metadata request for no topics, with its length in front.

    Fields (Kafka protocol guide, request header v1): api key, api version, correlation id, client id; then the topics.

    >>> metadata_request().hex(" ", -2)
    '0000 0017 0003 0002 0000 0007 0009 7374 7265 616d 6b69 7400 0000 00'
    """
    client = b"streamkit"
    body = struct.pack(">hhih", METADATA, VERSION, CORRELATION, len(client)) + client + struct.pack(">i", 0)
    return struct.pack(">i", len(body)) + body


def parse_metadata(answer: bytes) -> ClusterInfo:
    """Read a Metadata v2 answer without its length; raises ValueError or struct.error where it is something else.

    >>> brokers = bytes.fromhex("00000001 00000001 0001 68 00002384 ffff")
    >>> parse_metadata(bytes.fromhex("00000007") + brokers + bytes.fromhex("0002 6964 00000001 00000000"))
    ClusterInfo(id='id', brokers=1)
    >>> parse_metadata(b"HTTP/1.1 400 Bad Request")
    Traceback (most recent call last):
    ValueError: not an answer to our request
    """
    correlation, brokers = struct.unpack_from(">ii", answer)
    if correlation != CORRELATION or not 0 <= brokers < 10_000:
        raise ValueError("not an answer to our request")
    at = 8
    for _ in range(brokers):
        at = _skip_string(answer, at + 4)  # node id, host
        at = _skip_string(answer, at + 4)  # port, rack
    end = _skip_string(answer, at)
    return ClusterInfo(answer[at + 2 : end].decode(), brokers)


def _skip_string(answer: bytes, at: int) -> int:
    (length,) = struct.unpack_from(">h", answer, at)
    return at + 2 + max(0, int(length))  # -1 is null


def _exactly(connection: socket.socket, size: int) -> bytes:
    read = bytearray()
    while len(read) < size:
        some = connection.recv(size - len(read))
        if not some:
            raise ConnectionError("closed before the whole answer came")
        read += some
    return bytes(read)
