"""`streamkit load`: files into a topic."""

from __future__ import annotations

import enum
import threading
import time
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from streamkit.cli.options import BROKERS, CLIENT_CONFIG, TOPOLOGY, err, open_log
from streamkit.cli.options import load as load_topology
from streamkit.cli.rows import OnBytes, Row, RowFile
from streamkit.cli.sending import Sender, bar, make_topics
from streamkit.cli.signals import asked_to_stop
from streamkit.errors import StreamkitError
from streamkit.topic import Topic

SHOWN = 20
"""Bad rows that are told one by one."""

_BATCH = 1_000


class Bad(enum.StrEnum):
    stop = "stop"
    skip = "skip"


def load(
    topology: TOPOLOGY,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="A topic of the topology.", show_default=False)],
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="*.csv, *.ndjson, *.jsonl (or *.gz), *.parquet.", show_default=False),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="A field's value for every row; {stem} in it is the file's name without the suffix.",
            show_default=False,
        ),
    ] = None,
    bad: Annotated[
        Bad,
        typer.Option(help="stop: check all rows first, and send nothing if one is bad. skip: leave bad rows out."),
    ] = Bad.stop,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
) -> None:
    """Send the rows of files to a topic, checked against its type, with its key and event time.

    CSV cells become what the type says (numbers, ISO 8601 times, true and false); an empty cell is null where the
    field may be null, else the empty text in a text field, else a missing value. Columns that the type does not have
    are left out. Nested values need JSON or Parquet.
    A bad row is told with its file and line. The topic is made if it does not exist.

    Examples:  streamkit load app.py clicks clicks.parquet   |
    streamkit load topologies/anomalies.py metrics topologies/data/nab/*.csv --set 'series={stem}'
    """
    loaded, _ = load_topology(topology)
    target = loaded.find_topic(topic)
    inputs = [Input.of(RowFile.of(path), target, settings or ()) for path in files]
    with asked_to_stop() as stop:
        if bad is Bad.stop:
            _refuse(check(inputs, stop), target)
        if stop.is_set():
            err.print("stopped; nothing was sent")
            raise typer.Exit(130)
        with open_log(brokers, client_config) as log:
            make_topics(log, loaded, target)
            began = time.monotonic()
            with Sender(log, target) as sender:
                problems = send(inputs, sender, stop)
            _tell(sender.sent, target, time.monotonic() - began, problems)
        if stop.is_set():
            err.print("stopped before the end")
            raise typer.Exit(130)


@dataclass
class Problems:
    """Bad rows: how many, and the first of them, each with its place and the reason."""

    count: int = 0
    rows: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, file: RowFile, row: Row, reason: str) -> None:
        self.count += 1
        if len(self.first) < SHOWN:
            place = f"row {row.number}" if file.format == "parquet" else str(row.number)
            self.first.append(f"{file.path}:{place}: {reason}")

    def __str__(self) -> str:
        more = self.count - len(self.first)
        return "\n".join([*self.first, f"and {more:,} more"] if more else self.first)


@dataclass(frozen=True)
class Input:
    """A file whose rows are values of a topic."""

    file: RowFile
    topic: Topic
    convert: Callable[[Any], Any]
    """From a Row's data to a value; raises ValueError with the reason."""

    @classmethod
    def of(cls, file: RowFile, topic: Topic, settings: Sequence[str]) -> Input:
        """Raises StreamkitError: a setting is no value of its field, or a column is missing."""
        constants = dict(_setting(text, file, topic) for text in settings)
        columns = file.columns()
        if columns is not None:
            _check_columns(file, topic, {*columns, *constants})
        return cls(file, topic, _converter(file, topic, constants))

    def values(self, problems: Problems, on_bytes: OnBytes) -> Iterator[Any]:
        """The good rows' values; the bad rows go to `problems`."""
        encode, decode, convert = self.topic.encode, self.topic.decode, self.convert
        for row in self.file.rows(on_bytes):
            problems.rows += 1
            if row.reason is not None:
                problems.add(self.file, row, row.reason)
                continue
            try:
                value = convert(row.data)
                # As a worker will read it: a float that is NaN, for one, has no JSON.
                decode(encode(value))
            except (ValueError, TypeError, OverflowError) as error:
                problems.add(self.file, row, str(error))
            else:
                yield value


