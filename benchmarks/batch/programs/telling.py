"""What the programs share beside benchmarks/peers/task.py. Standard library only: it runs in every environment."""

from __future__ import annotations

import json
import time


def written() -> None:
    """The results are written: the run is over, what comes now is the check."""
    print(json.dumps({"at": time.monotonic_ns()}), flush=True)


def tell(**figures: float) -> None:
    """What a peer measures itself."""
    print(json.dumps({"told": figures}), flush=True)
