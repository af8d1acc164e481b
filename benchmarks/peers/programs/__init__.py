"""What runs inside the peers' own environments: a program a peer, told and telling as `benchmarks.peers.task` says."""
