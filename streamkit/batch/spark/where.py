"""How an executor finds what it runs: the topology, a View or a job of it, and the job's side files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pyspark.files import SparkFiles
from pyspark.sql import SparkSession

from streamkit.batch.spark.session import Failure, TaskFailed
from streamkit.errors import RunnerFailed
from streamkit.loading import load_topology
from streamkit.mapreduce import MapReduce
from streamkit.topology import Topology
from streamkit.view import View


@dataclass(frozen=True)
class Where:
    """The View or job `name` of a topology. `shipped` is the topology file's name among what Spark has sent along, and
    `files` are those of a job's side files, by the names that the job gives them."""

    spec: str
    name: str
    fingerprint: str
    shipped: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def view(self) -> View:
        view = self._topology().find_view(self.name)
        self._check(view.fingerprint)
        return view

    def job(self, skip: int) -> MapReduce:
        job = self._topology().find_job(self.name).skipping(skip)
        self._check(job.fingerprint)
        sent = {name: Path(SparkFiles.get(file)) for name, file in self.files.items()}
        return replace(job, files={**job.files, **sent})

    def _topology(self) -> Topology:
        _, _, attribute = self.spec.partition(":")
        sent = SparkFiles.get(self.shipped) + (f":{attribute}" if attribute else "") if self.shipped else self.spec
        return load_topology(sent)

    def _check(self, fingerprint: str) -> None:
        if fingerprint != self.fingerprint:
            raise TaskFailed(
                Failure(
                    f"{self.name!r} has another definition on the executors (fingerprint {fingerprint}) than here "
                    f"({self.fingerprint}): the topology's file, its imports or the version of polars differ. Send the "
                    f"same environment along: `streamkit package`"
                )
            )


def where_of(spark: SparkSession, spec: str, what: View | MapReduce) -> Where:
    """How executors find it; the topology's file and a job's side files are sent along, where they are other machines.

    Raises RunnerFailed where two of these files have one name: Spark keeps them in one folder.
    """
    target, _, attribute = spec.partition(":")
    path = Path(target).resolve() if target.endswith(".py") else None
    where = Where(spec if path is None else f"{path}:{attribute}".rstrip(":"), what.name, what.fingerprint)
    if spark.sparkContext.getConf().get("spark.master", "local").startswith("local"):
        return where
    side = {n: Path(f).resolve() for n, f in what.files.items()} if isinstance(what, MapReduce) else {}
    sent: dict[str, Path] = {}
    for file in (*([path] if path else ()), *side.values()):
        twin = sent.setdefault(file.name, file)
        if twin != file:
            raise RunnerFailed(f"{file} and {twin} have one name, and Spark sends files to one folder: rename one")
        spark.sparkContext.addFile(str(file))
    return replace(where, shipped=path.name if path else "", files={name: file.name for name, file in side.items()})
