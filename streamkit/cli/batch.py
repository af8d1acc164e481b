"""`streamkit batch`: the batch layer. A group whose default command is a run."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any

import typer
import typer.core

from streamkit.batch.plan import SPLIT_RECORDS
from streamkit.cli.batch_history import history
from streamkit.cli.batch_run import SEAL_SECONDS, BatchRun, Wish
from streamkit.cli.options import (
    ARCHIVE,
    BROKERS,
    CLIENT_CONFIG,
    DATA,
    TOPOLOGY,
    check_topics,
    load,
    open_log,
)
from streamkit.cli.spark import MASTER, RUNNER, SPARK_CONF, RunnerName, open_spark, spark_asked
from streamkit.control import Kind
from streamkit.errors import RunnerFailed


class DefaultIsRun(typer.core.TyperGroup):
    """`batch app.py` is `batch run app.py`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args and args[0] in self.commands else ["run", *args])


app = typer.Typer(cls=DefaultIsRun, help="Recompute Views, prove the result, publish it; and look at past runs.")
app.command("history")(history)


@app.command("run")
def batch(
    topology: TOPOLOGY,
    views: Annotated[
        list[str] | None, typer.Argument(metavar="[VIEW...]", help="Default: all Views.", show_default=False)
    ] = None,
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Start from the last BatchView, and read only what came after it.")
    ] = False,
    runner: RUNNER = RunnerName.local,
    processes: Annotated[int | None, typer.Option(min=1, help="How many at once.", show_default="all cores")] = None,
    master: MASTER = None,
    spark_conf: SPARK_CONF = None,
    split_records: Annotated[int, typer.Option(min=1, help="Records a task reads.")] = SPLIT_RECORDS,
    seal_seconds: Annotated[
        float, typer.Option(min=0, help="How long to wait for the workers to seal; then the Cut is the log's end.")
    ] = SEAL_SECONDS,
    archive: ARCHIVE = None,
    brokers: BROKERS = None,
    client_config: CLIENT_CONFIG = None,
    data: DATA = None,
) -> None:
    """Recompute Views by replaying their topics up to a Cut, prove the result, and publish it.

    A running worker seals its Segments, and their ends are the Cut; without one the Cut is the log's end. A run that is
    stopped or killed leaves the BatchView before it in force, and goes on from its finished splits when started again.
    A topic that is archived (`streamkit archive`) is read from its archive as far as that goes, then from the log.

    With `--runner spark` the same is computed by Spark, to the same files: on this machine, or on a cluster.

    `streamkit batch history` shows the runs there were; `streamkit scheduler` makes them by itself.

    Examples:  streamkit batch topologies/ad_clicks.py   |   streamkit batch app.py campaign --processes 4   |
    streamkit batch app.py campaign --incremental   |   streamkit batch history app.py   |
    streamkit batch app.py --runner spark --master 'local[2]' --spark-conf spark.driver.memory=4g
    """
    asked = spark_asked(runner is RunnerName.spark, master, spark_conf)
    if asked is not None and incremental:
        raise RunnerFailed(
            "--incremental is for --runner local: what came after a BatchView is little work for a cluster"
        )
    loaded, folder = load(topology, data)
    with ExitStack() as stack:
        log = stack.enter_context(open_log(brokers, client_config))
        check_topics(log, loaded, topology)
        chosen = [loaded.find_view(name) for name in views or loaded.views]
        spark = None if asked is None else stack.enter_context(open_spark(asked, topology, log.connection, folder))
        for view in chosen:
            run = BatchRun(loaded, topology, view, log, folder, processes, spark=spark, archive=archive)
            kind: Kind = "incremental" if incremental else "full"
            run.recompute(Wish(kind, seal_seconds=seal_seconds, split_records=split_records))
