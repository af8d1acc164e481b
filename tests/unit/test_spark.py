"""What of the Spark Runner needs no Spark: settings in Java's names, Arrow batches as Chunks, populations, packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamkit.batch.spark.connector import java_settings
from streamkit.batch.spark.source import chunks
from streamkit.checkpoint import Slot, slot_key
from streamkit.errors import RunnerFailed
from streamkit.record import Record, TopicPartition, records_of
from streamkit.settings import Connection
from streamkit.store.population import SIZE, Population
from streamkit.window import Session, Tumbling

ROOT = Path(__file__).parents[2]


def java(**client: str) -> dict[str, str]:
    return java_settings(Connection("kafka:9092", {name.replace("_", "."): value for name, value in client.items()}))


def test_a_login_is_told_in_javas_words() -> None:
    told = java(security_protocol="sasl_ssl", sasl_mechanisms="SCRAM-SHA-512", sasl_username="u", sasl_password='p"\\')
    assert told["security.protocol"] == "SASL_SSL"
    assert told["sasl.jaas.config"] == (
        "org.apache.kafka.common.security.scram.ScramLoginModule required "
        'username="u" password="p\\"\\\\";'
    )  # fmt: skip
    assert "sasl.username" not in told


def test_certificates_are_sent_along_rather_than_their_paths(tmp_path: Path) -> None:
    pem = tmp_path / "ca.pem"
    pem.write_text("-----BEGIN CERTIFICATE-----\n")
    told = java(ssl_ca_location=str(pem))
    assert told["ssl.truststore.certificates"] == "-----BEGIN CERTIFICATE-----\n"
    assert told["ssl.truststore.type"] == "PEM"
    with pytest.raises(RunnerFailed, match=r"'ssl\.ca\.location': .*nowhere\.pem cannot be read"):
        java(ssl_ca_location=str(tmp_path / "nowhere.pem"))


def test_what_tunes_librdkafka_is_left_out_and_what_has_no_counterpart_is_refused() -> None:
    assert java(queued_min_messages="100", debug="all") == {"bootstrap.servers": "kafka:9092"}
    with pytest.raises(RunnerFailed, match=r"'enable\.ssl\.certificate\.verification'.*--spark-conf kafka\.NAME=VALUE"):
        java(enable_ssl_certificate_verification="false")
    with pytest.raises(RunnerFailed, match=r"'sasl\.mechanism' is 'OAUTHBEARER'"):
        java(sasl_mechanism="OAUTHBEARER", sasl_username="u")


def test_an_arrow_batch_is_cut_where_the_partition_changes() -> None:
    headers = pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))
    columns = {
        "partition": pa.array([1, 1, 0], pa.int32()),
        "offset": pa.array([7, 9, 0], pa.int64()),
        "timestamp": pa.array([10, 20, -1], pa.int64()),
        "key": pa.array([b"k", None, b""]),
        "value": pa.array([b"one", None, b"three"]),
        "headers": pa.array([[{"key": "h", "value": b"v"}], None, []], headers),
    }
    whole = pa.RecordBatch.from_pydict({"partition": [9], "offset": [0], "value": [b"before"]})
    made = [record for chunk in chunks("t", pa.RecordBatch.from_pydict(columns)) for record in records_of(chunk)]
    assert made == [
        Record("t", 1, 7, 10, b"k", b"one", (("h", b"v"),)),
        Record("t", 1, 9, 20, None, None, ()),
        Record("t", 0, 0, -1, b"", b"three", ()),
    ]
    (only,) = chunks("t", whole)
    assert (only.source, only.values, only.keys, only.timestamps) == (TopicPartition("t", 9), [b"before"], [None], [-1])


def slots(spans: list[tuple[int, int]]) -> list[bytes]:
    return [slot_key(Slot(("k",), start, end)) for start, end in spans]


@given(st.lists(st.integers(0, 2_000), min_size=1, max_size=60), st.integers(1, 59))
def test_a_population_does_not_depend_on_where_sessions_were_cut(times: list[int], cut: int) -> None:
    window = Session(seconds=0.05)

    def of(part: list[int]) -> Population:
        spans = window.coalesce(((t, t + 50, 0) for t in part), lambda left, right: left + right)
        return Population.of(slots([span[:2] for span in spans]), window)

    parts = Population.union([of(times[:cut]), of(times[cut:])])
    assert np.array_equal(parts.hashes, of(times).hashes)
    assert parts.estimate >= len(window.coalesce(((t, t + 50, 0) for t in times), lambda a, b: a + b))


def test_a_population_is_exact_when_small_and_near_when_large() -> None:
    window = Tumbling(seconds=1)
    few = slots([(n, n + 1) for n in range(SIZE - 1)])
    assert Population.union([Population.of(few, window), Population.of(few[:9], window)]).estimate == SIZE - 1
    assert Population.load(Population.of([], window).dump()).estimate == 0
    many = [slot_key(Slot((f"key{n}",), n, n + 1)) for n in range(200_000)]
    assert Population.of(many, window).estimate == pytest.approx(200_000, rel=0.15)


def streamkit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamkit", *arguments]
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "PATH": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


APP = """
import msgspec, streamkit as sk
from beside import KEY
class Sale(msgspec.Struct):
    shop: str
app = sk.Topology("shops")
app.view("sold", app.topic("sales", value=Sale), key=KEY, aggregates={"sold": sk.Count()})
"""


def test_a_package_without_an_environment_holds_sources_and_command_lines(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("KEY = 'shop'\n")
    (tmp_path / "app.py").write_text(APP)
    done = streamkit(tmp_path, "package", "app.py:app", "--include", "beside.py", "--no-environment")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "dist").iterdir()} == {"app.py", "modules.zip", "main.py", "commands.md"}
    text = (tmp_path / "dist" / "commands.md").read_text()
    assert "main.py batch app.py:app --runner spark" in text
    assert "--py-files modules.zip" in text
    assert "spark-sql-kafka-0-10_2.13:4.2.0" in text
    assert "aws emr add-steps" in text
    assert "gcloud dataproc jobs submit pyspark" in text
    assert "{" not in text


def test_options_of_spark_without_it_are_refused(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("KEY = 'shop'\n")
    (tmp_path / "app.py").write_text(APP)
    done = streamkit(tmp_path, "batch", "app.py", "--master", "yarn", "--brokers", "127.0.0.1:1")
    assert done.returncode == 1
    assert "--master and --spark-conf are for --runner spark" in done.stderr
