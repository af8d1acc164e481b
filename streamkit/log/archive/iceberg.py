"""An archive as an Apache Iceberg table, so that DuckDB, Spark and Trino read it. The one place that imports pyiceberg.

The table follows the index: each commit of the archive becomes one snapshot, which adds and deletes files at once and
holds the Cut in its properties. A crash in between is made up for by the next run: what the table has is compared with
what the index names, file by file.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.io.pyarrow import parquet_file_to_data_file
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import BinaryType, IntegerType, ListType, LongType, NestedField, StringType, StructType

from streamkit.errors import ArchiveUnreachable, TopicChanged
from streamkit.log.archive.archive import Archive
from streamkit.log.archive.index import Index

CATALOG = "streamkit"
INDEX, CUT, TOPIC_ID = "streamkit.index", "streamkit.cut", "streamkit.topic-id"
"""Properties of a snapshot: the index that it follows; `{"0": next offset, ...}` as JSON; the topic's id."""

_HEADER = StructType(
    NestedField(8, "key", StringType(), required=True), NestedField(9, "value", BinaryType(), required=False)
)
# The ids are those that `parquet.SCHEMA` gives, and those that a catalog would.
SCHEMA = Schema(
    NestedField(1, "_partition", IntegerType(), required=True),
    NestedField(2, "_offset", LongType(), required=True),
    NestedField(3, "_timestamp", LongType(), required=True, doc="milliseconds since the epoch"),
    NestedField(4, "_key", BinaryType(), required=False),
    NestedField(5, "_value", BinaryType(), required=False),
    NestedField(6, "_headers", ListType(7, _HEADER, element_required=True), required=False),
)
_PROPERTIES = {
    "schema.name-mapping.default": SCHEMA.name_mapping.model_dump_json(),
    # A refused commit must be looked at again: pyiceberg's own retry would add the same files to what refused it.
    "commit.retry.num-retries": "0",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "write.metadata.metrics.column._key": "none",
    "write.metadata.metrics.column._value": "none",
}
_TRIES = 20


class IcebergTable:
    """The table `topology.topic` of an archive.

    `properties` are pyiceberg's of a catalog (`uri`, `type`, `warehouse`, ...). All methods raise ArchiveUnreachable
    where catalog or warehouse do not answer, TopicChanged where the table is of an earlier topic of that name.
    """

    def __init__(self, archive: Archive, topology: str, properties: Mapping[str, str]) -> None:
        self._archive = archive
        self.name = (topology, archive.topic)
        self._properties = {"warehouse": archive.objects.url, **_from_environment(), **properties}
        # Beside the topic's index and data: where a catalog would put it, at WAREHOUSE/TOPOLOGY/TOPIC, the folder of a
        # topic that is named as the topology would come to hold it, and it be taken for the archive of a topic's id.
        self._location = None if "warehouse" in properties else archive.url
        self._catalog: Catalog | None = None

    def follow(self, index: Index) -> bool:
        """Make the table what an index names; False where it was that, or further, already."""
        try:
            return self._follow(index)
        except (ArchiveUnreachable, TopicChanged):
            raise
        except Exception as error:  # a catalog's drivers raise what they like
            reason = (str(error).splitlines() or [""])[0]
            raise ArchiveUnreachable(
                f"Iceberg table {'.'.join(self.name)} of archive {self._archive.url}: {type(error).__name__}: {reason}"
                f". The archive itself is as it should be (index {index.number}), and the next run makes up for the "
                f"table; is the catalog right (--catalog)? --no-iceberg does without"
            ) from error

    def expire(self, grace_seconds: float) -> None:
        """Forget snapshots whose files may be deleted; the newest one stays."""
        before = dt.datetime.now(dt.UTC).replace(tzinfo=None) - dt.timedelta(seconds=grace_seconds)
        table = self.load()
        newest = table.current_snapshot()
        moment = before.replace(tzinfo=dt.UTC).timestamp() * 1000
        if any(s.timestamp_ms < moment and s != newest for s in table.snapshots()):
            table.maintenance.expire_snapshots().older_than(before).commit()

    def _follow(self, index: Index) -> bool:
        for _ in range(_TRIES):
            table = self.load()
            if self._at(table) >= index.number:
                return False
            try:
                return self._commit(table, index)
            except CommitFailedException:
                continue  # another archiver's snapshot: look whether it is further than this index
        raise ArchiveUnreachable(f"Iceberg table {'.'.join(self.name)}: others commit without pause; try again")

    def _commit(self, table: Table, index: Index) -> bool:
        wanted = {self._archive.url_of(file) for file in index.files if file.records}
        there = {task.file.file_path: task.file for task in table.scan().plan_files()}
        if wanted == set(there) and there:
            return False
        properties = {
            INDEX: str(index.number),
            TOPIC_ID: index.topic_id,
            CUT: json.dumps({str(partition): end for partition, end in sorted(index.ends.items())}),
        }
        with table.transaction() as transaction:
            update = transaction.update_snapshot(snapshot_properties=properties)
            gone = [file for path, file in there.items() if path not in wanted]
            new = [self._data_file(table, path) for path in sorted(wanted - set(there))]
            with update.overwrite() if gone else update.fast_append() as snapshot:
                for file in gone:
                    snapshot.delete_data_file(file)
                for file in new:
                    snapshot.append_data_file(file)
        return True

    def _data_file(self, table: Table, path: str) -> DataFile:
        return parquet_file_to_data_file(table.io, table.metadata, path)

    def _at(self, table: Table) -> int:
        """The number of the index that the table follows."""
        summary: Any = getattr(table.current_snapshot(), "summary", None)
        if summary is None:
            return 0
        topic_id = summary[TOPIC_ID]
        if topic_id != self._archive.topic_id:
            raise TopicChanged(
                f"Iceberg table {'.'.join(self.name)} is of topic id {topic_id}, the archive {self._archive.url} of "
                f"{self._archive.topic_id}: drop the table, or give the archive another catalog (--catalog)"
            )
        return int(summary[INDEX])

    def load(self) -> Table:
        """The table as it is now, made where it is not there."""
        if self._catalog is None:
            logging.getLogger("pyiceberg").setLevel(logging.ERROR)
            self._catalog = load_catalog(CATALOG, **self._properties)
        try:
            return self._catalog.load_table(self.name)
        except NoSuchTableError:
            pass
        try:
            self._catalog.create_namespace_if_not_exists(self.name[:1])
            return self._catalog.create_table(self.name, SCHEMA, self._location, properties=_PROPERTIES)
        except (TableAlreadyExistsError, NamespaceAlreadyExistsError):
            return self._catalog.load_table(self.name)


def _from_environment() -> dict[str, str]:
    """What obstore takes from there and pyiceberg does not."""
    names = {"AWS_ENDPOINT_URL": "s3.endpoint", "AWS_DEFAULT_REGION": "s3.region", "AWS_REGION": "s3.region"}
    return {name: os.environ[variable] for variable, name in names.items() if os.environ.get(variable)}
