"""Breaks the protocol on purpose, one way at a time, and looks whether a test sees it.

    python -m tests.life.mutations                    all of mutations.toml, some minutes
    python -m tests.life.mutations standby "the Mark" those with such words in their name

Each breakage is one replacement of text in a copy of this tree; the work tree itself is never touched. A breakage is
caught where its test fails; any other end (it passes, hangs, or cannot be run at all) is none. The tests run on the
copy as it is first: one that fails without any breakage would catch them all. Exit status 1 where one survives.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("mutations.toml")
COPIED = ("streamkit", "tests", "pyproject.toml")
LIFE = "tests/life/test_interleavings.py"
EXAMPLES = os.environ.get("STREAMKIT_LIFE_EXAMPLES", "300")
"""Interleavings that the state machine tries at most."""
TEST_SECONDS = 300
_FAILED = 1  # pytest: tests ran, and some failed
_BLUNDERS = ("NameError", "ImportError", "SyntaxError", "UnboundLocalError")
"""What only a mutation that is wrongly written fails by."""


@dataclass(frozen=True)
class Mutation:
    """One breakage: `old`, which is in `file` exactly once, becomes `new`; `test` is what has to fail."""

    name: str
    file: str
    old: str
    new: str
    test: str = LIFE

    def apply(self, tree: Path) -> None:
        """Raises ValueError where the text is not there exactly once."""
        path = tree / self.file
        text = path.read_text()
        if (count := text.count(self.old)) != 1:
            raise ValueError(
                f"mutation {self.name!r}: expected its old text once in {self.file}, found it {count} times; adapt it "
                f"in {LIST.name} to the code as it is now:\n{self.old}"
            )
        path.write_text(text.replace(self.old, self.new))


@dataclass(frozen=True)
class Outcome:
    """What a test said of a tree: pytest's exit status (None: no end in time), after how much, and why it failed."""

    status: int | None
    seconds: float
    examples: int | None
    reason: str
    said: str

    def __str__(self) -> str:
        examples = "" if self.examples is None else f"{self.examples} examples, "
        return f"{examples}{self.seconds:.1f} s"


def mutations() -> list[Mutation]:
    return [Mutation(**entry) for entry in tomllib.loads(LIST.read_text())["mutation"]]


@contextmanager
def copy() -> Iterator[Path]:
    """This tree in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="streamkit-mutation-") as folder:
        for name in COPIED:
            source, target = ROOT / name, Path(folder, name)
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy2(source, target)
        yield Path(folder)


def run(tree: Path, test: str) -> Outcome:
    """Run one test there. Nothing goes into shrinking, and the seed is fixed: a run can be repeated."""
    options = ("-q", "-x", "-p", "no:cacheprovider", "--hypothesis-seed=1", "--hypothesis-show-statistics")
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "200",  # where pytest cuts the reason
        "STREAMKIT_LIFE_EXAMPLES": EXAMPLES,
        "STREAMKIT_LIFE_PHASES": "generate",
        "STREAMKIT_LIFE_TIMEOUT": str(2 * TEST_SECONDS),  # a test that pytest ends would look like one that fails
    }
    begin = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, test],
            cwd=tree, env=environment, capture_output=True, text=True, timeout=TEST_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        return Outcome(None, time.monotonic() - begin, None, "", str(late))
    tried = re.search(r"(\d+) passing, (\d+) failing", done.stdout)
    examples = None if tried is None else sum(map(int, tried.groups()))
    reason = re.search(r"^FAILED \S+(?: - (.*))?", done.stdout, re.MULTILINE)
    said = done.stdout + done.stderr
    return Outcome(done.returncode, time.monotonic() - begin, examples, (reason and reason[1]) or "", said)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.life.mutations", description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only mutations with one of these in their name")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the end of what each test said")
    options = parser.parse_args(arguments)
    chosen = [m for m in mutations() if not options.words or any(word in m.name for word in options.words)]
    if not chosen:
        parser.error(f"no mutation has one of {options.words} in its name")
    survivors = _check_tests(chosen) or sum(not _caught(mutation, options.verbose) for mutation in chosen)
    print(f"{len(chosen)} mutations, {survivors} not caught")
    return 1 if survivors else 0


def _check_tests(chosen: Sequence[Mutation]) -> int:
    """How many tests do not pass on the tree as it is."""
    failing = 0
    with copy() as tree:
        for test in sorted({mutation.test for mutation in chosen}):
            outcome = run(tree, test)
            if outcome.status != 0:
                failing += 1
                print(f"without any mutation {test} does not pass ({outcome.status}):\n{outcome.said[-3000:]}")
    return failing


def _caught(mutation: Mutation, verbose: bool) -> bool:
    with copy() as tree:
        mutation.apply(tree)
        outcome = run(tree, mutation.test)
    caught = outcome.status == _FAILED and not outcome.reason.startswith(_BLUNDERS)
    what = "caught" if caught else {0: "SURVIVED", None: "HUNG"}.get(outcome.status, "COULD NOT BE RUN")
    print(f"{what:8} {mutation.name} ({outcome})\n         {mutation.test}: {outcome.reason}", flush=True)
    if verbose or what == "COULD NOT BE RUN":
        print(outcome.said[-3000:])
    return caught


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
