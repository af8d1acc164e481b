"""`streamkit.calling`: casting values to agents, and asking them, from outside of their topology."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from streamkit.agent import Agent, running_calls
from streamkit.errors import AgentFailed, DefinitionError, StreamkitError
from streamkit.log.base import Log, Reader
from streamkit.log.kafka import KafkaLog
from streamkit.record import Chunk, Headers, TopicPartition
from streamkit.settings import Connection
from streamkit.topic import Topic
from streamkit.topology import Topology

REPLY_TO, CORRELATION, FAILED = "streamkit.reply-to", "streamkit.correlation", "streamkit.failed"
"""Headers of a question: the topic for its answer, and what the answer repeats. Of an answer: why there is none."""

_KEPT = {"retention.ms": "3600000"}


@contextmanager
def calling(
    topology: Topology, *, brokers: str | None = None, client_config: Path | str | None = None
) -> Iterator[Caller]:
    """Within this context `await agent.cast(value)` and `await agent.ask(value)` reach the Topology's agents.

        with sk.calling(app, brokers="localhost:9092"):
            print(await convert.ask(Amount(12, "EUR")))

    `brokers` and `client_config` default to STREAMKIT_BROKERS and STREAMKIT_CLIENT_CONFIG. Raises BrokerUnreachable.
    """
    with (
        closing(KafkaLog(Connection.from_environment(brokers, client_config))) as log,
        closing(Caller(topology, log)) as caller,
    ):
        token = running_calls.set(caller)
        try:
            yield caller
        finally:
            running_calls.reset(token)


class Caller:
    """Sends to agents' topics, and waits for answers on a topic of the topology's own."""

    def __init__(self, topology: Topology, log: Log) -> None:
        self._log, self._replies = log, f"streamkit.{topology.name}.replies"
        self._writer = log.writer()
        self._lock = threading.Lock()  # one at a time: a flush is for what was sent before it
        self._asked: dict[bytes, asyncio.Future[tuple[bytes | None, bytes | None]]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    async def send(self, topic: Topic, value: Any, key: bytes | None) -> None:
        """Returns when the value is on the log. Raises TypeError, DeliveryFailed, BrokerUnreachable."""
        await asyncio.to_thread(self._send, topic, value, key, ())

    async def ask(self, agent: Agent, value: Any, key: bytes | None, timeout: float) -> Any:
        """Raises what `Agent.ask` does, DefinitionError where the agent never answers."""
        kind = agent.replies or (agent.out and agent.out.value)
        if kind is None or agent.batches:
            raise DefinitionError(
                f"agent {agent.name!r} answers nothing: it needs out= or replies=TYPE, yields, and no batches=True"
            )
        await asyncio.to_thread(self._listen)
        asked = uuid.uuid4().hex.encode()
        answer = self._asked[asked] = asyncio.get_running_loop().create_future()
        try:
            headers = ((REPLY_TO, self._replies.encode()), (CORRELATION, asked))
            await asyncio.to_thread(self._send, agent.topic, value, key, headers)
            payload, failed = await asyncio.wait_for(answer, timeout)
        except TimeoutError:
            raise TimeoutError(
                f"agent {agent.name!r} has not answered {value!r} within {timeout} s: does a worker run, and does the "
                f"agent yield at every event? An answer comes with the Checkpoint after it"
            ) from None
        finally:
            del self._asked[asked]
        if failed is not None:
            raise AgentFailed(f"agent {agent.name!r} failed on {value!r}: {failed.decode()}")
        return msgspec.json.decode(payload or b"null", type=kind)

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._writer.close()

    def _send(self, topic: Topic, value: Any, key: bytes | None, headers: Headers) -> None:
        check_value(topic, value)
        time = topic.time_of(value)
        with self._lock:
            self._writer.send(
                topic.name, topic.encode(value), key=key or topic.key_of(value), timestamp=time, headers=headers
            )
            self._writer.flush()

    def _listen(self) -> None:
        """Hear answers, from now on."""
        with self._lock:
            if self._thread is None:
                self._log.create(self._replies, partitions=1, config=_KEPT)
                ends = self._log.ends(self._replies)
                reader = self._log.reader({TopicPartition(self._replies, p): end for p, end in ends.items()})
                self._thread = threading.Thread(
                    target=self._hear, args=(reader,), name="streamkit-answers", daemon=True
                )
                self._thread.start()

    def _hear(self, reader: Reader) -> None:
        with closing(reader):
            while not self._stop.is_set():
                try:
                    chunks = reader.poll(1_000, 0.1)
                except StreamkitError as error:
                    for answer in list(self._asked.values()):
                        _later(answer, error)
                    return
                for chunk in chunks:
                    self._answered(chunk)
                if not chunks:
                    self._stop.wait(0.005)

    def _answered(self, chunk: Chunk) -> None:
        for headers, payload in zip(chunk.headers, chunk.values, strict=True):
            known = dict(headers)
            answer = self._asked.get(known.get(CORRELATION) or b"")
            if answer is not None:
                _later(answer, (payload, known.get(FAILED)))


def check_value(topic: Topic, value: Any) -> None:
    """Raises TypeError for a value that is none of the topic's."""
    if not isinstance(value, topic.value):
        raise TypeError(f"topic {topic.name!r} takes {topic.value.__name__}, got {value!r}")


def _later(answer: asyncio.Future[Any], found: Any) -> None:
    """Tell the loop that waits; an answer's first value is the answer."""

    def tell() -> None:
        if not answer.done():
            answer.set_exception(found) if isinstance(found, BaseException) else answer.set_result(found)

    answer.get_loop().call_soon_threadsafe(tell)
