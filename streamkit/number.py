"""Exact sums of ints, floats and Decimals: the arithmetic under Sum, Mean and Variance.

A float sum rounds at every step, so its value depends on the order of the rows, and no cut through them is safe. Here
nothing is rounded until a result is read: every float is a dyadic rational `mantissa * 2**exponent`, every Decimal
`mantissa * 10**exponent`, and those add exactly (Kulisch, *Advanced Arithmetic for the Digital Computer*, 2002: the
long accumulator; Shewchuk, *Adaptive Precision Floating-Point Arithmetic*, 1997: exact expansions, as `math.fsum`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any, ClassVar, cast

import polars as pl

from streamkit.kind import dump_int

Scaled = tuple[int, int, int]
"""(mantissa, exponent, specials): the mantissa is 0 or no multiple of the base, so equal sums are equal tuples;
`specials` says which of +infinity, -infinity and NaN have been among the values (bits 1, 2, 4)."""

PLUS_INFINITY, MINUS_INFINITY, NAN = 1, 2, 4

_ROUNDED = Context(prec=28)
_EXPONENTS = 6176  # decimal128's; beyond them one record of a few bytes would make a sum of gigabytes
_SPLIT = 2.0**27 + 1


class Number(ABC):
    """Exact sums of one kind of number: a commutative group of totals, `read` into and rounded out of."""

    zero: ClassVar[Any]

    @abstractmethod
    def read(self, value: Any) -> Any:
        """The total of one value."""

    @abstractmethod
    def add(self, left: Any, right: Any) -> Any: ...

    @abstractmethod
    def square(self, total: Any) -> Any:
        """The exact square; of special values there is none, so they count as 0 (the sum beside it knows of them)."""

    def column(self, field: str) -> pl.Expr:
        """The expression whose value, per group, `total` reads; by default the group's values."""
        return pl.col(field).drop_nulls().implode()

    def total(self, partial: Any) -> Any:
        total = self.zero
        for value in partial:
            total = self.add(total, self.read(value))
        return total

    def squares(self, values: Sequence[Any]) -> Any:
        """The total of the squares of a group's values."""
        total = self.zero
        for value in values:
            total = self.add(total, self.square(self.read(value)))
        return total

    @abstractmethod
    def special(self, total: Any) -> Any:
        """The infinity or NaN that a sum is by its special values; None where it is finite."""

    @abstractmethod
    def fraction(self, total: Any) -> Fraction:
        """The total's exact value, special values aside."""

    @abstractmethod
    def round(self, exact: Fraction) -> Any:
        """The nearest number a user reads; the only rounding there is."""

    def sum(self, total: Any) -> Any:
        special = self.special(total)
        return self.round(self.fraction(total)) if special is None else special

    @property
    @abstractmethod
    def nan(self) -> Any: ...

    @abstractmethod
    def dump(self, total: Any) -> Any: ...

    @abstractmethod
    def load(self, dumped: Any) -> Any: ...


def _to_float(exact: Fraction) -> float:
    """Correctly rounded, as Python's division of ints is; infinity beyond the largest float, as in IEEE 754."""
    try:
        return exact.numerator / exact.denominator
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


class Integers(Number):
    """Python's ints. Columns of up to 64 bits are added in 128, so 2**64 rows fit before anything could wrap."""

    zero: ClassVar[int] = 0

    def read(self, value: Any) -> int:
        return int(value)

    def add(self, left: int, right: int) -> int:
        return left + right

    def square(self, total: int) -> int:
        return total * total

    def column(self, field: str) -> pl.Expr:
        return pl.col(field).cast(pl.Int128).sum()

    def total(self, partial: Any) -> int:
        return int(partial)

    def squares(self, values: Sequence[int]) -> int:
        return sum(value * value for value in values)

    def special(self, total: int) -> None:
        del total

    def fraction(self, total: int) -> Fraction:
        return Fraction(total)

    def round(self, exact: Fraction) -> float:
        return _to_float(exact)

    def sum(self, total: int) -> int:
        return total

    @property
    def nan(self) -> float:
        return math.nan

    def dump(self, total: int) -> int | str:
        return dump_int(total)

    def load(self, dumped: Any) -> int:
        return int(dumped)


class _ScaledNumber(Number):
    """What floats and Decimals share: exact numbers `mantissa * base**exponent`."""

    base: ClassVar[int]
    zero: ClassVar[Scaled] = (0, 0, 0)

    @abstractmethod
    def canonical(self, mantissa: int, exponent: int, specials: int) -> Scaled: ...

    def add(self, left: Scaled, right: Scaled) -> Scaled:
        low = min(left[1], right[1])
        mantissa = left[0] * self.base ** (left[1] - low) + right[0] * self.base ** (right[1] - low)
        return self.canonical(mantissa, low, left[2] | right[2])

    def square(self, total: Scaled) -> Scaled:
        return total[0] * total[0], 2 * total[1], 0

    def fraction(self, total: Scaled) -> Fraction:
        return Fraction(total[0]) * Fraction(self.base) ** total[1]

    def special(self, total: Scaled) -> Any:
        infinities = {0: None, PLUS_INFINITY: "inf", MINUS_INFINITY: "-inf"}
        text = infinities.get(total[2], "nan")
        return None if text is None else type(self.nan)(text)

    def dump(self, total: Scaled) -> list[Any]:
        mantissa, exponent, specials = total
        return [dump_int(mantissa), exponent, specials]

    def load(self, dumped: Any) -> Scaled:
        mantissa, exponent, specials = dumped
        return int(mantissa), exponent, specials


