"""A ceiling: Kafka's own consumer perf tool on the JVM; its figure is `fetch.nMsg.sec`, without joining the group."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from benchmarks.peers.task import finish, say, told


def main() -> None:
    task = told()
    command = json.loads(os.environ["PERF_COMMAND"])
    arguments = ["--bootstrap-server", task.brokers, "--topic", task.topic, "--group", task.group]
    limits = [task.settings["messages"], str(task.events), "--timeout", "30000", "--hide-header"]
    say(0)
    done = subprocess.run([*command, *arguments, *limits], stdout=subprocess.PIPE, text=True, check=False)
    *_, figures = done.stdout.strip().splitlines()
    fields = [field.strip() for field in figures.split(",")]
    if done.returncode or int(fields[4]) < task.events:
        sys.exit(f"{task.events:,} events were to be read; the tool says {figures}")
    print(json.dumps({"rate": float(fields[9])}), flush=True)
    say(task.total)
    finish(task, [])


if __name__ == "__main__":
    main()
