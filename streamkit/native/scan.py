"""JSON records to columns, compiled: the loop that `columns.py` drives.

It takes a record that it understands in full, and is in doubt about every other: escapes in strings, numbers that need
care, values nested in unknown fields, whatever is malformed. Those the codec decodes by itself, and says what is wrong.
So it may be simple, and must never be wrong about a record that it takes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from streamkit.native.kinds import BOOL, FLOAT, INT, TEXT
from streamkit.native.memory import byte_at, differing, text_stops, word_at, zeros_below

DOUBT = -1

_HIGHS = np.uint64(0x8080808080808080)
_ZEROS = np.uint64(0x3030303030303030)
_TENS = np.uint64(0x7676767676767676)
"""What 10 and more lacks to 128, in each byte."""
_NULL, _TRUE, _FALS = 0x6C6C756E, 0x65757274, 0x736C6166
_HALF = np.uint64(0xFFFFFFFF)
_FULL = np.uint64(0xFFFFFFFFFFFFFFFF)
_INLINE = 12
"""The bytes of a text that fit into its view."""
_DIGITS = 18
"""So many always fit into 64 bits."""
_EXACT = 1 << 53
_POWERS = np.array([10.0**i for i in range(23)])
"""All powers of ten that a double holds exactly."""
_WHOLE_POWERS = np.array([10**i for i in range(9)])

KIND, BETWEEN, LENGTH, COLUMN, FIRST, LAST, FIELD = range(7)
"""A row of a record's layout: what is between the value before and this one, with a text's quote, and what `fields` has
of it, at the same places but for BETWEEN and LENGTH. Of a field that is missing only FIELD is there."""
THERE, MISSING = 0, 3
"""In its first row: how many fields are there (0: no layout) and how many are missing. BETWEEN is the record's end."""
_UNKNOWN, _NOTHING = -1, -2
"""Kinds in a layout: of a field that is none of ours, and of one that is null, which BETWEEN ends with."""
_MOST = 256
"""Fields of a record whose layout is kept."""

_i64 = types.int64
_place = types.UniTuple(_i64, 2)
_ends, _fields, _layout = types.int64[::1], types.int64[:, ::1], types.int64[:, ::1]
_ints, _floats, _texts, _nulls = (
    types.int64[:, ::1],
    types.float64[:, ::1],
    types.uint64[:, :, ::1],
    types.uint8[:, ::1],
)


@njit(types.uint64(_i64), cache=True, nogil=True)
def _mask(count: Any) -> Any:
    """A word whose lowest `count` bytes are all ones."""
    return np.uint64(0) if count <= 0 else _FULL >> np.uint64(64 - 8 * count)


@njit(_i64(_i64, _i64), cache=True, nogil=True)
def _blank_end(at: Any, end: Any) -> Any:
    while at < end:
        c = byte_at(at)
        if c != 32 and c != 10 and c != 13 and c != 9:
            break
        at += 1
    return at


@njit(_i64(_i64, _i64), cache=True, nogil=True)
def _text_end_slowly(at: Any, end: Any) -> Any:
    """As `_text_end`, where some byte is not ASCII: well-formed UTF-8 by table 3-7 of the Unicode standard."""
    while at < end:
        c = byte_at(at)
        if c == 0x22:
            return at
        if c < 0x20 or c == 0x5C:
            return DOUBT
        if c < 0x80:
            at += 1
            continue
        low, high, more = 0x80, 0xBF, 1
        if c < 0xC2 or c > 0xF4:
            return DOUBT
        if c >= 0xF0:
            more = 3
            low = 0x90 if c == 0xF0 else low
            high = 0x8F if c == 0xF4 else high
        elif c >= 0xE0:
            more = 2
            low = 0xA0 if c == 0xE0 else low
            high = 0x9F if c == 0xED else high
        if at + more >= end:
            return DOUBT
        second = byte_at(at + 1)
        if second < low or second > high:
            return DOUBT
        for i in range(2, more + 1):
            if byte_at(at + i) & 0xC0 != 0x80:
                return DOUBT
        at += more + 1
    return DOUBT


