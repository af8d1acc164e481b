"""The control topic: one partition, one order, read from its start by whoever takes part."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping

from streamkit import control
from streamkit.control import CONTROL_CONFIG, Message, Published, Sealed, SealRequest, control_topic
from streamkit.cut import Cut
from streamkit.errors import LogError
from streamkit.log.base import Log
from streamkit.record import TopicPartition
from streamkit.view import View


class ControlTopic:
    """Follows and writes the control topic of one topology; makes it where there is none."""

    def __init__(self, log: Log, topology: str) -> None:
        self._log = log
        self._source = TopicPartition(control_topic(topology), 0)
        log.create(self._source.topic, partitions=1, config=CONTROL_CONFIG)
        self._reader = log.reader({self._source: 0})
        self._writer = log.writer()
        self.published = Published()

    def append(self, message: Message) -> None:
        """Returns when the message is on the log."""
        self._writer.send(self._source.topic, control.encode(message), partition=0)
        self._writer.flush()

    def poll(self, timeout: float = 0.0) -> list[Message]:
        """Messages that are there and not yet read; waits up to `timeout` seconds for the first."""
        messages = []
        for chunk in self._reader.poll(10_000, timeout):
            for offset, value in zip(chunk.offsets, chunk.values, strict=True):
                messages.append(self._decode(offset, value))
        for message in messages:
            self.published.apply(message)
        return messages

    def catch_up(self, end: int | None = None) -> list[Message]:
        """All messages up to `end`, or to the topic's end as it is now. Raises BrokerUnreachable."""
        if end is None:
            end = self._log.ends(self._source.topic)[0]
        messages: list[Message] = []
        while (before := self._reader.positions()[self._source]) < end:
            messages += self.poll(0.5)
            if self._reader.positions()[self._source] == before:
                self._log.ends(self._source.topic)  # a Reader waits for a broker that is away; this raises
        return messages

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def _decode(self, offset: int, value: bytes | None) -> Message:
        try:
            return control.decode(value or b"")
        except ValueError as error:
            raise LogError(
                f"{self._source}/{offset} is not a control record of this version of StreamKit ({error}); "
                f"a newer version may have written it: use that version for all parts of a topology"
            ) from error


def request_seal(
    topic: ControlTopic,
    view: View,
    partitions: int,
    *,
    timeout_seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Cut, Mapping[int, int]] | None:
    """Have the running workers seal `view`: the Cut, and the offsets its Segments reach down to.

    None where not every partition has reported in time: no worker runs, or it is too slow. An answer that comes later
    does no harm: the worker adopts whatever Cut is published.
    """
    request = SealRequest(uuid.uuid4().hex, view.name)
    topic.catch_up()
    topic.append(request)
    ends: dict[int, int] = {}
    starts: dict[int, int] = {}
    topic_id = ""
    deadline = clock() + timeout_seconds
    while clock() < deadline:
        for message in topic.poll(0.1):
            if isinstance(message, Sealed) and message.request == request.id:
                if message.fingerprint != view.fingerprint:
                    continue
                ends.update(message.ends)
                starts.update(message.starts)
                topic_id = message.topic_id
        if len(ends) >= partitions:
            return Cut(view.topic.name, topic_id, ends), starts
    return None
