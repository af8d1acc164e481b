"""The store port: RocksDB (`store.rocksdb`) or memory (`store.memory`); both pass `streamkit.testing.contracts`."""
