"""The idempotent Writer."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streamkit.errors import LogError
from streamkit.log import client
from streamkit.log.kafka.cluster import Cluster
from streamkit.record import Headers


class KafkaWriter:
    """An idempotent Writer. A timestamp of None or 0 is stamped with the time of sending."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._failure: LogError | None = None
        required = {**client.WRITER_REQUIRED, "on_delivery": self._on_failure}
        self._producer: Producer = cluster.client(Producer, client.WRITER, required)

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        timestamp: int | None = None,
        headers: Headers = (),
        partition: int | None = None,
    ) -> None:
        number = -1 if partition is None else partition
        items = list(headers) or None
        while True:
            try:
                self._producer.produce(topic, value, key, number, timestamp=timestamp or 0, headers=items)  # type: ignore[arg-type]
            except BufferError:
                # Only failures are reported, so poll does not wake when room is made: wait in small steps.
                self._producer.poll(0.005)
            except KafkaException as failure:
                self._refuse(topic, failure.args[0])
                return
            else:
                return

    def flush(self) -> None:
        # In steps, so that Ctrl-C gets through.
        while self._producer.flush(1.0):
            pass
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._producer.close()

    def _on_failure(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refuse(str(message.topic()), error)

    def _refuse(self, topic: str, error: KafkaError) -> None:
        if self._failure is None:
            self._failure = self._cluster.delivery_failed(topic, error)
