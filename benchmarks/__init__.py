"""Benchmarks: a claim about speed names command, data, peer and ratio, and comes from one run."""
