"""What one Spark session computes: Views and MapReduce jobs of one topology."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import SparkSession

from streamkit.batch.mapreduce.plan import JobPlan
from streamkit.batch.spark.connector import portable
from streamkit.batch.spark.mapreduce import Site, SparkTasks
from streamkit.batch.spark.source import archived_ranges
from streamkit.batch.spark.views import SparkViews
from streamkit.batch.spark.where import where_of
from streamkit.log.base import Log
from streamkit.mapreduce import MapReduce
from streamkit.settings import Connection
from streamkit.view import View


@dataclass(frozen=True)
class Engines:
    """The engines of a session. `settings` are Kafka's Java client's, `log` is where Spark's output is."""

    session: SparkSession
    topology: str
    connection: Connection
    settings: dict[str, str]
    log: Path

    def views(self, view: View, source: Log, folder: Path) -> SparkViews:
        where = where_of(self.session, self.topology, view)
        archived = archived_ranges(source, view.topic.name)
        return SparkViews(self.session, view, where, self.settings, folder, self.log, archived)

    def tasks(self, job: MapReduce, plan: JobPlan, memory: int, archive: str | None, folder: Path) -> SparkTasks:
        where = where_of(self.session, self.topology, job)
        if archive is not None and "://" not in archive:
            archive = str(Path(archive).absolute())  # executors work elsewhere
        site = Site(where, plan, job.skip, memory, portable(self.connection), archive)
        return SparkTasks(self.session, site, folder, self.log)
