"""Where an archive lies: a local folder or an object store, by URL. The one place that imports obstore."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, from_url

from streamkit.errors import ArchiveUnreachable

T = TypeVar("T")


class Objects:
    """Files below a URL: `s3://bucket/path`, `gs://`, `az://` (or `abfss://`), `file:///path`, or a path.

    Credentials, region and endpoint of an object store come from the environment, by the names that its own tools use
    (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, ...).
    All methods raise ArchiveUnreachable where the store does not answer, or refuses.
    """

    def __init__(self, url: str) -> None:
        self.folder = local_folder(url)
        self.url = self.folder.as_uri() if self.folder else url.rstrip("/")
        self._store: Any = self._ask(lambda: self._open(), "it")

    def _open(self) -> Any:
        if self.folder:
            return LocalStore(self.folder, mkdir=True)
        # Addresses of an http:// endpoint are for stores on one's own network, and tests.
        http = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        return from_url(self.url, client_options={"allow_http": True} if http else {})

    def read(self, path: str) -> memoryview:
        """The whole content. Raises FileNotFoundError."""
        return self._ask(lambda: memoryview(obstore.get(self._store, path).bytes()), path)

    def write(self, path: str, content: IO[bytes]) -> None:
        """Durable when it returns."""
        self._ask(lambda: obstore.put(self._store, path, content), path)
        self._sync(path)

    def create(self, path: str, content: bytes) -> bool:
        """Write it whole where nothing is, atomically; False where something is already."""
        try:
            self._ask(lambda: obstore.put(self._store, path, content, mode="create"), path)
        except AlreadyExistsError:
            return False
        self._sync(path)
        return True

    def names(self, folder: str) -> list[str]:
        """The paths of all files below a folder, sorted."""

        def ask() -> list[str]:
            return sorted(meta["path"] for batch in obstore.list(self._store, prefix=folder) for meta in batch)

        return self._ask(ask, folder, absent=ArchiveUnreachable)

    def folders(self, folder: str = "") -> list[str]:
        """The names of the folders in a folder, sorted."""

        def ask() -> list[str]:
            found = obstore.list_with_delimiter(self._store, folder or None)["common_prefixes"]
            return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

        return self._ask(ask, folder, absent=ArchiveUnreachable)

    def delete(self, paths: Iterable[str]) -> None:
        """What is not there is gone already."""
        for path in paths:
            try:
                self._ask(lambda path=path: obstore.delete(self._store, path), path)  # type: ignore[misc]
            except FileNotFoundError:
                continue

    def url_of(self, path: str) -> str:
        return f"{self.url}/{path}"

    def _ask(self, request: Callable[[], T], path: str, absent: type[Exception] = FileNotFoundError) -> T:
        try:
            return request()
        except AlreadyExistsError:
            raise
        except (BaseError, OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and absent is FileNotFoundError:
                raise
            # Behind its first line come the client's inner values.
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ArchiveUnreachable(
                f"archive {self.url}: {path}: {reason}. Is the URL right (--archive, STREAMKIT_ARCHIVE), are its "
                f"credentials in the environment, may they read and write there?"
            ) from error

    def _sync(self, path: str) -> None:
        """Records may be deleted from the log once they are here: a power cut must not take them from here, too."""
        if self.folder is None:
            return
        for place in (self.folder / path, (self.folder / path).parent):
            opened = os.open(place, os.O_RDONLY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)


def local_folder(url: str) -> Path | None:
    """The folder that a URL or path names; None for an object store.

    >>> local_folder("file:///data/archive"), local_folder("s3://bucket/archive")
    (PosixPath('/data/archive'), None)
    """
    parts = urlsplit(url)
    if "://" not in url:
        return Path(url).absolute()
    return Path(unquote(parts.path)) if parts.scheme == "file" else None
