"""PySpark's DataFrames, from Kafka or from Parquet, to Parquet."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.batch.programs.telling import written
from benchmarks.peers.task import Task, finish, told

EVENT = "ad_id STRING, event_type STRING, event_time BIGINT"


def session(task: Task) -> SparkSession:
    builder = SparkSession.builder.master("local[2]").appName(task.group)
    for name, value in task.settings.items():
        if name.startswith("spark."):
            builder = builder.config(name, value)
    return builder.getOrCreate()


def values(spark: SparkSession, task: Task) -> DataFrame:
    """The records' JSON, in the column `value`."""
    if task.settings["reads"] == "parquet":
        return spark.read.parquet(task.settings["parquet"]).select(F.col("_value").cast("string").alias("value"))
    raw = (
        spark.read.format("kafka")
        .option("kafka.bootstrap.servers", task.brokers)
        .option("subscribe", task.topic)
        .option("startingOffsets", "earliest")
        .option("endingOffsets", "latest")
        .option("kafka.max.poll.records", 10_000)
        .option("kafka.max.partition.fetch.bytes", 10 << 20)
        .load()
    )
    return raw.select(F.col("value").cast("string").alias("value"))


def result(spark: SparkSession, task: Task) -> DataFrame:
    """Key, start of the window in milliseconds, count."""
    raw = values(spark, task)
    if task.job == "words":
        texts = raw.select(F.from_json("value", "text STRING").alias("line"))
        words = texts.select(F.explode(F.split("line.text", " ")).alias("word"))
        return words.groupBy("word").agg(F.count("*").alias("n")).select("word", F.lit(0).alias("start"), "n")
    events = raw.select(F.from_json("value", EVENT).alias("event")).select("event.*").where("event_type = 'view'")
    ads = spark.createDataFrame(list(task.campaigns().items()), "ad_id STRING, campaign STRING")
    start = F.col("event_time") - F.col("event_time") % 10_000
    known = events.join(F.broadcast(ads), "ad_id")
    return known.groupBy("campaign", start.alias("start")).agg(F.count("*").alias("n"))


def main(task: Task) -> None:
    spark = session(task)
    target = f"{task.directory}/result.parquet"
    result(spark, task).write.parquet(target)
    written()
    finish(task, [tuple(row) for row in spark.read.parquet(target).collect()])


if __name__ == "__main__":
    main(told())
