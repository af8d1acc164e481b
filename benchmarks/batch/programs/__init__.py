"""Programs of the peers, each run by the Python of its own environment."""
