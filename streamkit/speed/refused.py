"""What Faust's streams have and an agent's events have not, because it would break exactly-once; with the way out."""

from __future__ import annotations

from typing import Any, NoReturn

from streamkit.errors import DefinitionError


class FaustOnly:
    """Methods of Faust's Stream that are refused, each with what to write instead."""

    def group_by(self, key: Any, **_: Any) -> NoReturn:
        """Refused: workers share out a topic's partitions before an agent runs, so they must know it by then."""
        raise DefinitionError(
            "events.group_by(...): workers must know the topic in between before they start. Declare it, and let the "
            f"agent read it: by_key = app.group_by(topic, {key!r}); @app.agent(by_key)"
        )

    def through(self, channel: Any) -> NoReturn:
        """Refused: as `group_by`."""
        name = getattr(channel, "name", channel)
        raise DefinitionError(
            f"events.through({name!r}): workers must know what they read before they start. Make it two agents: one "
            "with out=topic that yields its events, and one that reads that topic"
        )

    def noack(self) -> NoReturn:
        """Refused: offsets move with the Checkpoint alone."""
        raise DefinitionError(
            "events.noack(): an event is acknowledged when the agent asks for the next one, and a Checkpoint covers "
            'exactly those. To set an event aside, raise: with errors="dead_letter" it can be replayed'
        )

    def combine(self, *_: Any) -> NoReturn:
        """Refused: an agent has one topic, so that its state lies beside that topic's offsets."""
        raise DefinitionError(
            "an agent reads one topic. To combine several, let an agent for each yield to one out= topic, and read that"
        )

    __and__ = join = left_join = inner_join = outer_join = combine
