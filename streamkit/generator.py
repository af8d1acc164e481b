"""Generators: a named source of made-up values for a topic. A declaration only; `streamkit generate` sends them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamkit.topic import Topic

GeneratorFunction = Callable[[int, int, float], Iterator[Any]]
"""`f(seed, start, rate)`: values of the topic, decided by these alone. Event time begins at `start` (milliseconds since
the epoch) and `rate` of them fall, on average, into a second of it."""


@dataclass(frozen=True)
class Generator:
    """A topic's made-up values, endless or not."""

    topic: Topic
    function: GeneratorFunction

    def __call__(self, seed: int, start: int, rate: float) -> Iterator[Any]:
        """The decorated function is still the function."""
        return self.function(seed, start, rate)
