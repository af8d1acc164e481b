"""Made-up traffic of an advertising network, decided by a seed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

CAMPAIGNS, ADS_EACH, PAGES, USERS = 100, 10, 1_000, 50_000
AD_TYPES = ("banner", "modal", "sponsored-search", "mail", "mobile")
LATE_SHARE, LATE_MS = 0.02, 60_000
MEDIAN_PRICE, PRICE_SIGMA = 500_000, 0.7  # log-normal: one price in two thousand is above 5 dollars
_BLOCK = 8_192

Row = tuple[str, str, str, str, str, Literal["view", "click", "purchase"], int, str, int]
"""User, page, ad, campaign, type of ad, type of event, time in milliseconds, address, price in micros."""


def rows(seed: int, start: int, rate: float) -> Iterator[Row]:
    """Endless rows: on average `rate` a second from `start` (milliseconds since the epoch), 2 % up to a minute late.

    90 % are views, 8 % clicks, 2 % purchases. The user of rank k is k times as rare as the first (Zipf's law).
    Equal arguments give equal rows, whatever is read of them: numbers are drawn in blocks of one size.

    >>> first = next(rows(seed=1, start=1_700_000_000_000, rate=1_000.0))
    >>> first == next(rows(seed=1, start=1_700_000_000_000, rate=1_000.0)), first == next(rows(2, 0, 1_000.0))
    (True, False)
    """
    rng = np.random.default_rng(seed)
    users, pages = _ids(rng, USERS), _ids(rng, PAGES)
    addresses = [".".join(map(str, parts)) for parts in rng.integers(1, 255, (USERS, 4)).tolist()]
    ads = [f"ad{n}" for n in range(CAMPAIGNS * ADS_EACH)]
    campaigns = [f"c{n // ADS_EACH}" for n in range(len(ads))]
    kinds = [AD_TYPES[n] for n in rng.integers(0, len(AD_TYPES), len(ads)).tolist()]
    clock = float(start)
    while True:
        clock, times = _times(rng, clock, rate)
        user, page, ad = _ranks(rng, USERS), _draw(rng, PAGES), _draw(rng, len(ads))
        yield from zip(
            map(users.__getitem__, user),
            map(pages.__getitem__, page),
            map(ads.__getitem__, ad),
            map(campaigns.__getitem__, ad),
            map(kinds.__getitem__, ad),
            rng.choice(np.array(["view", "click", "purchase"]), _BLOCK, p=[0.90, 0.08, 0.02]).tolist(),
            times,
            map(addresses.__getitem__, user),
            np.rint(MEDIAN_PRICE * rng.lognormal(0.0, PRICE_SIGMA, _BLOCK)).astype(np.int64).tolist(),
            strict=True,
        )


def _ids(rng: np.random.Generator, count: int) -> list[str]:
    raw = rng.bytes(16 * count)
    return [str(uuid.UUID(bytes=raw[at : at + 16], version=4)) for at in range(0, len(raw), 16)]


def _draw(rng: np.random.Generator, count: int) -> list[Any]:
    drawn: list[Any] = rng.integers(0, count, _BLOCK).tolist()
    return drawn


def _ranks(rng: np.random.Generator, count: int) -> list[Any]:
    """Ranks from 0 by Zipf's law with exponent 1, by the inverse of its distribution: `(count + 1) ** u`."""
    ranks: list[Any] = (np.floor((count + 1) ** rng.random(_BLOCK)).astype(np.int64) - 1).tolist()
    return ranks


def _times(rng: np.random.Generator, clock: float, rate: float) -> tuple[float, list[Any]]:
    """The clock after a block, and the block's event times: a Poisson process, some of them moved back."""
    moments = clock + np.cumsum(rng.exponential(1_000.0 / rate, _BLOCK))
    late = rng.random(_BLOCK) < LATE_SHARE
    times = moments - late * rng.uniform(0.0, LATE_MS, _BLOCK)
    return float(moments[-1]), times.astype(np.int64).tolist()
