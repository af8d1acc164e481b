"""Spark Structured Streaming: what is on the topic, in micro-batches (availableNow), state in its default store."""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.peers.task import Task, finish, say, told

TASK = told()
SCHEMA = (
    "user_id STRING, page_id STRING, ad_id STRING, ad_type STRING, event_type STRING, event_time BIGINT, "
    "ip_address STRING, price BIGINT"
)


def session(task: Task) -> SparkSession:
    builder = SparkSession.builder.master("local[2]").appName(task.group)
    for name, value in task.settings.items():
        if name.startswith("spark."):
            builder = builder.config(name, value)
    return builder.getOrCreate()


def events(spark: SparkSession, task: Task) -> DataFrame:
    raw = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", task.brokers)
        .option("subscribe", task.topic)
        .option("startingOffsets", "earliest")
        .option("maxOffsetsPerTrigger", max(1, task.events // int(task.settings["batches"])))
        .option("kafka.max.poll.records", 10_000)
        .option("kafka.max.partition.fetch.bytes", 10 << 20)
        .load()
    )
    return raw.select(F.from_json(F.col("value").cast("string"), SCHEMA).alias("event")).select("event.*")


def result(spark: SparkSession, task: Task) -> DataFrame:
    """Columns: key, start of the window in milliseconds, the job's numbers."""
    if task.job == "unique":
        return events(spark, task).groupBy("page_id").agg(F.count("*").alias("n"))
    ads = spark.createDataFrame(list(task.campaigns().items()), "ad_id STRING, campaign STRING")
    views = events(spark, task).where("event_type = 'view'").join(F.broadcast(ads), "ad_id")
    if task.job == "views":
        start = F.col("event_time") - F.col("event_time") % 10_000
        return views.groupBy("campaign", start.alias("start")).agg(F.count("*").alias("n"))
    window = F.window(F.timestamp_millis("event_time"), "60 seconds", "10 seconds")
    grouped = views.groupBy("campaign", window.alias("window")).agg(
        F.count("*").alias("n"), F.sum("price").alias("spend"), F.min("price").alias("least"),
        F.max("price").alias("most"), F.approx_count_distinct("user_id", 0.02).alias("users"),
        F.percentile_approx("price", 0.5, 200).alias("median"),
    )  # fmt: skip
    start = F.unix_millis(F.col("window.start")).alias("start")
    return grouped.select("campaign", start, *(F.col(name) for name in grouped.columns[2:]))


def main() -> None:
    spark = session(TASK)
    found: dict[tuple[str, int], tuple[Any, ...]] = {}
    sums = [0, 0]

    def take(batch: DataFrame, number: int) -> None:
        del number
        if TASK.job == "unique":
            row = batch.agg(F.count("*"), F.sum("n")).collect()[0]
            sums[0], sums[1] = sums[0] + row[0], sums[1] + (row[1] or 0)
            say(sums[1])
            return
        for row in batch.collect():
            found[row[0], row[1]] = tuple(row[2:])
        say(sum(numbers[0] for numbers in found.values()))

    writer = result(spark, TASK).writeStream.outputMode("update").foreachBatch(take)
    query = writer.option("checkpointLocation", f"{TASK.directory}/checkpoint").trigger(availableNow=True).start()
    query.awaitTermination()
    if TASK.job == "unique":
        finish(TASK, [("keys", 0, sums[0]), ("events", 0, sums[1])])
    finish(TASK, [(*where, *numbers) for where, numbers in found.items()])


if __name__ == "__main__":
    main()