@njit(inline="always")
def _text_end(at: Any, end: Any) -> Any:
    """Where the quote is that ends a string, 32 bytes at a time; DOUBT for an escape and for what is malformed.

    It looks up to 31 bytes past `end`.
    """
    while at < end:
        stops = text_stops(at)
        if stops == 0:
            at += 32
            continue
        at += zeros_below(stops)
        if at >= end:
            return DOUBT
        c = byte_at(at)
        if c == 0x22:
            return at
        return _text_end_slowly(at, end) if c >= 0x80 else DOUBT
    return DOUBT


@njit(types.boolean(_i64, _i64, _i64), cache=True, nogil=True)
def _same(left: Any, right: Any, length: Any) -> Any:
    """Are two runs of bytes the same? Looks up to seven bytes past each."""
    while length >= 8:
        if word_at(left) != word_at(right):
            return False
        left += 8
        right += 8
        length -= 8
    if length == 0:
        return True
    # Little-endian, as every machine that a wheel of numba exists for.
    differ = word_at(left) ^ word_at(right)
    return (differ << np.uint64(64 - 8 * length)) == 0


@njit(inline="always")
def _digits(at: Any, end: Any, value: Any) -> Any:
    """Where a run of digits ends, and `value` with them behind it: right for up to 18 in all.

    Eight at a time, and no branch for how many they are: it would be guessed wrongly. It looks up to seven bytes past
    `end`.
    """
    while at < end:
        word = word_at(at) ^ _ZEROS
        others = ((word + _TENS) | word) & _HIGHS  # the lowest is right: no digit carries into the next byte
        count = 8 if others == 0 else zeros_below(others) >> 3
        if count == 0:
            break
        # As if zeros stood before them; then pairs of neighbours, pairs of those, and the last pair.
        word = (word << np.uint64(32 - 4 * count)) << np.uint64(32 - 4 * count)
        word = (word * np.uint64(10) + (word >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
        word = (word * np.uint64(100) + (word >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
        word = (word * np.uint64(10_000) + (word >> np.uint64(32))) & _HALF
        value = value * _WHOLE_POWERS[count] + _i64(word)
        at += count
        if count < 8:
            break
    return at, value


@njit(inline="always")
def _int(at: Any, end: Any) -> Any:
    """A whole number of up to 18 digits: where it ends, or DOUBT; and its value."""
    negative = byte_at(at) == 0x2D
    first = at + negative
    at, value = _digits(first, end, 0)
    digits = at - first
    if digits == 0 or digits > _DIGITS or (digits > 1 and byte_at(first) == 0x30) or (negative and value == 0):
        return DOUBT, 0
    return at, -value if negative else value


@njit(types.Tuple((_i64, types.float64))(_i64, _i64), cache=True, nogil=True)
def _float(at: Any, end: Any) -> Any:
    """Where a number ends and its value, if one multiplication or division rounds it rightly (Clinger 1990)."""
    negative = byte_at(at) == 0x2D
    first = at + negative
    at, value = _digits(first, end, 0)
    digits, power = at - first, 0
    if digits == 0 or (digits > 1 and byte_at(first) == 0x30):
        return DOUBT, 0.0
    if at < end and byte_at(at) == 0x2E:
        point = at + 1
        at, value = _digits(point, end, value)
        power = point - at
        if power == 0:
            return DOUBT, 0.0
    if digits - power > _DIGITS:
        return DOUBT, 0.0
    if at < end and (byte_at(at) | 0x20) == 0x65:
        at += 1
        down = byte_at(at) == 0x2D
        first = at + (down or byte_at(at) == 0x2B)
        at, exponent = _digits(first, end, 0)
        if at == first or at - first > 4:
            return DOUBT, 0.0
        power += -exponent if down else exponent
    if value > _EXACT or power > 22 or power < -22 or (negative and value == 0):
        return DOUBT, 0.0
    number = value / _POWERS[-power] if power < 0 else value * _POWERS[power]
    return at, -number if negative else number


@njit(inline="always")
def _bool(at: Any) -> Any:
    word = word_at(at) & _HALF
    if word == _TRUE:
        return at + 4, 1
    return (at + 5 if word == _FALS and byte_at(at + 4) == 0x65 else DOUBT), 0


@njit(inline="always")
def _alike_bytes(left: Any, right: Any, length: Any) -> Any:
    """As `_same`, of one byte or more; looks up to 31 bytes past each."""
    if length <= 32:
        return (differing(left, right) << np.uint64(64 - length)) == 0
    return _same(left, right, length)


@njit(_i64(_i64, _i64), cache=True, nogil=True)
def _skipped(at: Any, end: Any) -> Any:
    """Where a value of an unknown field ends; DOUBT unless it is plain."""
    c = byte_at(at)
    if c == 0x22:
        at = _text_end(at + 1, end)
        return at if at == DOUBT else at + 1
    if c == 0x2D or 0x30 <= c <= 0x39:
        return _float(at, end)[0]
    word = word_at(at) & _HALF
    if word in (_NULL, _TRUE):
        return at + 4
    return at + 5 if word == _FALS and byte_at(at + 4) == 0x65 else DOUBT


@njit(types.void(_texts, _i64, _i64, _i64, _i64, _i64), cache=True, nogil=True)
def _view(texts: Any, column: Any, row: Any, at: Any, length: Any, offset: Any) -> None:
    """A text as Arrow's BinaryView: its length; then itself where it is short, else its first 4 bytes and its place."""
    if length > _INLINE:
        texts[column, row, 0] = np.uint64(length) | ((word_at(at) & _HALF) << np.uint64(32))
        texts[column, row, 1] = np.uint64(offset) << np.uint64(32)
        return
    first = word_at(at) & _mask(min(length, 4))
    texts[column, row, 0] = np.uint64(length) | (first << np.uint64(32))
    texts[column, row, 1] = word_at(at + 4) & _mask(max(length - 4, 0))


@njit(_place(_i64, _i64, _i64, _ends, _i64, _i64), cache=True, nogil=True)
def _field(at: Any, end: Any, names: Any, ends: Any, count: Any, guess: Any) -> Any:
    """Which field the name is that begins after a quote, -1 for none, and where it ends (DOUBT as ever).

    Fields mostly come in their order, so the one after the last is tried first.
    """
    for turn in range(count):
        field = guess + turn
        if field >= count:
            field -= count
        begin = ends[field - 1] if field else 0
        length = ends[field] - begin
        if at + length < end and byte_at(at + length) == 0x22 and _same(at, names + begin, length):
            return field, at + length + 1
    at = _text_end(at, end)
    return -1, (at if at == DOUBT else at + 1)


@njit(types.void(_fields, _i64, _i64, _texts, _nulls), cache=True, nogil=True)
def _null(fields: Any, field: Any, row: Any, texts: Any, nulls: Any) -> None:
    nulls[field, row] = 1
    column = fields[field, 3]
    if column >= 0 and fields[field, 0] == TEXT:
        texts[column, row, 0] = 0
        texts[column, row, 1] = 0


@njit(types.boolean(_i64, _i64, _i64, _ends, _i64, _i64), cache=True, nogil=True)
def _is_among(at: Any, length: Any, names: Any, ends: Any, first: Any, last: Any) -> Any:
    """Is a text one of the names from `first` to before `last`?"""
    for name in range(first, last):
        begin = ends[name - 1] if name else 0
        if ends[name] - begin == length and _same(at, names + begin, length):
            return True
    return False


@njit(_i64(_i64, _i64, _i64, _fields, _i64, _i64, _i64, _ends, _ints, _floats, _texts), cache=True, nogil=True)
def _value(
    at: Any, end: Any, data: Any, fields: Any, field: Any, row: Any, names: Any, ends: Any,
    ints: Any, floats: Any, texts: Any,
) -> Any:  # fmt: skip
    """Take one value; returns where it ends."""
    kind, column, first, last = fields[field, 0], fields[field, 3], fields[field, 4], fields[field, 5]
    if kind == TEXT:
        begin = at + 1
        at = _text_end(begin, end) if byte_at(at) == 0x22 else DOUBT
        if at == DOUBT or (last and not _is_among(begin, at - begin, names, ends, first, last)):
            return DOUBT
        if column >= 0:
            _view(texts, column, row, begin, at - begin, begin - data)
        return at + 1
    if kind == FLOAT:
        at, number = _float(at, end)
        if column >= 0:
            floats[column, row] = number
        return at
    if kind == INT:
        at, value = _int(at, end)
    else:
        at, value = _bool(at)
    if column >= 0:
        ints[column, row] = value
    return at


@njit(types.void(_layout, _i64, _i64, _i64, _i64, _i64, _fields), cache=True, nogil=True)
def _lay_out(layout: Any, turn: Any, behind: Any, begin: Any, kind: Any, field: Any, fields: Any) -> None:
    layout[turn, KIND], layout[turn, BETWEEN], layout[turn, LENGTH] = kind, behind, begin - behind
    layout[turn, FIELD], layout[turn, COLUMN] = field, -1
    if field >= 0:
        for item in (COLUMN, FIRST, LAST):
            layout[turn, item] = fields[field, item]


@njit(inline="always")
def _alike(
    at: Any, end: Any, row: Any, data: Any, fields: Any, layout: Any, names: Any, ends: Any,
    ints: Any, floats: Any, texts: Any, nulls: Any,
) -> Any:  # fmt: skip
    """Take one record that is laid out as the last one was: False where it is not, and what it has left is void.

    What is between the values is the same, byte for byte (`layout`, see `_record`). Such are nearly all, and take a
    quarter of the time.
    """
    there, missing = layout[0, THERE], layout[0, MISSING]
    if there == 0:
        return False
    for turn in range(1, there + 1):
        between, length, kind = layout[turn, BETWEEN], layout[turn, LENGTH], layout[turn, KIND]
        if at + length >= end or not _alike_bytes(at, between, length):
            return False
        at += length
        column = layout[turn, COLUMN]
        if kind == TEXT:
            begin = at
            at = _text_end(begin, end)
            if at == DOUBT:
                return False
            if layout[turn, LAST] and not _is_among(
                begin, at - begin, names, ends, layout[turn, FIRST], layout[turn, LAST]
            ):
                return False
            if column >= 0:
                _view(texts, column, row, begin, at - begin, begin - data)
            at += 1
        elif kind == INT:
            at, value = _int(at, end)
            if at == DOUBT:
                return False
            if column >= 0:
                ints[column, row] = value
        elif kind == FLOAT:
            at, number = _float(at, end)
            if at == DOUBT:
                return False
            if column >= 0:
                floats[column, row] = number
        elif kind == BOOL:
            at, value = _bool(at)
            if at == DOUBT:
                return False
            if column >= 0:
                ints[column, row] = value
        elif kind == _UNKNOWN:
            at = _skipped(at, end)
            if at == DOUBT:
                return False
    if at + layout[0, LENGTH] != end or not _same(at, layout[0, BETWEEN], layout[0, LENGTH]):
        return False
    # Not before all is right: what another record has left here nobody takes back.
    for turn in range(1, there + 1):
        if layout[turn, KIND] == _NOTHING:
            _null(fields, layout[turn, FIELD], row, texts, nulls)
    for turn in range(there + 1, there + missing + 1):
        _null(fields, layout[turn, FIELD], row, texts, nulls)
    return True


@njit(
    types.boolean(_i64, _i64, _i64, _i64, _i64, _ends, _fields, _layout, _ints, _floats, _texts, _nulls),
    cache=True, nogil=True,
)  # fmt: skip
def _record(
    at: Any, end: Any, row: Any, data: Any, names: Any, ends: Any, fields: Any, layout: Any,
    ints: Any, floats: Any, texts: Any, nulls: Any,
) -> Any:  # fmt: skip
    """Take one record; False where it is in doubt.

    `layout` becomes its own: in its first row how many fields are there and how many are missing, and what is behind
    the last value; then a row each, what is before its value and what `fields` has of it. 0 where they are too many.
    """
    count, seen, guess, last = len(fields), 0, 0, False
    there, layout[0, THERE], behind = 0, 0, at
    at = _blank_end(at, end)
    if at >= end or byte_at(at) != 0x7B:
        return False
    while not last:
        at = _blank_end(at + 1, end)
        if at >= end or byte_at(at) != 0x22:
            return False
        field, at = _field(at + 1, end, names, ends, count, guess)
        if at == DOUBT or (field >= 0 and (seen >> field) & 1):
            return False
        at = _blank_end(at, end)
        if at >= end or byte_at(at) != 0x3A:
            return False
        at = _blank_end(at + 1, end)
        if at >= end:
            return False
        begin, kind = at, _UNKNOWN
        if field < 0:
            at = _skipped(at, end)
        else:
            seen |= 1 << field
            guess = field + 1 if field + 1 < count else 0
            kind = fields[field, KIND]
            if fields[field, 1] and (word_at(at) & _HALF) == _NULL:
                _null(fields, field, row, texts, nulls)
                begin, kind, at = at + 4, _NOTHING, at + 4
            else:
                begin += kind == TEXT
                at = _value(at, end, data, fields, field, row, names, ends, ints, floats, texts)
        if at == DOUBT:
            return False
        there += 1
        if there < _MOST:
            _lay_out(layout, there, behind, begin, kind, field, fields)
        behind = at
        at = _blank_end(at, end)
        if at >= end:
            return False
        last = byte_at(at) == 0x7D
        if not last and byte_at(at) != 0x2C:
            return False
    missing = 0
    for field in range(count):
        if not (seen >> field) & 1:
            if not fields[field, 2]:
                return False
            _null(fields, field, row, texts, nulls)
            missing += 1
            if there + missing < _MOST:
                layout[there + missing, FIELD] = field
    if _blank_end(at + 1, end) != end:
        return False
    if there + missing < _MOST:
        layout[0, THERE], layout[0, MISSING] = there, missing
        layout[0, BETWEEN], layout[0, LENGTH] = behind, end - behind
    return True


@njit(
    _i64(_i64, _ends, _ends, _i64, _ends, _fields, _ints, _floats, _texts, _nulls, types.uint8[::1]),
    cache=True, nogil=True,
)  # fmt: skip
def scan(
    data: Any, starts: Any, lengths: Any, names: Any, ends: Any, fields: Any,
    ints: Any, floats: Any, texts: Any, nulls: Any, taken: Any,
) -> Any:  # fmt: skip
    """Take what records there are into columns; returns how many it is in doubt about.

    data       address of the records' bytes, with 16 bytes of anything behind them
    starts     where each record begins in it; `lengths` is negative for one without a value
    names      address of the fields' names and then of the texts that fields are bound to, end to end, with bytes
               behind them as `data` has; `ends` is where each ends in it
    fields     a row a field: kind; may it be null; may it be missing; its column among those of its kind, or -1; the
               first of `names` that its text may be, and the one after the last (0: any text)
    ints       a row a column of INT or BOOL; floats of FLOAT; texts of TEXT, as views into `data` (Arrow's BinaryView)
    nulls      a row a field, all 0 before: 1 where it is null
    taken      1 for each record taken, 0 for one in doubt, whose texts are empty and whose numbers mean nothing
    """
    doubts = 0
    layout = np.zeros((_MOST, 8), np.int64)
    for row in range(len(starts)):
        at, end = data + starts[row], data + starts[row] + lengths[row]
        taken[row] = lengths[row] > 0 and (
            _alike(at, end, row, data, fields, layout, names, ends, ints, floats, texts, nulls)
            or _record(at, end, row, data, names, ends, fields, layout, ints, floats, texts, nulls)
        )
        if not taken[row]:
            doubts += 1
            for column in range(len(texts)):  # polars reads the views of these, too
                texts[column, row, 0], texts[column, row, 1] = 0, 0
    return doubts
