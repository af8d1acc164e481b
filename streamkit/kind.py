"""Kinds: the types of field that Aggregates read, and what a value of each is kept as, in memory and in msgpack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

from streamkit.errors import DefinitionError


@dataclass(frozen=True)
class Kind:
    """One type of field. `read` takes a value as it lies in a row or a column; None from it means: skip, as a null."""

    read: Callable[[Any], Any]
    dump: Callable[[Any], Any]
    load: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def _read_float(value: Any) -> float | None:
    """NaN has no place in an order, so it is skipped; -0.0 equals 0.0, so one of them stands for both."""
    number = float(value) + 0.0
    return number if number == number else None


def _read_decimal(value: Any) -> Decimal | None:
    """Decimals travel in columns as their text, because polars' own type has a fixed scale."""
    number = value if isinstance(value, Decimal) else Decimal(value)
    return None if number.is_nan() else number


def dump_int(value: int) -> int | str:
    """msgpack's integers end at 64 bits; longer ones go as decimal text, and `int` reads both back.

    >>> dump_int(7), dump_int(2**64)
    (7, '18446744073709551616')
    """
    return value if -(2**63) <= value < 2**63 else str(value)


KINDS: Mapping[str, Kind] = {
    "": Kind(_same, _same, _same),
    "bool": Kind(_same, _same, _same),
    "int": Kind(_same, dump_int, int),
    "float": Kind(_read_float, _same, _same),
    "str": Kind(_same, _same, _same),
    "bytes": Kind(_same, _same, _same),
    "Decimal": Kind(_read_decimal, str, Decimal),
    "datetime": Kind(_same, dump_int, int),
    "UUID": Kind(_same, _same, _same),
    "Enum": Kind(_same, _same, _same),
}
"""By name; `""` is a field whose type nobody has told yet (see `Aggregate.bind`). A datetime is its column's
milliseconds since the epoch, a UUID or Enum its column's text."""

NUMBERS = ("int", "float", "Decimal")
ANY = tuple(name for name in KINDS if name)


def kind_of(owner: str, field: str, types: Mapping[str, Any], *, accepts: tuple[str, ...] = ANY, hint: str = "") -> str:
    """The name of the Kind of `field`, for `owner` (`"Sum('price')"`, used in the message).

    >>> kind_of("Max('price')", "price", {"price": int})
    'int'

    Raises DefinitionError where the field is missing or none of the kinds that `accepts` names.
    """
    if field not in types:
        raise DefinitionError(f"{owner}: there is no field {field!r}; the fields are {', '.join(types) or 'none'}")
    found = _type_name(types[field])
    if found not in accepts:
        *most, last = accepts
        expected = f"{', '.join(most)} or {last}" if most else last
        way_out = f"; {hint}" if hint else ""
        raise DefinitionError(f"{owner}: field {field!r} is {found}, expected {expected}{way_out}")
    return found


def _type_name(type_: Any) -> str:
    if not isinstance(type_, type):
        return str(type_)
    return "Enum" if issubclass(type_, Enum) else type_.__name__
