"""Leadership: one of several processes acts, and another takes over when it is gone, by Kafka's own group protocol."""

from __future__ import annotations

from collections.abc import Collection

from streamkit.control import control_topic
from streamkit.log.base import Log
from streamkit.record import TopicPartition


class Leader:
    """Membership in a group of a topology that shares out one partition, the control topic's: who has it, leads.

    The group may give it to another while this process is stopped; it hears of that in its next `poll`. `confirmed`
    asks the broker.
    """

    def __init__(self, log: Log, topology: str, role: str) -> None:
        """Raises TopicMissing, BrokerUnreachable."""
        self._log, self._group = log, f"streamkit.{topology}.{role}"
        self._turn = TopicPartition(control_topic(topology), 0)
        self._leads, self._id = False, ""
        self._member = log.join(self._group, [self._turn.topic], self, name=f"streamkit-{role}")

    @property
    def leads(self) -> bool:
        """As it was at the last `poll`."""
        return self._leads

    def poll(self, timeout: float = 0.0) -> bool:
        """Hear the group; waits up to `timeout` seconds for something to change. Raises as `Member.poll`."""
        self._member.poll(timeout)
        return self._leads

    def confirmed(self) -> bool:
        """Does the broker, too, say that this process leads, now? Any thread may ask, while another one polls."""
        return self._leads and self._turn in self._log.members(self._group).get(self._id, ())

    def leave(self) -> None:
        """Let another lead, at once."""
        self._member.leave()

    # -- what the group tells -----------------------------------------------------------------------------------------

    def assigned(self, sources: Collection[TopicPartition]) -> None:
        if self._turn in sources:
            # Kept, as librdkafka makes a thread that asks for it wait for as long as another one polls.
            self._leads, self._id = True, self._member.id

    def revoked(self, sources: Collection[TopicPartition]) -> None:
        self._leads = self._leads and self._turn not in sources

    def lost(self, sources: Collection[TopicPartition]) -> None:
        self.revoked(sources)
