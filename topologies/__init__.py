"""Example topologies, one file a use case: each is a user's program, and the subject of tests and benchmarks."""
