"""The model from the last Checkpoints: lines that forget, and that one Checkpoint which hung does not bend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from streamkit.interval.model import Point

_RATE_HALF_LIFE, _COST_HALF_LIFE = 5.0, 20.0


def fitted(points: Sequence[Point]) -> dict[str, Any]:
    fixed, per_change = _fit_cost(points)
    factor, power = _fit_changes(points)
    typical = 2 * median(p.period for p in points)
    rate, cost = _weights(len(points), _RATE_HALF_LIFE), _weights(len(points), _COST_HALF_LIFE)
    # By time, but not more than twice the usual: an hour without records would hide what comes after it.
    times = [w * min(p.period, typical) for w, p in zip(rate, points, strict=True)]
    arrival = sum(t * p.arrived / p.period for t, p in zip(times, points, strict=True) if t)
    busy = sum(w * p.busy for w, p in zip(cost, points, strict=True))
    read = sum(w * p.records for w, p in zip(cost, points, strict=True))
    changed = sum(p.changes for p in points)
    return {
        "cost_fixed": fixed,
        "cost_per_change": per_change,
        "changes_factor": factor,
        "changes_power": power,
        "bytes_per_change": sum(p.bytes for p in points) / changed if changed else 0.0,
        "arrival": arrival / sum(times) if any(times) else 0.0,
        "capacity": read / busy if busy and read else math.inf,
    }


def _weights(count: int, half_life: float) -> list[float]:
    return [0.5 ** ((count - 1 - i) / half_life) for i in range(count)]


def _fit_cost(points: Sequence[Point]) -> tuple[float, float]:
    """Seconds of a Checkpoint without changes, and for each change."""
    mean = sum(p.changes for p in points) / len(points)
    if not mean:
        return median(p.seconds for p in points), 0.0
    x, y = [p.changes / mean for p in points], [p.seconds for p in points]
    forgetting = _weights(len(points), _COST_HALF_LIFE)
    weights = forgetting
    fixed, slope = 0.0, 0.0
    for _ in range(5):
        level = sum(w * v for w, v in zip(weights, y, strict=True)) / sum(weights)
        fixed, slope = _line(x, y, weights, slope=level / 2, strength=0.01)
        slope = min(max(slope, 0.0), level)
        fixed = max(level - slope * sum(w * v for w, v in zip(weights, x, strict=True)) / sum(weights), 0.0)
        away = [abs(v - fixed - slope * u) for u, v in zip(x, y, strict=True)]
        usual = 2 * median(away)  # 1.345 standard deviations: Huber's constant
        weights = [w * min(1.0, usual / a) if a else w for w, a in zip(forgetting, away, strict=True)]
        if not usual:
            break
    return fixed, slope / mean


def _fit_changes(points: Sequence[Point]) -> tuple[float, float]:
    """Factor and power of changes = factor * records ** power, by a line through the logarithms."""
    used = [p for p in points if p.records and p.changes]
    if not used:
        return 0.0, 1.0
    x, y = [math.log(p.records) for p in used], [math.log(p.changes) for p in used]
    weights = _weights(len(used), _COST_HALF_LIFE)
    power = min(max(_line(x, y, weights, slope=0.7, strength=0.02)[1], 0.0), 1.0)
    level = sum(w * (v - power * u) for w, u, v in zip(weights, x, y, strict=True)) / sum(weights)
    return math.exp(level), power


def _line(
    x: Sequence[float], y: Sequence[float], weights: Sequence[float], *, slope: float, strength: float
) -> tuple[float, float]:
    """Weighted least squares with a prior on the slope, which counts as much as a variance of `strength` in x."""
    total = sum(weights)
    mx = sum(w * u for w, u in zip(weights, x, strict=True)) / total
    my = sum(w * v for w, v in zip(weights, y, strict=True)) / total
    xx = sum(w * (u - mx) ** 2 for w, u in zip(weights, x, strict=True)) + strength * total
    xy = sum(w * (u - mx) * (v - my) for w, u, v in zip(weights, x, y, strict=True)) + strength * total * slope
    return my - xy / xx * mx, xy / xx
