"""Steps of columns: polars DataFrames by the user's functions, as they come, or keys whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import polars as pl

from streamkit.batch.mapreduce.pairs import PARTITION, TIE
from streamkit.batch.mapreduce.records import bound
from streamkit.batch.mapreduce.task import TaskContext, TaskFailed, user_traceback
from streamkit.errors import DefinitionError
from streamkit.mapreduce import Step

REDUCE_ROWS = 65_536
"""Rows that a frame of `reduce` has at least, if there are so many."""


def order_of(step: Step) -> list[str]:
    """What the rows of a shuffle are sorted by."""
    return [*step.keys, *step.sorts, TIE]


def placed(step: Step, frame: pl.DataFrame, partitions: int) -> pl.DataFrame:
    """The frame with the reduce task of each row. Raises DefinitionError where a column is missing."""
    missing = [name for name in (*step.keys, *step.sorts) if name not in frame.columns]
    if missing:
        raise DefinitionError(
            f"map must return the columns {', '.join((*step.keys, *step.sorts))}; missing: {', '.join(missing)} "
            f"(it has {', '.join(frame.columns) or 'none'})"
        )
    if step.partition is not None:
        keys = frame.select(step.keys).rows()
        only = len(step.keys) == 1
        column = pl.Series([step.partition(k[0] if only else k, partitions) for k in keys], dtype=pl.Int32)
    else:
        column = (frame.select(step.keys).hash_rows(seed=0) % partitions).cast(pl.Int32)
    rest = frame.drop(step.keys, step.sorts)
    tie = rest.hash_rows(seed=1).reinterpret(signed=True) if rest.width else pl.zeros(len(frame), pl.Int64, eager=True)
    return frame.with_columns(column.alias(PARTITION), tie.alias(TIE))


def call(name: str, function: Callable[..., Any], context: TaskContext, frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The frames that a function returns or yields. Raises TaskFailed with where the frame comes from."""
    try:
        made = bound(function, context)(frame)
        for out in () if made is None else (made,) if isinstance(made, pl.DataFrame) else made:
            if not isinstance(out, pl.DataFrame):
                raise DefinitionError(f"{name} of columns returns polars DataFrames; got {type(out).__name__}")
            yield out
    except (DefinitionError, TaskFailed):
        raise
    except Exception as error:
        raise TaskFailed(f"{name} failed at {context.where}: {error!r}", user_traceback(error)) from error


def combiner(step: Step, context: TaskContext, partitions: int) -> Callable[[pl.DataFrame], pl.DataFrame] | None:
    if step.combine is None:
        return None
    combine = step.combine

    def combined(rows: pl.DataFrame) -> pl.DataFrame:
        made = list(call("combine", combine, context, rows.drop(PARTITION, TIE)))
        return placed(step, pl.concat(made), partitions) if made else rows.clear()

    return combined


def whole_keys(step: Step, rows: Iterable[pl.DataFrame], context: TaskContext) -> Iterator[pl.DataFrame]:
    """Sorted rows as frames of REDUCE_ROWS and more, none of which divides a key."""
    waiting: list[pl.DataFrame] = []
    count = 0
    for frame in rows:
        context.done.records += len(frame)
        waiting.append(frame.drop(TIE))
        count += len(frame)
        if count < REDUCE_ROWS:
            continue
        joined = pl.concat(waiting)
        last = joined.select(step.keys).row(-1)
        # The last key may go on in the next frame: its rows wait.
        same = pl.all_horizontal([pl.col(n).eq_missing(pl.lit(v)) for n, v in zip(step.keys, last, strict=True)])
        keep = joined.select(same.not_().sum()).item()
        if keep:
            yield joined[:keep]
        waiting, count = [joined[keep:]], len(joined) - keep
    if count:
        yield pl.concat(waiting)