def check(inputs: Sequence[Input], stop: threading.Event) -> Problems:
    """Read everything and send nothing."""
    return _run("checking", inputs, stop, lambda values: sum(1 for _ in values))


def send(inputs: Sequence[Input], sender: Sender, stop: threading.Event) -> Problems:
    """Send the good rows."""
    return _run("sending", inputs, stop, sender.send)


def _run(
    label: str, inputs: Sequence[Input], stop: threading.Event, use: Callable[[Iterator[Any]], object]
) -> Problems:
    problems = Problems()
    began, done = time.monotonic(), 0
    with bar("rows") as progress:
        task = progress.add_task(label, total=sum(i.file.size for i in inputs), count=0, rate=0.0)
        for each in inputs:

            def tell(read: int, before: int = done) -> None:
                rate = problems.rows / max(time.monotonic() - began, 1e-9)
                progress.update(task, completed=before + read, count=problems.rows, rate=rate)

            values = each.values(problems, tell)
            rows = -1
            while not stop.is_set() and problems.rows != rows:
                rows = problems.rows
                use(islice(values, _BATCH))
            done += each.file.size
    return problems


def _refuse(problems: Problems, topic: Topic) -> None:
    if problems.count:
        raise StreamkitError(
            f"{problems.count:,} of {problems.rows:,} rows are not a {topic.schema.owner}, so nothing was sent to "
            f"{topic.name}; mend them, or leave them out: --bad skip\n{problems}"
        )


def _tell(sent: int, topic: Topic, seconds: float, problems: Problems) -> None:
    if problems.count:
        err.print(f"{problems}\n{problems.count:,} bad rows left out", markup=False)
    err.print(f"{sent:,} rows sent to {topic.name} in {seconds:.1f} s, {sent / seconds:,.0f} rows/s")


def _setting(text: str, file: RowFile, topic: Topic) -> tuple[str, Any]:
    name, equals, template = text.partition("=")
    if not equals:
        raise StreamkitError(f"--set {text!r}: expected FIELD=VALUE, such as --set 'series={{stem}}'")
    _ = topic.schema[name]
    known = {f.name: f for f in msgspec.inspect.type_info(topic.value).fields}  # type: ignore[attr-defined]
    value = template.replace("{stem}", file.stem)
    kind = typing.get_type_hints(topic.value, include_extras=True)[name]
    try:
        return known[name].encode_name, msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise StreamkitError(f"--set {text!r}: {error}") from None


def _check_columns(file: RowFile, topic: Topic, have: set[str]) -> None:
    fields = msgspec.inspect.type_info(topic.value).fields  # type: ignore[attr-defined]
    if missing := [f.encode_name for f in fields if f.required and f.encode_name not in have]:
        raise StreamkitError(
            f"{file.path}: no column {', '.join(missing)}, which {topic.schema.owner} needs; it has "
            f"{', '.join(file.columns() or ())}. Rename a column, or give a value: --set '{missing[0]}=...'"
        )


def _empty_cells(topic: Topic) -> tuple[frozenset[str], frozenset[str]]:
    """The columns in which an empty cell is null, and those in which it is no cell at all; in others it is a text."""
    fields = msgspec.inspect.type_info(topic.value).fields  # type: ignore[attr-defined]
    columns = [(e.encode_name, f) for e, f in zip(fields, topic.schema.fields, strict=True)]
    nulls = frozenset(name for name, f in columns if f.optional)
    return nulls, frozenset(name for name, f in columns if not f.optional and f.type is not str)


def _converter(file: RowFile, topic: Topic, constants: Mapping[str, Any]) -> Callable[[Any], Any]:
    kind = topic.value
    if file.format == "parquet":
        return lambda cells: msgspec.convert({**cells, **constants}, kind)
    if file.format == "csv":
        nulls, missing = _empty_cells(topic)

        def convert(cells: Mapping[str, str]) -> Any:
            filled = {n: c or (None if n in nulls else c) for n, c in cells.items() if c or n not in missing}
            return msgspec.convert({**filled, **constants}, kind, strict=False)

        return convert
    decode = msgspec.json.Decoder(kind).decode
    if not constants:
        return decode
    # Raw: the other fields' text goes through untouched, where a float would round a Decimal.
    fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    return lambda line: decode(msgspec.json.encode({**fields(line), **constants}))
