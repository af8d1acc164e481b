"""`streamkit archive`: a topic into Parquet and an Iceberg table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from streamkit.cli.options import ARCHIVE, BROKERS, CLIENT_CONFIG, DATA, TOPOLOGY, err, load, open_log, out
from streamkit.cli.signals import asked_to_stop
from streamkit.errors import ArchiveUnreachable, BrokerUnreachable, DefinitionError, StreamkitError
from streamkit.folder import DataFolder
from streamkit.interval import parse_duration
from streamkit.log.archive import open_objects
from streamkit.log.base import Log

if TYPE_CHECKING:
    from streamkit.log.archive.archive import Archive
    from streamkit.log.archive.keeper import Keeper

_AGAIN_SECONDS = 5.0


def archive(
    topology: TOPOLOGY,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="A topic of the topology.", show_default=False)],
    archive: ARCHIVE = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on as records come, until Ctrl-C.")] = False,
    every: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Archive what came, again and again: 1h, 30s.")
    ] = None,
    compact: Annotated[bool, typer.Option("--compact", help="Join all small files, archive nothing.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Read every file and tell what is wrong; status 1.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="What is archived, file by file.")] = False,
    file_records: Annotated[int, typer.Option(min=1, help="A file ends at multiples of so many offsets.")] = 250_000,
    file_mb: Annotated[int, typer.Option(min=1, help="And at so many MB of keys and values.")] = 256,
    max_age: Annotated[str, typer.Option(metavar="DURATION", help="With --follow: and after that long.")] = "1m",
    catalog: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Properties of the Iceberg catalog, as pyiceberg has them: uri=..., type=rest, warehouse=...",
            show_default="SQLite",
        ),
    ] = None,
    iceberg: Annotated[bool, typer.Option(help="Keep the Iceberg table TOPOLOGY.TOPIC up to date.")] = True,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
    data: DATA = None,
) -> None:
    """Copy a topic into Parquet, named by offset range, and an Apache Iceberg table. Batch reads archive, then log.

    Archives up to the topic's end and leaves; started again, it goes on from there. Whatever is killed or comes twice,
    each offset is in the archive once. The topic's retention may be as short as the archive is kept up to date.
    Small files are joined when their range is full. An object store's credentials come from the environment, by the
    names of its own tools (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, ...).

    Examples:  streamkit archive app.py events   |   streamkit archive app.py events --follow --archive s3://bucket/a
    |   streamkit archive app.py events --every 1h   |   streamkit archive app.py events --check
    """
    _only_one({"--follow": follow, "--every": every, "--compact": compact, "--check": check, "--list": listed})
    loaded, folder = load(topology, data)
    name, seconds = loaded.find_topic(topic).name, parse_duration(every) if every else None
    with open_log(brokers, client_config) as log, asked_to_stop() as stop:
        keeper = _keeper(log, name, archive or folder.archive, file_records, file_mb, parse_duration(max_age))
        if check or listed:
            raise typer.Exit(_check(keeper.archive, log) if check else _list(keeper.archive, log))
        if iceberg:
            keeper.register(loaded.name, _properties(keeper.archive, folder, catalog or []))
        if compact:
            out.print(f"{keeper.tidy(every=True):,} files joined; {_said(keeper.archive)}", markup=False)
        elif follow or seconds is not None:
            _again(lambda: _run(keeper, stop, follow=follow), stop, seconds or 0.0)
        elif _run(keeper, stop, follow=False):
            err.print("stopped; the next run goes on from here")
            raise typer.Exit(130)


def _only_one(flags: Mapping[str, object]) -> None:
    given = [name for name, value in flags.items() if value]
    if len(given) > 1:
        raise DefinitionError(f"{' and '.join(given)} cannot go together: give one of them")


def _keeper(log: Log, topic: str, url: str, file_records: int, file_mb: int, max_age: float) -> Keeper:
    info = log.describe(topic)
    objects = open_objects(url)
    # What it takes need not be installed: `open_objects` has said so by now.
    from streamkit.log.archive.archive import Archive
    from streamkit.log.archive.archiver import Limits
    from streamkit.log.archive.keeper import Keeper

    return Keeper(log, Archive.of(objects, info), Limits(file_records, file_mb * 1024 * 1024, max_age))


def _properties(archive: Archive, folder: DataFolder, given: list[str]) -> dict[str, str]:
    """The catalog's: what was given, else a SQLite file beside the archive, or in the data folder for a remote one."""
    pairs = [item.partition("=") for item in given]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise DefinitionError(f"--catalog {name}: expected NAME=VALUE, as in --catalog uri=http://catalog:8181")
    named = {name: value for name, _, value in pairs}
    if named.keys() & {"type", "uri"}:
        return named
    place = (archive.objects.folder or folder.path).absolute()
    place.mkdir(parents=True, exist_ok=True)
    return {"type": "sql", "uri": f"sqlite:///{place / 'iceberg.sqlite'}", **named}


