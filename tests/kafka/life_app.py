"""The life topology for the command line; its names come from the environment, as each test has topics of its own."""

import os

from tests.life.app import topology

app = topology(os.environ["LIFE_TOPIC"], name=os.environ["LIFE_NAME"])
