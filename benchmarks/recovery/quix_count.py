"""Count and sum per key with Quix Streams: run by the Python of its own virtual environment, which has nothing else.

The one argument is JSON: topic, and the arguments of `Application`. Ends on SIGTERM.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def count(event: dict[str, Any], state: Any) -> None:
    counted, total = state.get("total", (0, 0))
    state.set("total", (counted + 1, total + event["value"]))


def main() -> None:
    from quixstreams import Application  # type: ignore[import-not-found, unused-ignore]

    told = json.loads(sys.argv[1])
    app = Application(**told["application"])
    frame = app.dataframe(app.topic(told["topic"], value_deserializer="json"))
    frame.update(count, stateful=True)
    app.run()


if __name__ == "__main__":
    main()
