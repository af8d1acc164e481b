"""polars: the JSON of the records decoded and counted by its streaming engine, from Parquet to Parquet."""

from __future__ import annotations

import polars as pl

from benchmarks.batch.programs.telling import written
from benchmarks.peers.task import Task, finish, told

LINE = pl.Struct({"text": pl.String})
EVENT = pl.Struct({"ad_id": pl.String, "event_type": pl.String, "event_time": pl.Int64})


def query(task: Task) -> pl.LazyFrame:
    """Key, start of the window in milliseconds, count."""
    raw = pl.scan_parquet(f"{task.settings['parquet']}/*.parquet")
    json = pl.col("_value").cast(pl.String)
    if task.job == "words":
        words = raw.select(word=json.str.json_decode(LINE).struct.field("text").str.split(" ")).explode("word")
        return words.group_by("word").agg(n=pl.len()).select("word", pl.lit(0).alias("start"), "n")
    events = raw.select(event=json.str.json_decode(EVENT)).unnest("event").filter(pl.col("event_type") == "view")
    campaign = pl.col("ad_id").replace_strict(task.campaigns(), return_dtype=pl.String).alias("campaign")
    start = (pl.col("event_time") - pl.col("event_time") % 10_000).alias("start")
    return events.group_by(campaign, start).agg(n=pl.len())


def main(task: Task) -> None:
    target = f"{task.directory}/result.parquet"
    query(task).sink_parquet(target, engine="streaming")
    written()
    finish(task, pl.read_parquet(target).rows())


if __name__ == "__main__":
    main(told())
