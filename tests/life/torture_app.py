"""The life topology for the workers that are tortured; names and standbys come from the environment."""

import os

from tests.life.app import topology

app = topology(
    os.environ.get("LIFE_TOPIC", "clicks"),
    name=os.environ.get("LIFE_NAME", "life"),
    standbys=int(os.environ.get("LIFE_STANDBYS", "0")),
)
