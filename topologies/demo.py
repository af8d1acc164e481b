"""The main job from nothing: `python -m topologies.demo`, or `make demo`.

A broker, two topologies, a worker that is killed and started again, a batch while events keep coming, and the answers.
Every step is a command that you could type; each is shown before it runs. All it makes lies in .streamkit/demo.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from streamkit.broker import BrokerSettings, EmbeddedBroker
from streamkit.errors import StateMissing
from streamkit.folder import DataFolder
from streamkit.log.kafka import KafkaLog
from streamkit.log.scan import read_all
from streamkit.schema import milliseconds
from streamkit.serving.connect import open_serving
from streamkit.settings import Connection
from topologies import ad_clicks, anomalies

HERE = Path(__file__).parent
FOLDER = Path(".streamkit/demo")
ADS, METRICS = "topologies/ad_clicks.py", "topologies/anomalies.py"
FILES = sorted(str(path.relative_to(Path.cwd())) for path in (HERE / "data" / "nab").glob("*.csv"))

console = Console(highlight=False, width=120)


class Demo:
    """The commands' environment: one broker, one data folder."""

    def __init__(self, brokers: str) -> None:
        self._brokers = brokers
        self._environment = {
            **os.environ,
            "STREAMKIT_BROKERS": brokers,
            "STREAMKIT_DATA": str(FOLDER / "data"),
            "COLUMNS": "120",
        }

    def run(self, *arguments: str, show: bool = True) -> str:
        """A command to its end, its output shown; the demo ends where it fails."""
        self._say(arguments)
        done = subprocess.run(
            [sys.executable, "-m", "streamkit", *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if show and done.stdout:
            console.print(done.stdout.rstrip(), markup=False, soft_wrap=True)
        if done.returncode:
            console.print(f"[red]it left with status {done.returncode}[/red]")
            raise SystemExit(done.returncode)
        return done.stdout

    @contextmanager
    def beside(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A command that runs meanwhile, and is told to stop at the end."""
        self._say((*arguments, "&"))
        process = subprocess.Popen([sys.executable, "-m", "streamkit", *arguments], env=self._environment)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(60)

    def answers(self, *arguments: str) -> list[dict[str, Any]]:
        out = self.run("query", *arguments, "--json", show=False)
        return [json.loads(line) for line in out.splitlines()]

    def found_anomalies(self) -> list[anomalies.Anomaly]:
        """What lies on the topic `anomalies`."""
        with closing(KafkaLog(Connection(self._brokers))) as log:
            records = list(read_all(log, anomalies.anomalies.name))
        return [anomalies.anomalies.decode(r.value) for r in records if r.value is not None]

    def beside_baseline(self, found: list[anomalies.Anomaly]) -> Table:
        """The highest scores, each with the Answer for its series and week."""
        table = Table("series", "time", "value", "score", "usual: median", "1 % to 99 %", "mean", "points")
        folder = DataFolder.of(anomalies.app.name, FOLDER / "data")
        with (
            closing(KafkaLog(Connection(self._brokers))) as log,
            open_serving(anomalies.app, log, folder),
        ):
            for anomaly in sorted(found, key=lambda a: -a.score)[:5]:
                usual = anomalies.baseline.get(anomaly.series, window=milliseconds(anomaly.timestamp)).value
                low, median, high = usual["value"].values()
                numbers = (anomaly.value, anomaly.score, median)
                table.add_row(
                    anomaly.series, f"{anomaly.timestamp:%Y-%m-%d %H:%M}", *(f"{n:.3g}" for n in numbers),
                    f"{low:.3g} to {high:.3g}", f"{usual['mean']:.3g}", str(usual["points"]),
                )  # fmt: skip
        return table

    def wait_for(self, events: int, worker: subprocess.Popen[bytes]) -> None:
        """Return when the worker runs, and so many ad events are in its state."""
        folder = DataFolder.of(ad_clicks.app.name, FOLDER / "data")
        with closing(KafkaLog(Connection(self._brokers))) as log:
            while not folder.worker_runs() or self._counted(log) < events:
                if worker.poll() is not None:
                    raise SystemExit("the worker has ended")
                time.sleep(0.02)

    def _counted(self, log: KafkaLog) -> int:
        try:
            with open_serving(ad_clicks.app, log, DataFolder.of("ads", FOLDER / "data")) as serving:
                return sum(segments.end for segments in serving.segments(ad_clicks.campaign).values())
        except StateMissing:
            return 0

    def _say(self, arguments: tuple[str, ...]) -> None:
        shown = ["streamkit", *arguments[:4], "..."] if len(arguments) > 9 else ["streamkit", *arguments]
        console.print(f"\n[bold]$ {' '.join(shown)}[/bold]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=500_000, help="ad events (default: 500,000)")
    options = parser.parse_args()
    began = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    broker = EmbeddedBroker(BrokerSettings(FOLDER / "broker", port=0))
    console.rule("A real Kafka, from PyPI")
    try:
        demo = Demo(broker.start(on_progress=lambda line: console.print(line, markup=False)))
        find_anomalies(demo)
        count_ads(demo, options.events)
    except KeyboardInterrupt:
        console.print("\nstopped")
        raise SystemExit(130) from None
    finally:
        broker.stop()
    console.rule(f"Done in {time.monotonic() - began:.0f} s; all of it is in {FOLDER}")


def find_anomalies(demo: Demo) -> None:
    console.rule("Anomalies in six real series of an ad exchange (NAB)")
    demo.run("load", METRICS, "metrics", *FILES, "--set", "series={stem}")
    demo.run("worker", METRICS, "--until-caught-up")
    console.print("\nwhat the agent sent to the topic `anomalies`, beside the windows that people have labelled:")
    found = demo.found_anomalies()
    console.print(verdicts(found))
    console.print("\nthe five highest, beside what is usual in their week, by the View `baseline`:")
    console.print(demo.beside_baseline(found))
    console.print(f"drawn in {plot(found, FOLDER / 'anomalies.png')}")


def count_ads(demo: Demo, events: int) -> None:
    console.rule(f"{events:,} ad events: a worker, killed; a batch, while events keep coming; exact answers")
    demo.run("generate", ADS, "ad-events", "--count", str(events), "--seed", "1")
    kill_one(demo)
    coming = ("generate", ADS, "ad-events", "--seed", "2", "--rate", str(events // 25), "--count", str(events // 2))
    with demo.beside("worker", ADS) as worker:
        demo.wait_for(events, worker)
        with demo.beside(*coming) as generator:
            demo.run("batch", ADS)
            show_answers(demo)
            generator.wait(120)
        demo.run("verify", ADS, "campaign")
        demo.run("verify", ADS, "funnel")
    demo.run("worker", ADS, "--until-caught-up")
    show_answers(demo)


def kill_one(demo: Demo) -> None:
    """A worker dies in the middle of its work; the next `worker` goes on from its last Checkpoint."""
    with demo.beside("worker", ADS, "--checkpoint", "100ms") as worker:
        demo.wait_for(1, worker)
        worker.kill()
    console.print(f"[red]kill -9 {worker.pid}[/red]")


def show_answers(demo: Demo) -> None:
    """Two campaigns in the first ten seconds: what each layer holds, and where the sum is exact."""
    table = Table("campaign", "window", "views", "of batch", "of speed", "spend", "reach", "exact at the Cut", "lag")
    for campaign in ("c7", "c42"):
        for row in demo.answers(ADS, "campaign", campaign, "--at", "2026-01-01T00:00:05Z"):
            value, window = row["value"], row["window"]
            views = [str((row[layer] or {}).get("views", 0)) for layer in ("batch", "speed")]
            cut = " ".join(f"{p}:{o}" for p, o in row["cut"]["offsets"].items())
            spend, reach = f"{value['spend'] / 1e6:.2f}", str(value["reach"])
            table.add_row(
                campaign, window["start_time"], str(value["views"]), *views, spend, reach, cut, str(row["lag"])
            )
    console.print(table)


def verdicts(found: list[anomalies.Anomaly]) -> Table:
    table = Table("series", "labelled windows", "of these hit", "alarms outside", "highest score")
    judged = anomalies.judge(found)
    for verdict in judged:
        highest = max((a.score for a in (*verdict.inside, *verdict.outside)), default=0.0)
        counts = (verdict.labelled, verdict.hit, len(verdict.outside))
        table.add_row(verdict.series, *map(str, counts), f"{highest:.1f}")
    sums = (sum(v.labelled for v in judged), sum(v.hit for v in judged), sum(len(v.outside) for v in judged))
    table.add_row("all", *map(str, sums), "", style="bold")
    return table


def plot(found: list[anomalies.Anomaly], path: Path) -> Path:
    """The six series with the labelled windows shaded and the alarms marked."""
    figure = Figure(figsize=(14, 9), layout="constrained")
    axes = figure.subplots(3, 2)
    for axis, verdict in zip(axes.flat, anomalies.judge(found), strict=True):
        frame = pl.read_csv(HERE / "data" / "nab" / f"{verdict.series}.csv", try_parse_dates=True)
        axis.plot(frame["timestamp"], frame["value"], linewidth=0.6, color="0.4")
        for start, end in anomalies.labelled()[verdict.series]:
            axis.axvspan(*(dt.datetime.fromtimestamp(t / 1000, dt.UTC).replace(tzinfo=None) for t in (start, end)),
                         color="tab:green", alpha=0.2)  # fmt: skip
        for alarms, color in ((verdict.inside, "tab:green"), (verdict.outside, "tab:red")):
            axis.plot([a.timestamp for a in alarms], [a.value for a in alarms], "o", color=color)
        axis.set_title(
            f"{verdict.series}: {verdict.hit} of {verdict.labelled} labelled windows (shaded) hit", fontsize=10
        )
        axis.tick_params(labelsize=7)
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main()
