"""`streamkit query`: the serving layer, asked on the command line."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from streamkit.cli.options import BROKERS, CLIENT_CONFIG, DATA, TOPOLOGY, VIEW, err, load, open_log, out, restoring
from streamkit.errors import DefinitionError
from streamkit.folder import DataFolder
from streamkit.log.base import Log
from streamkit.serving.answer_json import answer_json, iso_time, parse_span, parse_time, plain, result_json
from streamkit.serving.connect import open_serving
from streamkit.serving.merge import Page
from streamkit.serving.results import Results
from streamkit.serving.seam import Seam
from streamkit.topology import Topology
from streamkit.view import Answer, View

TABLE_ROWS = 1_000
"""Rows of a table that are shown where no limit is given: more is nothing to look at."""
_NO_WIDTH = 1_000_000


def query(
    topology: TOPOLOGY,
    view: VIEW,
    key: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY...]",
            help="The key's parts. Whole numbers (after -- where negative), true or false, bytes in base64, \\N for "
            "null. Without: all keys.",
            show_default=False,
        ),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="The windows that hold this moment.", show_default=False)
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Windows that end after it.", show_default=False)
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Windows that start before it.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many rows.", show_default=f"{TABLE_ROWS:,}; all with --json")
    ] = None,
    parts: Annotated[bool, typer.Option("--parts", help="Show what batch and speed hold of each value.")] = False,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
    data: DATA = None,
) -> None:
    """Show a View's Answers: exact for all records before the Cut that the last line names, all at that one Cut.

    TIME is milliseconds since the epoch or ISO 8601, in UTC unless it says otherwise. Rows are ordered by key and time;
    among keys, shorter texts come first. Exit status: 0, or 1 where there is no record with the KEY, and for errors.

    Examples:  streamkit query app.py campaign c42   |   streamkit query app.py campaign --at 2023-11-14T22:13:20Z
    """
    loaded, folder = load(topology, data)
    if view in loaded.jobs:
        with open_log(brokers, client_config) as log:
            query_job(log, loaded, folder, view, key, limit, as_json)
        return
    with open_log(brokers, client_config) as log, open_serving(loaded, log, folder, on_progress=restoring) as serving:
        found = serving.find(view)
        wanted = found.parse_key(key) if key else None
        span = _span(found, at, start, end)
        page = serving.page(found, wanted, *span)
        shown = limit if limit is not None or as_json else TABLE_ROWS
        answers = itertools.islice(page.answers, shown)
        count = print_json(found, answers) if as_json else print_table(found, answers, parts)
        more = count == shown and next(page.answers, None) is not None
    if not count:
        err.print(nothing_found(wanted, span, page.seam), markup=False)
        raise typer.Exit(1 if key else 0)
    if more:
        err.print(f"only the first {count:,} are shown: --limit, --from and --to show others")
    (err if as_json else out).print(footer(page), markup=False)


def query_job(
    log: Log,
    topology: Topology,
    folder: DataFolder,
    name: str,
    key: Sequence[str] | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Show Answers of a served MapReduce result."""
    job = topology.find_job(name)
    with closing(Results(log, topology, folder.mapreduce)) as results:
        result = results.newest(job)
        found = [results.get(job, results.parse_key(job, key))] if key else results.scan(job)
        answers = [a for a in itertools.islice(found, limit or (None if as_json else TABLE_ROWS)) if a.found]
    if as_json:
        for answer in answers:
            typer.echo(msgspec.json.encode(result_json(answer)))
    elif answers:
        table = Table(*results.key_columns(job), *answers[0].value)
        for answer in answers:
            table.add_row(*map(_cell, answer.key), *map(_cell, answer.value.values()))
        out.print(table, soft_wrap=False)
    cuts = ", ".join(map(str, result.cuts.values()))
    if not answers:
        err.print(f"no result{' with this key' if key else ''} before Cut {cuts}", markup=False)
        raise typer.Exit(1 if key else 0)
    (err if as_json else out).print(
        f"exact at {cuts}, lag {answers[0].lag:,} records; result {result.id} of {iso_time(result.created)}",
        markup=False,
    )


