"""What one Spark session computes: Views and MapReduce jobs of one topology."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pyspark.sql import SparkSession

from streamkit.batch.mapreduce.plan import JobPlan
from streamkit.batch.spark.connector import java_settings, portable
from streamkit.batch.spark.mapreduce import Site, SparkTasks
from streamkit.batch.spark.session import SparkOptions
from streamkit.batch.spark.source import archived_ranges
from streamkit.batch.spark.views import SparkViews
from streamkit.batch.spark.where import where_of
from streamkit.log.base import Log
from streamkit.mapreduce import MapReduce
from streamkit.settings import Connection
from streamkit.view import View


@dataclass(frozen=True)
class Engines:
    """Raises RunnerFailed for client settings that Kafka's Java client has no counterpart for, before Spark starts."""

    options: SparkOptions
    topology: str
    connection: Connection
    log: Path
    settings: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", {**java_settings(self.connection), **self.options.kafka})

    def on(self, session: SparkSession) -> SessionEngines:
        return SessionEngines(self, session)


@dataclass(frozen=True)
class SessionEngines:
    """The engines of a session."""

    engines: Engines
    session: SparkSession

    def views(self, view: View, source: Log, folder: Path) -> SparkViews:
        where, own = where_of(self.session, self.engines.topology, view), self.engines
        archived = archived_ranges(source, view.topic.name)
        return SparkViews(self.session, view, where, own.settings, folder, own.log, archived)

    def tasks(self, job: MapReduce, plan: JobPlan, memory: int, archive: str | None, folder: Path) -> SparkTasks:
        where = where_of(self.session, self.engines.topology, job)
        if archive is not None and "://" not in archive:
            archive = str(Path(archive).absolute())  # executors work elsewhere
        site = Site(where, plan, job.skip, memory, portable(self.engines.connection), archive)
        return SparkTasks(self.session, site, folder, self.engines.log)
