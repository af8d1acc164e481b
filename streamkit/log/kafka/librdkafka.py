"""librdkafka's C functions, by ctypes, out of the very library that confluent-kafka has loaded."""

from __future__ import annotations

import ctypes
import sys
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int32, c_int64, c_size_t, c_ssize_t, c_void_p
from functools import cache
from pathlib import Path

import confluent_kafka

from streamkit.errors import StreamkitError

CONSUMER = 1
MAJOR = 2
"""The version of librdkafka whose structs and functions this was written for."""

ErrorCallback = CFUNCTYPE(None, c_void_p, c_int, c_char_p, c_void_p)
LogCallback = CFUNCTYPE(None, c_void_p, c_int, c_char_p, c_char_p)

_FUNCTIONS: dict[str, tuple[object, list[object]]] = {
    "rd_kafka_version": (c_int, []),
    "rd_kafka_conf_new": (c_void_p, []),
    "rd_kafka_conf_destroy": (None, [c_void_p]),
    "rd_kafka_conf_set": (c_int, [c_void_p, c_char_p, c_char_p, c_char_p, c_size_t]),
    "rd_kafka_conf_set_error_cb": (None, [c_void_p, ErrorCallback]),
    "rd_kafka_conf_set_log_cb": (None, [c_void_p, LogCallback]),
    "rd_kafka_new": (c_void_p, [c_int, c_void_p, c_char_p, c_size_t]),
    "rd_kafka_set_log_queue": (c_int, [c_void_p, c_void_p]),
    "rd_kafka_poll_set_consumer": (c_int, [c_void_p]),
    "rd_kafka_queue_get_consumer": (c_void_p, [c_void_p]),
    "rd_kafka_queue_destroy": (None, [c_void_p]),
    "rd_kafka_topic_partition_list_new": (c_void_p, [c_int]),
    "rd_kafka_topic_partition_list_add": (c_void_p, [c_void_p, c_char_p, c_int32]),
    "rd_kafka_topic_partition_list_set_offset": (c_int, [c_void_p, c_char_p, c_int32, c_int64]),
    "rd_kafka_topic_partition_list_destroy": (None, [c_void_p]),
    "rd_kafka_incremental_assign": (c_void_p, [c_void_p, c_void_p]),
    "rd_kafka_incremental_unassign": (c_void_p, [c_void_p, c_void_p]),
    "rd_kafka_error_code": (c_int, [c_void_p]),
    "rd_kafka_error_string": (c_char_p, [c_void_p]),
    "rd_kafka_error_destroy": (None, [c_void_p]),
    "rd_kafka_consumer_poll": (c_void_p, [c_void_p, c_int]),
    "rd_kafka_consume_batch_queue": (c_ssize_t, [c_void_p, c_int, c_void_p, c_size_t]),
    "rd_kafka_topic_name": (c_char_p, [c_void_p]),
    "rd_kafka_header_get_all": (
        c_int, [c_void_p, c_size_t, POINTER(c_char_p), POINTER(c_void_p), POINTER(c_size_t)],
    ),
    "rd_kafka_message_timestamp": (c_int64, [c_void_p, c_void_p]),
    "rd_kafka_message_headers": (c_int, [c_void_p, c_void_p]),
    "rd_kafka_message_destroy": (None, [c_void_p]),
    "rd_kafka_consumer_close": (c_int, [c_void_p]),
    "rd_kafka_destroy": (None, [c_void_p]),
}  # fmt: skip


class Unusable(StreamkitError):
    """The library cannot be called directly here."""


@cache
def library() -> ctypes.CDLL:
    """Raises Unusable with the reason."""
    if sys.byteorder != "little" or ctypes.sizeof(c_void_p) != 8:
        raise Unusable("a little-endian machine of 64 bits is wanted")
    package = Path(confluent_kafka.__file__).parent
    places = [*package.parent.glob("confluent_kafka.libs/librdkafka*"), *package.glob(".dylibs/librdkafka*")]
    if not places:
        raise Unusable(f"confluent-kafka at {package} has no librdkafka beside it, as its wheels have")
    found = ctypes.CDLL(str(places[0]))
    for name, (result, arguments) in _FUNCTIONS.items():
        try:
            function = getattr(found, name)
        except AttributeError:
            raise Unusable(f"{places[0].name} has no {name}") from None
        function.restype, function.argtypes = result, arguments
    text, number = confluent_kafka.libversion()
    if found.rd_kafka_version() != number or number >> 24 != MAJOR:
        raise Unusable(f"librdkafka {MAJOR}.x is wanted, {places[0].name} is {text}")
    return found


def address(name: str) -> int:
    """Where a function is."""
    return ctypes.cast(getattr(library(), name), c_void_p).value or 0
