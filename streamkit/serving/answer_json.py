"""An Answer as JSON, the same over HTTP and from `streamkit query --json`; and times as people write them.

    {"view": "campaign", "key": {"campaign_id": "c1"},
     "window": {"start": 1700000000000, "end": 1700000010000,
                "start_time": "2023-11-14T22:13:20Z", "end_time": "2023-11-14T22:13:30Z"},
     "found": true, "value": {"views": 914}, "batch": {"views": 900}, "speed": {"views": 14}, "errors": {},
     "cut": {"topic": "ad-events", "topic_id": "0hi6IO55QU2se3E", "offsets": {"0": 120, "1": 133}}, "lag": 0,
     "as_of": "2023-11-14T22:13:31.25Z"}

What JSON cannot say exactly is a string: whole numbers beyond 2^53 - 1 (JavaScript and many others read a JSON number
as a double, RFC 8259 section 6, and would round them in silence), Decimals (always, so that a field keeps its type),
NaN and the infinities. Bytes are base64.
"""

from __future__ import annotations

import base64
import datetime as dt
import math
from collections.abc import Mapping, Set
from decimal import Decimal
from typing import Any

import msgspec

from streamkit.cut import Cut
from streamkit.errors import DefinitionError
from streamkit.view import Answer, View

_LARGEST = (1 << 53) - 1
"""The largest whole number up to which a double tells each from the next."""

_TIME_DIGITS = 18
"""Milliseconds of 30 million years: windows of longer times would not fit into 64 bits."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_CYCLE_MS = 146_097 * 86_400_000
"""The Gregorian calendar repeats every 400 years."""


def answer_json(view: View, answer: Answer) -> dict[str, Any]:
    """The Answer as JSON's own types: see the module."""
    return {
        "view": answer.view,
        "key": dict(zip(view.keys, map(plain, answer.key), strict=True)),
        "window": None if answer.window is None else window_json(answer.window),
        "found": answer.found,
        "value": plain(answer.value),
        "batch": plain(answer.batch),
        "speed": plain(answer.speed),
        "errors": plain(answer.errors),
        "cut": cut_json(answer.cut),
        "lag": answer.lag,
        "as_of": iso_time(answer.as_of),
    }


def result_json(answer: Answer) -> dict[str, Any]:
    """An Answer of a MapReduce result as JSON's own types."""
    return {
        "mapreduce": answer.view,
        "key": list(map(plain, answer.key)),
        "found": answer.found,
        "value": plain(answer.value),
        "cut": cut_json(answer.cut),
        "lag": answer.lag,
        "as_of": iso_time(answer.as_of),
    }


def window_json(window: tuple[int, int]) -> dict[str, Any]:
    start, end = window
    return {"start": plain(start), "end": plain(end), "start_time": iso_time(start), "end_time": iso_time(end)}


def cut_json(cut: Cut) -> dict[str, Any]:
    return {"topic": cut.topic, "topic_id": cut.topic_id, "offsets": {str(p): o for p, o in cut.offsets.items()}}


def plain(value: Any) -> Any:
    """A result or a key part in JSON's own types.

    >>> plain({"n": 2**53 - 1, "sum": 2**53, "price": Decimal("0.10"), "mean": math.nan, "top": [("a", 1)]})
    {'n': 9007199254740991, 'sum': '9007199254740992', 'price': '0.10', 'mean': 'NaN', 'top': [['a', 1]]}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if -_LARGEST <= value <= _LARGEST else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else _not_finite(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {k if isinstance(k, str) else str(plain(k)): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | Set):
        return [plain(item) for item in value]
    return _other(value)


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _other(value: Any) -> Any:
    """What an Aggregate of the user's own gives: Structs, dataclasses, enums, dates; else its text."""
    try:
        return plain(msgspec.to_builtins(value, builtin_types=(bytes, Decimal)))
    except TypeError:
        return str(value)


def iso_time(milliseconds: int) -> str:
    """A time in UTC as ISO 8601 writes it, with years beyond 9999 and before 0 in six digits and a sign.

    Such times come of events whose clock was wrong; their Answers can be read, too.

    >>> iso_time(1_700_000_000_000), iso_time(-1), iso_time(1_700_000_000_000_000)
    ('2023-11-14T22:13:20Z', '1969-12-31T23:59:59.999Z', '+055840-11-08T22:13:20Z')
    """
    cycles, rest = divmod(milliseconds, _CYCLE_MS)
    moment = _EPOCH + dt.timedelta(milliseconds=rest)
    year = moment.year + 400 * cycles
    shown = f"{year:04d}" if 0 <= year <= 9999 else f"{year:+07d}"
    fraction = f".{rest % 1000:03d}" if rest % 1000 else ""
    return f"{shown}-{moment:%m-%dT%H:%M:%S}{fraction}Z"


def parse_time(text: str, name: str) -> int:
    """Milliseconds since the epoch, from such a number or from ISO 8601; without an offset it is UTC.

    `name` is what the option or parameter is called, for the message. Raises DefinitionError.

    >>> parse_time("1700000000000", "--at") == parse_time("2023-11-14T22:13:20Z", "--at")
    True
    >>> parse_time("2023-11-14", "--from"), parse_time("2023-11-14T23:13:20.5+01:00", "--from")
    (1699920000000, 1700000000500)
    """
    if text.removeprefix("-").isdecimal() and len(text) <= _TIME_DIGITS:
        return int(text)
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise DefinitionError(
            f"{name} must be milliseconds since the epoch or ISO 8601, such as 1700000000000 or "
            f"2023-11-14T22:13:20Z, got {text!r}"
        ) from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    return (aware - _EPOCH) // dt.timedelta(milliseconds=1)


def parse_span(
    view: View, start: str | None, end: str | None, names: tuple[str, str] = ("start", "end")
) -> tuple[int | None, int | None]:
    """The `[start, end)` that windows are to overlap; None where it is open. Raises DefinitionError."""
    texts = dict(zip(names, (start, end), strict=True))
    given = [name for name, text in texts.items() if text is not None]
    if given and not view.windowed:
        raise DefinitionError(f"view {view.name!r} has no windows; ask without {' and '.join(given)}")
    first, last = (None if text is None else parse_time(text, name) for name, text in texts.items())
    if first is not None and last is not None and first >= last:
        raise DefinitionError(f"{names[0]} {start} must be before {names[1]} {end}")
    return first, last