def print_json(view: View, answers: Iterable[Answer]) -> int:
    """One object a line; returns how many."""
    count = 0
    for count, answer in enumerate(answers, 1):  # noqa: B007
        typer.echo(msgspec.json.encode(answer_json(view, answer)))
    return count


def print_table(view: View, answers: Iterable[Answer], parts: bool) -> int:
    """One row an Answer; returns how many. With `parts`, below each value what batch and speed hold of it."""
    keys, aggregates = list(view.keys), list(view.aggregates)
    table = Table()
    for name in [*keys, *(["window (UTC)"] if view.windowed else []), *(["layer"] if parts else [])]:
        table.add_column(escape(name), no_wrap=name not in keys, overflow="fold")
    for name in aggregates:
        table.add_column(escape(name), justify="right", overflow="fold")
    count = 0
    for count, answer in enumerate(answers, 1):  # noqa: B007
        place = [_cell(part) for part in answer.key] + ([_window(*answer.window)] if answer.window else [])
        layers = (("both", answer.value), ("batch", answer.batch), ("speed", answer.speed))
        for layer, values in layers if parts else layers[:1]:
            cells = [_value(values, name, answer) for name in aggregates]
            table.add_row(*(place if layer == "both" else [""] * len(place)), *([layer] if parts else []), *cells)
    if count:
        # A file or a pipe has no width; a row is one line there, whole.
        screen = out if out.is_terminal else Console(file=out.file, highlight=False, width=_NO_WIDTH)
        screen.print(table, soft_wrap=False)
    return count


def footer(page: Page) -> str:
    """Where the Answers are exact, and what they were merged from."""
    seam = page.seam
    records = sum(end - start for spans in seam.segments.values() for start, end in spans)
    batch = f"BatchView {seam.batch.id}" if seam.batch else "no BatchView"
    lag = "lag unknown, as the broker is away," if page.lag is None else f"lag {page.lag:,} records"
    behind = lag if page.lag == 0 else f"{lag} since {iso_time(seam.as_of)}"
    return f"exact at {seam.cut}, {behind}; {batch} + {records:,} records of Segments"


def nothing_found(key: Sequence[Any] | None, span: tuple[int | None, int | None], seam: Seam) -> str:
    windows = " in these windows" if span != (None, None) else ""
    return f"no records{' with this key' if key is not None else ''}{windows} before Cut {seam.cut}"


def _span(view: View, at: str | None, start: str | None, end: str | None) -> tuple[int | None, int | None]:
    """The `[start, end)` that the windows must overlap. Raises DefinitionError."""
    if at is None:
        return parse_span(view, start, end, ("--from", "--to"))
    if start is not None or end is not None:
        raise DefinitionError("--at is one moment, --from and --to are the ends of a span: give one or the other")
    if not view.windowed:
        raise DefinitionError(f"view {view.name!r} has no windows; ask without --at")
    moment = parse_time(at, "--at")
    return moment, moment + 1


def _window(start: int, end: int) -> str:
    """
    >>> _window(0, 10_000)
    '1970-01-01 00:00:00 + 10s'
    """
    seconds = (end - start) / 1000
    return f"{iso_time(start).replace('T', ' ').removesuffix('Z')} + {seconds:g}s"


def _value(values: Mapping[str, Any] | None, name: str, answer: Answer) -> str:
    if values is None:
        return "-"
    bounds = answer.errors.get(name, {}) if values is answer.value else {}
    lower, upper = bounds.get("lower"), bounds.get("upper")
    return _cell(values[name]) + (f" ({lower:,} to {upper:,})" if lower != upper else "")


def _cell(value: Any) -> str:
    """
    >>> _cell(2_284_105_340), _cell({"0.5": 2.0, "0.9": None}), _cell([("a", 2)]), _cell(None)
    ('2,284,105,340', '0.5=2 0.9=-', 'a=2', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return " ".join(f"{_cell(name)}={_cell(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_ranked(item) for item in value)
    return escape(str(plain(value)))


def _ranked(item: Any) -> str:
    pair = isinstance(item, tuple) and len(item) == 2
    return f"{_cell(item[0])}={_cell(item[1])}" if pair else _cell(item)