class Floats(_ScaledNumber):
    """IEEE 754 doubles.

    >>> floats = Floats()
    >>> floats.sum(floats.total([1e16, 1.0, -1e16]))
    1.0
    >>> floats.total([0.5, 0.25])
    (3, -2, 0)
    """

    base = 2

    def canonical(self, mantissa: int, exponent: int, specials: int) -> Scaled:
        if not mantissa:
            return 0, 0, specials
        zeros = (mantissa & -mantissa).bit_length() - 1
        return mantissa >> zeros, exponent + zeros, specials

    def read(self, value: Any) -> Scaled:
        number = float(value)
        if not math.isfinite(number):
            return 0, 0, NAN if number != number else PLUS_INFINITY if number > 0 else MINUS_INFINITY
        mantissa, denominator = number.as_integer_ratio()
        return self.canonical(mantissa, 1 - denominator.bit_length(), 0)

    def total(self, partial: Any) -> Scaled:
        """By `math.fsum`, again and again: what one correctly rounded sum has lost is the next one's sum.

        Every turn takes 53 bits off, and the sum is a multiple of the least float, so it ends, mostly after two.
        """
        values = list(partial)
        total = self.zero
        try:
            while part := math.fsum(values):
                if not math.isfinite(part):
                    return cast("Scaled", super().total(partial))
                total = self.add(total, self.read(part))
                values.append(-part)
        except (OverflowError, ValueError):  # a sum on the way beyond the largest float, or of both infinities
            return cast("Scaled", super().total(partial))
        return total

    def squares(self, values: Sequence[float]) -> Scaled:
        """Each square as a rounded product and what that lost, both floats (Dekker 1971, halves by Veltkamp 1968)."""
        sizes = [abs(value) for value in values if value]
        if not sizes:
            return self.zero
        finite = all(map(math.isfinite, sizes))
        if not (finite and min(sizes) > 2.0**-480 and max(sizes) < 2.0**480):  # else a product may under- or overflow
            return cast("Scaled", super().squares(values))
        parts: list[float] = []
        for size in sizes:
            far = size * _SPLIT
            high = far - (far - size)
            low = size - high
            product = size * size
            parts += (product, ((high * high - product) + 2 * high * low) + low * low)
        return self.total(parts)

    def round(self, exact: Fraction) -> float:
        return _to_float(exact)

    @property
    def nan(self) -> float:
        return math.nan


class Decimals(_ScaledNumber):
    """Decimals, or their texts; means and variances are rounded to 28 digits, sums are not rounded at all.

    An exponent outside decimal128's range (6176 digits either way) counts as NaN.

    >>> decimals = Decimals()
    >>> decimals.sum(decimals.total([Decimal("0.10"), "0.2"]))
    Decimal('0.3')
    """

    base = 10

    def canonical(self, mantissa: int, exponent: int, specials: int) -> Scaled:
        if not mantissa:
            return 0, 0, specials
        while mantissa % 10 == 0:
            mantissa, exponent = mantissa // 10, exponent + 1
        return mantissa, exponent, specials

    def read(self, value: Any) -> Scaled:
        number = value if isinstance(value, Decimal) else Decimal(value)
        if number.is_infinite():
            return 0, 0, PLUS_INFINITY if number > 0 else MINUS_INFINITY
        sign, digits, exponent = number.as_tuple()
        if number.is_nan() or abs(cast("int", exponent)) > _EXPONENTS:
            return 0, 0, NAN
        mantissa = int("".join(map(str, digits)))
        return self.canonical(-mantissa if sign else mantissa, cast("int", exponent), 0)

    def sum(self, total: Scaled) -> Any:
        special = self.special(total)
        if special is not None:
            return special
        mantissa, exponent, _ = total
        digits = tuple(map(int, str(abs(mantissa))))
        if exponent > 0:  # 100, not 1E+2
            digits, exponent = (*digits, *[0] * exponent), 0
        return Decimal((int(mantissa < 0), digits, exponent))

    def round(self, exact: Fraction) -> Decimal:
        return _ROUNDED.divide(Decimal(exact.numerator), Decimal(exact.denominator))

    @property
    def nan(self) -> Decimal:
        return Decimal("nan")


NUMBER: Mapping[str, Number] = {"int": Integers(), "float": Floats(), "Decimal": Decimals()}
