"""How often to make Checkpoints: from what they cost, how fast records are read again, and what was asked for.

A Checkpoint stops the worker for `cost` seconds; between two of them it reads for `interval` seconds. Long intervals
cost little and make a crash expensive, short ones the other way round. Nothing here reads a clock or does I/O: the
worker hands in an Observation a Checkpoint, and the Pacer says how long to read until the next.

Sources: J. W. Young, A first order approximation to the optimum checkpoint interval, CACM 17(9), 1974. J. T. Daly, A
higher order estimate of the optimum checkpoint interval for restart dumps, FGCS 22(3), 2006. P. J. Huber, Robust
estimation of a location parameter, 1964 (its weights). H. S. Heaps, Information Retrieval, 1978 (distinct keys).
"""

from __future__ import annotations

from streamkit.interval.model import (
    Measured,
    Observation,
    Point,
    age,
    daly,
    optimum,
    overhead,
    recovery_seconds,
    waste,
    young,
)
from streamkit.interval.pace import DAY, DEFAULT, LONGEST, SHORTEST, Pace, parse_duration, show_seconds
from streamkit.interval.pacer import BAND, GROWTH, KEPT, MOST_OVERHEAD, PATIENCE, Choice, Pacer, choose

__all__ = [
    "BAND",
    "DAY",
    "DEFAULT",
    "GROWTH",
    "KEPT",
    "LONGEST",
    "MOST_OVERHEAD",
    "PATIENCE",
    "SHORTEST",
    "Choice",
    "Measured",
    "Observation",
    "Pace",
    "Pacer",
    "Point",
    "age",
    "choose",
    "daly",
    "optimum",
    "overhead",
    "parse_duration",
    "recovery_seconds",
    "show_seconds",
    "waste",
    "young",
]
