"""DuckDB: the JSON of the records in SQL, from Parquet to Parquet, on two threads."""

from __future__ import annotations

import duckdb

from benchmarks.batch.programs.telling import written
from benchmarks.peers.task import Task, finish, told

WORDS = """
    SELECT word, 0 AS start, count(*) AS n
    FROM (SELECT unnest(string_split(json_extract_string(decode(_value), '$.text'), ' ')) AS word
          FROM read_parquet('{parquet}/*.parquet'))
    GROUP BY word
"""
YAHOO = """
    SELECT campaign, event_time - event_time % 10000 AS start, count(*) AS n
    FROM (SELECT unnest(from_json(decode(_value),
                 '{{"ad_id": "VARCHAR", "event_type": "VARCHAR", "event_time": "BIGINT"}}'))
          FROM read_parquet('{parquet}/*.parquet')) JOIN ads USING (ad_id)
    WHERE event_type = 'view'
    GROUP BY campaign, start
"""


def main(task: Task) -> None:
    database = duckdb.connect(config={"threads": 2})
    database.execute("CREATE TABLE ads (ad_id VARCHAR, campaign VARCHAR)")
    database.executemany("INSERT INTO ads VALUES (?, ?)", list(task.campaigns().items()))
    query = (WORDS if task.job == "words" else YAHOO).format(parquet=task.settings["parquet"])
    target = f"{task.directory}/result.parquet"
    database.execute(f"COPY ({query}) TO '{target}' (FORMAT parquet)")
    written()
    finish(task, database.execute(f"SELECT * FROM read_parquet('{target}')").fetchall())


if __name__ == "__main__":
    main(told())
