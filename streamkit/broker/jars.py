"""Apache Kafka's server jars: resolved and downloaded by jgo once, then listed in a file and jgo is not asked again."""

from __future__ import annotations

import fcntl
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streamkit.errors import BrokerError

KAFKA_VERSION = "4.3.1"

COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    # Kafka logs through slf4j 1.7 and depends on log4j-core, but leaves the bridge between the two to its distribution.
    # The `!` keeps jgo from importing log4j's own dependency management, which would pin kafka-clients to 3.9.
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4!",
)

ATTEMPTS = 3
"""Files that arrived stay, so that another attempt costs only what is missing."""

Say = Callable[[str], None]


def cache_directory() -> Path:
    """Where jars and their list are kept: `$XDG_CACHE_HOME/streamkit`, by default `~/.cache/streamkit`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamkit"


def classpath(say: Say) -> list[Path]:
    """The jars of the server, downloaded where they are missing; `say` gets lines of progress.

    Raises BrokerError where jgo is not installed or the jars cannot be had.
    """
    cache = cache_directory()
    listing = cache / f"kafka-{KAFKA_VERSION}.json"
    try:
        with held(cache / "lock"):  # two first starts at once would read each other's half-written jars
            return _listed(listing) or _download(listing, say)
    except OSError as error:
        raise BrokerError(
            f"Apache Kafka {KAFKA_VERSION} could not be downloaded from Maven Central into {cache}: {error}. "
            "Connect once, or copy that directory from a machine that has it, or use another broker with --brokers"
        ) from error


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, waiting for whoever has it; the system frees it when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _listed(listing: Path) -> list[Path]:
    """The jars in the list, or none of them where one is missing or has another size."""
    try:
        sizes: dict[str, int] = json.loads(listing.read_text())
        jars = [listing.parent / name for name in sizes]
        return jars if all(jar.stat().st_size == size for jar, size in zip(jars, sizes.values(), strict=True)) else []
    except (OSError, ValueError):
        return []


def _download(listing: Path, say: Say) -> list[Path]:
    repository = listing.parent / "maven"
    context = _maven(repository)
    say(f"downloading Apache Kafka {KAFKA_VERSION} from Maven Central (45 MB, only this once)")
    for attempt in range(1, ATTEMPTS + 1):
        _discard_partial(repository)
        try:
            jars = _fetch(_resolve(context), say)
            break
        except (OSError, RuntimeError) as error:  # jgo raises RuntimeError for an answer that is not 200
            if attempt == ATTEMPTS:
                raise OSError(str(error)) from error
            say(f"  that failed, trying again: {error}")
    sizes = {str(jar.relative_to(listing.parent)): jar.stat().st_size for jar in jars}
    fresh = listing.with_suffix(".new")
    fresh.write_text(json.dumps(sizes, indent=1))
    fresh.replace(listing)
    return jars


def _maven(repository: Path) -> Any:
    """jgo's view of Maven; it walks POMs in Python, so neither Maven nor a JVM is needed."""
    try:
        from jgo.config import GlobalSettings
        from jgo.maven import MavenContext
    except ImportError as error:
        raise BrokerError(
            f"the embedded broker needs jgo ({error}): pip install 'streamkit[broker]', "
            "or use another broker with --brokers"
        ) from error
    mirrors = GlobalSettings.load().repositories  # a company's mirror, from jgo's own settings file
    return MavenContext(repo_cache=repository, remote_repos=mirrors or None, timeout=60)


def _resolve(context: Any) -> list[Any]:
    """The artifacts that the server needs when it runs."""
    from jgo.parse import Endpoint

    wanted = [context.create_dependency(each) for each in Endpoint.parse("+".join(COORDINATES)).coordinates]
    inputs, transitive = context.resolver.resolve(wanted)
    return [each.artifact for each in (*inputs, *(t for t in transitive if t.scope in ("compile", "runtime")))]


def _fetch(artifacts: Sequence[Any], say: Say) -> list[Path]:
    jars: list[Path] = []
    with ThreadPoolExecutor(8) as pool:  # one connection at a time takes several times as long: most jars are small
        for jar in pool.map(lambda artifact: Path(artifact.resolve()), artifacts):
            jars.append(jar)
            if len(jars) % 10 == 0 or len(jars) == len(artifacts):
                megabytes = sum(each.stat().st_size for each in jars) / 1e6
                say(f"  {len(jars)} of {len(artifacts)} jars, {megabytes:.0f} MB")
    return jars


def _discard_partial(repository: Path) -> None:
    """Delete what an interrupted download left: jgo writes into place and takes a file that exists for a whole one."""
    for jar in repository.rglob("*.jar"):
        if not zipfile.is_zipfile(jar):
            jar.unlink()
    for pom in repository.rglob("*.pom"):
        if not pom.read_bytes().rstrip().endswith(b"</project>"):
            pom.unlink()
