"""Byte strings brought into their order, compiled: for `packed`.

The eight bytes behind what all of them begin with are a number each, by which numpy sorts them with the processor's
vectors; where such numbers are the same, the rest of the strings decides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from streamkit.native.memory import byte_at, copy, swapped, word_at

_i64 = types.int64
_bytes = types.Array(types.uint8, 1, "C", readonly=True)
_ends = types.Array(types.int64, 1, "C", readonly=True)
_words = types.Array(types.uint64, 1, "C", readonly=True)
_places = types.int64[::1]


@njit(_i64(_i64, _i64, _i64), cache=True, nogil=True)
def shared(left: Any, right: Any, most: Any) -> Any:
    """How many bytes two addresses have in common, of so many."""
    at = 0
    while at + 8 <= most and word_at(left + at) == word_at(right + at):
        at += 8
    while at < most and byte_at(left + at) == byte_at(right + at):
        at += 1
    return at


@njit(_i64(_i64, _i64, _i64, _i64), cache=True, nogil=True)
def compare(left: Any, left_size: Any, right: Any, right_size: Any) -> Any:
    """Negative where the bytes at the left address come first, 0 where both are the same."""
    most = min(left_size, right_size)
    same = shared(left, right, most)
    if same < most:
        return np.int64(byte_at(left + same)) - np.int64(byte_at(right + same))
    return left_size - right_size


@njit(_i64(_bytes, _ends), cache=True, nogil=True)
def common(data: Any, ends: Any) -> Any:
    """How many bytes all strings begin with."""
    start = data.ctypes.data
    same = ends[1] - ends[0] if len(ends) > 1 else 0
    for row in range(1, len(ends) - 1):
        same = shared(start + ends[0], start + ends[row], min(same, ends[row + 1] - ends[row]))
    return same


@njit(types.uint64[::1](_bytes, _ends, _i64), cache=True, nogil=True)
def words(data: Any, ends: Any, skip: Any) -> Any:
    """Of each string the eight bytes behind `skip` as a number, with zeros for those that it has not."""
    out = np.empty(len(ends) - 1, np.uint64)
    start = data.ctypes.data
    for row in range(len(out)):
        at, stop = ends[row] + skip, ends[row + 1]
        if at + 8 <= stop:
            out[row] = swapped(word_at(start + at))
            continue
        word = np.uint64(0)
        for byte in range(8):
            word = word << np.uint64(8)
            if at + byte < stop:
                word |= np.uint64(data[at + byte])
        out[row] = word
    return out


@njit(_i64(_bytes, _ends, _i64, _i64), cache=True, nogil=True)
def _compare(data: Any, ends: Any, left: Any, right: Any) -> Any:
    """Negative where the left string comes first, 0 where both are the same."""
    start, a, b = data.ctypes.data, ends[left], ends[right]
    return compare(start + a, ends[left + 1] - a, start + b, ends[right + 1] - b)


@njit(types.void(_bytes, _ends, _places, _places), cache=True, nogil=True)
def _merge_sort(data: Any, ends: Any, order: Any, spare: Any) -> None:
    """Bottom up: runs of 1, 2, 4 ... are merged."""
    width = 1
    while width < len(order):
        for begin in range(0, len(order) - width, 2 * width):
            middle, stop = begin + width, min(begin + 2 * width, len(order))
            spare[:width] = order[begin:middle]
            left, right, at = 0, middle, begin
            while left < width and right < stop:
                if _compare(data, ends, spare[left], order[right]) <= 0:
                    order[at] = spare[left]
                    left += 1
                else:
                    order[at] = order[right]
                    right += 1
                at += 1
            order[at : at + width - left] = spare[left:width]
        width *= 2


@njit(types.boolean(_bytes, _ends, _words, _places), cache=True, nogil=True)
def settle(data: Any, ends: Any, numbers: Any, order: Any) -> Any:
    """Bring those with the same number (`words`) into order, too; is any string there twice?"""
    spare = np.empty(len(order), np.int64)
    twice = False
    begin = 0
    while begin < len(order):
        stop = begin + 1
        while stop < len(order) and numbers[order[stop]] == numbers[order[begin]]:
            stop += 1
        if stop - begin > 1:
            _merge_sort(data, ends, order[begin:stop], spare)
            for place in range(begin + 1, stop):
                twice |= _compare(data, ends, order[place - 1], order[place]) == 0
        begin = stop
    return twice


@njit(types.void(_bytes, _ends, _places, types.uint8[::1], types.int64[::1]), cache=True, nogil=True)
def take(data: Any, ends: Any, order: Any, out: Any, out_ends: Any) -> None:
    """The strings in these places, end to end."""
    at = 0
    out_ends[0] = 0
    for place in range(len(order)):
        begin, stop = ends[order[place]], ends[order[place] + 1]
        copy(out.ctypes.data + at, data.ctypes.data + begin, stop - begin)
        at += stop - begin
        out_ends[place + 1] = at
