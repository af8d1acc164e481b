"""JSON records to columns, compiled: the loop that `columns.py` drives.

It takes a record that it understands in full, and is in doubt about every other: escapes in strings, numbers that need
care, values nested in unknown fields, whatever is malformed. Those the codec decodes by itself, and says what is wrong.
So it may be simple, and must never be wrong about a record that it takes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from streamkit.native.kinds import FLOAT, INT, TEXT
from streamkit.native.memory import byte_at, text_stops, word_at, zeros_below

DOUBT = -1

_UPPER = np.uint64(0xF0F0F0F0F0F0F0F0)
_ZEROS = np.uint64(0x3030303030303030)
_SIXES = np.uint64(0x0606060606060606)
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


@njit(_i64(_i64, _i64), cache=True, nogil=True)
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


@njit(_place(_i64, _i64, _i64), cache=True, nogil=True)
def _digits(at: Any, end: Any, value: Any) -> Any:
    """Where a run of digits ends, and `value` with them behind it: right for up to 18 in all."""
    while at + 8 <= end:
        word = word_at(at)
        if (word & _UPPER) != _ZEROS or ((word + _SIXES) & _UPPER) != _ZEROS:
            break
        # Eight digits at once: pairs of neighbours, pairs of those, and the last pair.
        word -= _ZEROS
        word = (word * np.uint64(10) + (word >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
        word = (word * np.uint64(100) + (word >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
        word = (word * np.uint64(10_000) + (word >> np.uint64(32))) & _HALF
        value = value * 100_000_000 + _i64(word)
        at += 8
    while at < end:
        digit = _i64(byte_at(at)) - 0x30
        if digit < 0 or digit > 9:
            break
        value = value * 10 + digit
        at += 1
    return at, value


@njit(_place(_i64, _i64), cache=True, nogil=True)
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
        word = word_at(at) & _HALF
        value = _i64(word == _TRUE)
        if word == _TRUE:
            at += 4
        else:
            at = at + 5 if word == _FALS and byte_at(at + 4) == 0x65 else DOUBT
    if column >= 0:
        ints[column, row] = value
    return at


@njit(inline="always")
def _alike(
    at: Any, end: Any, row: Any, data: Any, fields: Any, layout: Any, names: Any, ends: Any,
    ints: Any, floats: Any, texts: Any, nulls: Any,
) -> Any:  # fmt: skip
    """Take one record that is laid out as the last one was: False where it is not, and what it has left is void.

    The same fields in the same order (`layout`, see `_record`), none of them null, no blanks but Python's one after a
    comma or a colon. Such are nearly all, and take a third of the time. Whether `at` is still before `end` is asked
    where much is looked at; otherwise once, in the end.
    """
    if byte_at(at) != 0x7B:
        return False
    there, missing = layout[0, 0], layout[1, 0]
    for turn in range(1, there + 1):
        at += 1
        at += byte_at(at) == 0x20
        field, name, length = layout[0, turn], layout[1, turn], layout[2, turn]
        if at + length >= end or byte_at(at) != 0x22 or not _same(at + 1, name, length):
            return False
        at += length + 1
        if byte_at(at) != 0x22 or byte_at(at + 1) != 0x3A:
            return False
        at += 2
        at += byte_at(at) == 0x20
        kind, column = (fields[field, 0], fields[field, 3]) if field >= 0 else (-1, -1)
        if kind < 0:
            at = _skipped(at, end)
            if at == DOUBT:
                return False
        elif kind == TEXT:
            begin = at + 1
            at = _text_end(begin, end) if byte_at(at) == 0x22 else DOUBT
            first, last = fields[field, 4], fields[field, 5]
            if at == DOUBT or (last and not _is_among(begin, at - begin, names, ends, first, last)):
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
        else:
            word = word_at(at) & _HALF
            if word == _TRUE:
                at += 4
            elif word == _FALS and byte_at(at + 4) == 0x65:
                at += 5
            else:
                return False
            if column >= 0:
                ints[column, row] = _i64(word == _TRUE)
        if byte_at(at) != (0x2C if turn < there else 0x7D):
            return False
    if there == 0 or at + 1 != end:
        return False
    for turn in range(there + 1, there + missing + 1):
        _null(fields, layout[0, turn], row, texts, nulls)
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

    `layout` becomes its own: in its first column how many fields are there and how many are missing; then a column
    each, its number (-1 for an unknown one), where its name is and how long that is. Nothing where they are too many.
    """
    count, seen, guess, last = len(fields), 0, 0, False
    there, layout[0, 0] = 0, 0
    at = _blank_end(at, end)
    if at >= end or byte_at(at) != 0x7B:
        return False
    while not last:
        at = _blank_end(at + 1, end)
        if at >= end or byte_at(at) != 0x22:
            return False
        name = at + 1
        field, at = _field(name, end, names, ends, count, guess)
        there += 1
        if there < layout.shape[1]:
            layout[0, there], layout[1, there], layout[2, there] = field, name, at - 1 - name
        if at == DOUBT or (field >= 0 and (seen >> field) & 1):
            return False
        at = _blank_end(at, end)
        if at >= end or byte_at(at) != 0x3A:
            return False
        at = _blank_end(at + 1, end)
        if at >= end:
            return False
        if field < 0:
            at = _skipped(at, end)
        else:
            seen |= 1 << field
            guess = field + 1 if field + 1 < count else 0
            if fields[field, 1] and (word_at(at) & _HALF) == _NULL:
                _null(fields, field, row, texts, nulls)
                at += 4
            else:
                at = _value(at, end, data, fields, field, row, names, ends, ints, floats, texts)
        if at == DOUBT:
            return False
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
            if there + missing < layout.shape[1]:
                layout[0, there + missing] = field
    if there + missing < layout.shape[1]:
        layout[0, 0], layout[1, 0] = there, missing
    return _blank_end(at + 1, end) == end


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
    taken      1 for each record taken, 0 for one in doubt; what the columns have of that is to be overwritten
    """
    doubts = 0
    layout = np.zeros((3, _MOST), np.int64)
    for row in range(len(starts)):
        at, end = data + starts[row], data + starts[row] + lengths[row]
        taken[row] = lengths[row] > 0 and (
            _alike(at, end, row, data, fields, layout, names, ends, ints, floats, texts, nulls)
            or _record(at, end, row, data, names, ends, fields, layout, ints, floats, texts, nulls)
        )
        doubts += 1 - taken[row]
    return doubts
