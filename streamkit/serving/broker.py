"""What the broker says of topics: asked once a look, all at once, and remembered for as long as it is away.

While it is away one thread asks whether it is back, so that nobody who asks for an Answer waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from streamkit.errors import BrokerUnreachable, LogError
from streamkit.log.base import Log, TopicInfo

_ASK_SECONDS = 0.5


class Broker:
    """The topics of `log`; `probe` is one that is always there. Not thread-safe, but for the thread of its own."""

    def __init__(self, log: Log, probe: str) -> None:
        self._log, self._probe = log, probe
        self._topics: dict[str, TopicInfo] = {}
        self._ends: dict[str, Mapping[int, int]] = {}
        self._last: dict[str, TopicInfo] = {}
        self._wanted: set[str] = set()
        self._error: BrokerUnreachable | None = None
        self._closed = threading.Event()
        self.away: BrokerUnreachable | None = None
        """Why it cannot be reached, from one `look` to the next; None where it can."""

    def look(self) -> bool:
        """Begin another look; False where the broker is away."""
        self.away = self._error
        return self.away is None

    def renew(self) -> int:
        """Ask anew, at once for all that was asked for in the look before; returns the probe's end.

        Most looks are like the one before, and one question to the broker takes as long as several at once. Raises
        TopicMissing (the probe), BrokerUnreachable.
        """
        looks = self._log.look({self._probe, *self._wanted})
        probe = looks.pop(self._probe, None)
        end = self._log.ends(self._probe)[0] if probe is None else probe.ends[0]
        self._topics = {name: look.topic for name, look in looks.items()}
        self._ends = {name: look.ends for name, look in looks.items()}
        self._last |= self._topics
        self._wanted = set()
        return end

    def lose(self, error: BrokerUnreachable) -> None:
        """It does not answer. Raises `error` where it has never been asked: nothing is known then."""
        if not self._last:
            raise error
        self.away = self._error = error
        threading.Thread(target=self._wait, name="streamkit-outage", daemon=True).start()

    def topic(self, name: str) -> TopicInfo:
        """The topic, or, while the broker is away, what it was. Raises TopicMissing, BrokerUnreachable."""
        self._wanted.add(name)
        if self.away is None and name not in self._topics:
            try:
                self._topics[name] = self._last[name] = self._log.describe(name)
            except BrokerUnreachable as error:
                self.lose(error)
        if self.away is not None and name not in self._last:
            raise self.away.with_traceback(None)
        return self._last[name] if self.away is not None else self._topics[name]

    def ends(self, topic: str) -> Mapping[int, int] | None:
        """The topic's end by partition; None while nobody knows."""
        self._wanted.add(topic)
        if self.away is None and topic not in self._ends:
            try:
                self._ends[topic] = self._log.ends(topic)
            except BrokerUnreachable as error:
                self.lose(error)
        return self._ends[topic] if self.away is None else None

    def close(self) -> None:
        self._closed.set()

    def _wait(self) -> None:
        while not self._closed.wait(_ASK_SECONDS):
            try:
                self._log.ends(self._probe)
            except LogError:
                continue
            self._error = None
            return
