"""The archive: closed ranges of a topic as Parquet, in a local folder or an object store, and read as a log again."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from streamkit.errors import StreamkitError
from streamkit.log.base import Log

if TYPE_CHECKING:
    from streamkit.log.archive.archive import Archive
    from streamkit.log.archive.objects import Objects

_NEEDED = ("obstore", "pyarrow", "pyiceberg")


def open_objects(url: str) -> Objects:
    """The place at a URL or path. Raises StreamkitError where what reads it is not installed, ArchiveUnreachable."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise StreamkitError(f"archive {url}: {', '.join(missing)} is not installed: pip install 'streamkit[archive]'")
    from streamkit.log.archive.objects import Objects

    return Objects(url)


@runtime_checkable
class Archived(Protocol):
    """A Log with an archive before it."""

    def archive(self, topic: str) -> Archive | None:
        """The topic's archive; None where it is not archived."""


def open_source(log: Log, url: str | None, topics: Collection[str]) -> Log:
    """The log, which reads those of `topics` that are archived at `url` from there as far as that goes.

    A local folder that does not exist is an archive of nothing; a URL is asked. Raises as `open_objects`.
    """
    if url is None or ("://" not in url and not Path(url).is_dir()):
        return log
    objects = open_objects(url)
    archived = set(topics) & set(objects.folders())
    if not archived:
        return log
    from streamkit.log.archive.archived import ArchivedLog

    return ArchivedLog(log, objects, archived)