def _run(keeper: Keeper, stop: Event, *, follow: bool) -> bool:
    """True where it was stopped."""
    with _progress(keeper.archive.topic) as on_progress:
        records = keeper.run(stop, follow=follow, on_progress=on_progress)
    out.print(f"{records:,} records archived; {_said(keeper.archive)}", markup=False)
    return stop.is_set()


def _again(run: Callable[[], object], stop: Event, seconds: float) -> None:
    """Run every so many seconds, until asked to stop; an outage of broker or store is waited out."""
    while not stop.is_set():
        began = time.monotonic()
        try:
            run()
            wait = seconds - (time.monotonic() - began)
        except (ArchiveUnreachable, BrokerUnreachable) as outage:
            err.print(f"{outage}; trying again in {_AGAIN_SECONDS:g} s", markup=False)
            wait = _AGAIN_SECONDS
        stop.wait(max(0.0, wait))


def _said(archive: Archive) -> str:
    index = archive.newest()
    records, size = sum(f.records for f in index.files), sum(f.bytes for f in index.files)
    return f"{archive.url} has {records:,} in {len(index.files):,} files of {size / 1e6:,.1f} MB up to {index.cut}"


def _list(archive: Archive, log: Log) -> int:
    index, starts = archive.newest(), log.starts(archive.topic)
    for partition, files in index.of.items():
        for file in files:
            where = f"{archive.topic}/{partition}\t[{file.start}, {file.end})"
            out.print(f"{where}\t{file.records:,} records\t{file.bytes:,} bytes\t{file.path}", markup=False)
        reaches = f"[{files[0].start}, {files[-1].end})"
        out.print(f"{archive.topic}/{partition}\t{reaches}, the log from {starts.get(partition)} on", markup=False)
    out.print(f"index {index.number}: {_said(archive)}", markup=False)
    return 0


def _check(archive: Archive, log: Log) -> int:
    """Contiguity, topic id, checksums, offsets, counts; and that the log goes on where the archive ends."""
    from streamkit.log.archive.archive import reach
    from streamkit.log.archive.keeper import problems

    wrong = list(problems(archive))
    try:
        reach(log, archive)
    except StreamkitError as error:
        wrong.append(str(error))
    for problem in wrong:
        err.print(problem, style="red", markup=False)
    out.print(f"{len(wrong)} problems; {_said(archive)}", markup=False)
    return 1 if wrong else 0


@contextmanager
def _progress(topic: str) -> Iterator[Callable[[int, int, int], None]]:
    """A bar over the offsets of this run."""
    columns = (
        TextColumn(topic),
        BarColumn(),
        TextColumn("{task.completed:,.0f} records, {task.fields[left]:,} to go, {task.fields[files]:,} files"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err) as bar:
        task = bar.add_task(topic, total=None, left=0, files=0)

        def tell(records: int, files: int, left: int) -> None:
            bar.update(task, completed=records, total=records + left, left=left, files=files)

        yield tell
