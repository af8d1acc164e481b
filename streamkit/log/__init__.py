"""The log port: Kafka (`log.kafka`) or memory (`log.memory`); both pass `streamkit.testing.contracts`."""
