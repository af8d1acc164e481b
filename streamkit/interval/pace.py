"""Durations, and what the user asks of the interval between Checkpoints."""

from __future__ import annotations

import math
import re

import msgspec

from streamkit.errors import DefinitionError

SHORTEST, LONGEST = 0.05, 60.0
"""Bounds of an interval that is adapted, in seconds; one that the user fixes may lie outside."""
DEFAULT = 1.0
DAY = 86_400.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


def parse_duration(duration: str | float) -> float:
    """Seconds, more than 0. Raises DefinitionError.

    >>> parse_duration("500ms"), parse_duration("2m"), parse_duration(1.5)
    (0.5, 120.0, 1.5)
    """
    found = _DURATION.fullmatch(duration.strip()) if isinstance(duration, str) else None
    if found:
        seconds = float(found[1]) * _UNITS[found[2]]
    else:
        is_number = isinstance(duration, (int, float)) and not isinstance(duration, bool)
        seconds = float(duration) if is_number else math.nan
    if not 0 < seconds < math.inf:
        raise DefinitionError(
            f"{duration!r} is no duration: expected more than 0, as a number of seconds (1.5) or with a unit, "
            "one of '500ms', '5s', '2m', '1h', '1d'"
        )
    return seconds


def show_seconds(seconds: float) -> str:
    """For people.

    >>> show_seconds(0.05), show_seconds(1.234), show_seconds(90 * 60), show_seconds(DAY), show_seconds(math.inf)
    ('50 ms', '1.23 s', '90 min', '24 h', 'never')
    """
    if math.isinf(seconds):
        return "never"
    for unit, of_unit, least in (("h", 3600.0, 7200.0), ("min", 60.0, 600.0), ("s", 1.0, 0.9995)):
        if seconds >= least:
            shown = seconds / of_unit
            return f"{shown:.3g} {unit}" if shown < 99.95 else f"{shown:,.0f} {unit}"
    return f"{seconds * 1000:.3g} ms"


class Pace(msgspec.Struct, frozen=True):
    """What the user asked for, in seconds: `fixed`, or `recovery`, `freshness` or both. Nothing is `fixed` 1 s.

    `recovery` is how long a worker that was killed, its local state intact, may take until it has caught up;
    `freshness` how old Answers may be. Raises DefinitionError.
    """

    recovery: float | None = None
    freshness: float | None = None
    fixed: float | None = None

    def __post_init__(self) -> None:
        given = {n: v for n in ("recovery", "freshness", "fixed") if (v := getattr(self, n)) is not None}
        for seconds in given.values():
            parse_duration(seconds)
        if "fixed" in given and len(given) > 1:
            raise DefinitionError(
                f"a fixed checkpoint interval ({show_seconds(given.pop('fixed'))}) leaves nothing to adapt to "
                f"{' and '.join(given)}: give one or the other"
            )
        if self.freshness is not None and self.freshness < SHORTEST:
            raise DefinitionError(
                f"freshness is {show_seconds(self.freshness)}, expected {show_seconds(SHORTEST)} or more, which is the "
                "shortest interval that is adapted; checkpoint=... fixes a shorter one"
            )
        if not given:
            msgspec.structs.force_setattr(self, "fixed", DEFAULT)

    @classmethod
    def of(
        cls,
        recovery: str | float | None = None,
        freshness: str | float | None = None,
        checkpoint: str | float | None = None,
    ) -> Pace:
        """From what a Topology was given: `Pace.of(*topology.pace)`. Raises DefinitionError.

        >>> Pace.of("5s", "500ms")
        Pace(recovery=5.0, freshness=0.5, fixed=None)
        """
        return cls(*(None if text is None else parse_duration(text) for text in (recovery, freshness, checkpoint)))
