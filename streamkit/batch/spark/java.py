"""The Java that Spark runs on: one with the module that its launcher asks for, which cut-down runtimes lack."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from streamkit.errors import RunnerFailed

MODULE = "jdk.incubator.vector"
OLDEST = 17


def java_home() -> Path:
    """JAVA_HOME's Java, else the one on PATH. Raises RunnerFailed, with what was found."""
    seen = []
    for executable in _candidates():
        told = _modules(executable)
        found = re.search(rf"^{re.escape(MODULE)}@(\d+)", told, re.MULTILINE)
        if found and int(found[1]) >= OLDEST:
            return executable.resolve().parents[1]
        seen.append(f"{executable} is Java {found[1]}" if found else f"{executable} has no module {MODULE}")
    raise RunnerFailed(
        f"Spark needs a whole Java, {OLDEST} or newer: {'; '.join(seen) or 'none was found'}. Install one (Debian: "
        f"apt install openjdk-17-jre-headless) and set JAVA_HOME to it"
    )


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if found := shutil.which("java"):
        yield Path(found)


def _modules(executable: Path) -> str:
    command = [str(executable), "--list-modules"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    except OSError:
        return ""
