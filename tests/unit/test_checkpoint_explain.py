"""`streamkit checkpoint explain`: the sweep, how it looks on a screen and as JSON, and the plot."""

from __future__ import annotations

import io
import json
import math
import re
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from streamkit.cli import checkpoint as command
from streamkit.cli.checkpoint import SWEEP, asked_for, check_plot, document, draw, show, sweep, verdict
from streamkit.errors import DefinitionError
from streamkit.interval import DAY, Measured, Observation, Pace, Pacer, choose, overhead, recovery_seconds

RECOVERY = Pace(recovery=5.0)


def _measured(load: int = 60_000, pace: Pace = RECOVERY, start: float = 1.5, checkpoints: int = 25) -> Measured:
    """A worker whose Checkpoints take 20 ms and 20 us a state, as it stands after some of them."""
    pacer, last = Pacer(pace, start=start), 0.0
    for _ in range(checkpoints):
        since = pacer.interval
        records = round(load * (since + last))
        changes = round(3 * records**0.6)
        last = 0.02 + 2e-5 * changes
        pacer.observe(Observation(since, last, records, records / 200_000, changes, 60 * changes))
    return pacer.measured


@pytest.fixture(scope="module")
def measured() -> Measured:
    return _measured()


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What goes to a terminal of 80 columns."""
    text = io.StringIO()
    monkeypatch.setattr(command, "out", Console(file=text, highlight=False, soft_wrap=True, width=80))
    return text


def _png_size(content: bytes) -> tuple[int, int]:
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


# -- the sweep --------------------------------------------------------------------------------------------------------


def test_each_row_is_what_the_model_says(measured: Measured) -> None:
    rows = sweep(measured, RECOVERY, DAY)
    assert [r.interval for r in rows] == sorted(r.interval for r in rows)
    assert {0.05, 60.0} <= {r.interval for r in rows}
    assert len(rows) >= len(SWEEP)
    for row in rows:
        assert row.overhead == overhead(measured, row.interval)
        assert row.recovery == recovery_seconds(measured, row.interval)
        assert row.meets == (row.recovery <= 5.0 * 1.001)
        assert row.age == row.interval + measured.cost(row.interval)
        assert row.waste > row.overhead


def test_one_row_is_chosen_one_is_in_force_and_they_may_be_one(measured: Measured) -> None:
    rows = sweep(msgspec.structs.replace(measured, interval=2.0), RECOVERY, DAY)
    chosen = [r for r in rows if r.chosen]
    assert [r.interval for r in chosen] == [choose(RECOVERY, measured).interval]
    assert chosen[0].meets
    assert [r.interval for r in rows if r.in_force] == [2.0]
    fixed = msgspec.structs.replace(measured, interval=1.0)
    (both,) = [r for r in sweep(fixed, Pace(), DAY) if r.chosen or r.in_force]
    assert (both.interval, both.chosen, both.in_force, both.meets) == (1.0, True, True, None)


def test_every_measured_point_stands_in_one_row_and_agrees_with_the_model(measured: Measured) -> None:
    rows = sweep(measured, RECOVERY, DAY)
    assert sum(r.measured for r in rows) == len(measured.points) == 25
    for row in rows:
        assert (row.measured_overhead is None) == (row.measured == 0)
        if row.in_force and row.measured_overhead is not None:
            assert row.measured_overhead == pytest.approx(row.overhead, rel=0.1)


def test_points_of_idle_times_are_left_out(measured: Measured) -> None:
    hour = msgspec.structs.replace(measured.points[0], interval=3600.0)
    idle = msgspec.structs.replace(measured, points=(*measured.points, hour))
    assert sum(r.measured for r in sweep(idle, RECOVERY, DAY)) == 25


def test_freshness_counts_too(measured: Measured) -> None:
    rows = sweep(measured, Pace(recovery=5.0, freshness=0.5), DAY)
    assert {r.interval for r in rows if not r.meets} > {1.0, 2.0, 60.0}
    assert all(r.age <= 0.5 * 1.001 for r in rows if r.meets)


def test_a_recovery_that_is_asked_for_here_takes_the_place_of_the_topologys() -> None:
    assert asked_for(Pace(5.0, 1.0), None) == Pace(5.0, 1.0)
    assert asked_for(Pace(5.0, 1.0), "9s") == Pace(9.0, 1.0)
    assert asked_for(Pace(fixed=0.5), "9s") == Pace(9.0)
    assert asked_for(Pace(), None) == Pace(fixed=1.0)
    with pytest.raises(DefinitionError, match="'soon' is no duration"):
        asked_for(Pace(), "soon")


# -- screen and JSON --------------------------------------------------------------------------------------------------


def test_the_table_fits_a_terminal_and_marks_what_is_chosen(printed: io.StringIO, measured: Measured) -> None:
    show("w1", measured, RECOVERY, DAY)
    text = printed.getvalue()
    lines = text.splitlines()
    table = [line for line in lines if line.startswith((" *", " =")) or line.rstrip().endswith(("yes", "no", "meets"))]
    assert all(len(line) <= 80 for line in table)
    assert len(table) == len(sweep(measured, RECOVERY, DAY)) + 1
    (header,) = [line for line in table if "meets" in line]
    assert header.split() == ["interval", "overhead", "measured", "recovery", "age", "waste", "log", "MB/s", "meets"]
    (chosen,) = [line for line in table if "*" in line]
    assert chosen.startswith(" *= ")
    assert re.search(r"% \(16\) +5 s .* yes", chosen)  # of so many Checkpoints; recovery
    assert "…" not in text
    assert "worker w1, 25 Checkpoints: 60,0" in text
    assert "Young, CACM 17(9), 1974; J. T. Daly, Future Generation Computer Systems 22(3), 2006" in text
    assert "asked: recovery 5 s; a crash every 24 h" in text
    assert "warning" not in text


def test_what_cannot_be_met_is_a_warning_and_never_is_a_word(printed: io.StringIO) -> None:
    show("w[1]", _measured(load=250_000), RECOVERY, DAY)
    text = printed.getvalue()
    assert "worker w[1], " in text
    assert "warning: recovery in 5 s cannot be met: never with a Checkpoint every" in text
    assert "start another worker" in text
    assert " never " in text
    assert not any(line.rstrip().endswith(" yes") for line in text.splitlines())


@pytest.mark.parametrize(
    ("pace", "said"),
    [
        (Pace(), "1 s, fixed by the topology (asked: none"),
        (Pace(freshness=0.5), "the longest that keeps Answers as fresh as asked (asked: freshness 500 ms"),
        (Pace(recovery=600.0), "the optimum for the mean time between failures"),
        (Pace(freshness=0.05), "the shortest that keeps Checkpoints within 20% of the time"),
    ],
)
def test_the_reason_for_the_choice(measured: Measured, pace: Pace, said: str) -> None:
    mtbf = 3600.0
    assert said in verdict(choose(pace, measured, mtbf), measured, pace, mtbf)


def test_json_has_the_model_the_rows_and_the_points(measured: Measured) -> None:
    found = json.loads(msgspec.json.encode(document("w1", measured, RECOVERY, DAY)))
    assert found["worker"] == "w1"
    assert found["asked"] == {"recovery": 5.0, "freshness": None, "fixed": None, "mtbf": DAY}
    assert found["chosen"]["reason"] == "recovery"
    assert found["model"]["arrival"] == measured.arrival
    assert "points" not in found["model"]
    assert len(found["points"]) == 25
    assert set(found["points"][0]) == {"interval", "seconds", "records", "changes"}
    assert [r["interval"] for r in found["rows"] if r["chosen"]] == [found["chosen"]["interval"]]
    assert "1974" in found["sources"]
    overloaded = json.loads(msgspec.json.encode(document("w1", _measured(load=250_000), RECOVERY, DAY)))
    assert {r["recovery"] for r in overloaded["rows"]} == {None}


def test_help_has_examples() -> None:
    shown = CliRunner().invoke(command.app, ["explain", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0
    for part in ("--plot", "--recovery", "--mtbf", "--json", "streamkit checkpoint explain app.py --recovery 5s"):
        assert part in shown.output


# -- the plot ---------------------------------------------------------------------------------------------------------


def test_a_png_is_a_picture_with_more_than_a_background(tmp_path: Path, measured: Measured) -> None:
    path = tmp_path / "intervals.png"
    check_plot(path)
    draw({"w1": measured}, RECOVERY, DAY).savefig(path)
    content = path.read_bytes()
    width, height = _png_size(content)
    assert width >= 640
    assert height >= 480
    assert len(content) > 20_000  # an empty one of this size is 3 KB


def test_an_svg_has_a_curve_for_each_worker_and_the_sources(tmp_path: Path, measured: Measured) -> None:
    path = tmp_path / "intervals.svg"
    check_plot(path)
    figure = draw({"w1": measured, "w2": _measured(load=100_000)}, RECOVERY, DAY)
    above, below = figure.axes
    labels = [text.get_text() for axes in (above, below) for text in axes.get_legend().get_texts()]  # type: ignore[union-attr]
    assert {"w1: model", "w2: model", "w1: measured", "asked 5 s", "bound 20%"} <= set(labels)
    assert sum(len(line.get_xdata()) > 100 for line in above.lines) == 2  # type: ignore[arg-type]
    assert [len(dots.get_offsets()) for dots in above.collections] == [25, 25]  # type: ignore[arg-type]
    figure.savefig(path)
    root = ElementTree.parse(path).getroot()
    assert root.tag.endswith("svg")
    assert sum(len(p.get("d", "")) for p in root.iter("{http://www.w3.org/2000/svg}path")) > 10_000


@pytest.mark.parametrize("measured", [_measured(load=250_000), Measured(count=1), _measured(load=0)])
def test_a_plot_without_a_finite_recovery_or_without_points_is_drawn_without_warnings(
    tmp_path: Path, measured: Measured
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw({"w1": measured}, RECOVERY, DAY).savefig(tmp_path / "x.png")
        assert sweep(measured, RECOVERY, DAY)
    assert math.isfinite(choose(RECOVERY, measured).interval)


@pytest.mark.parametrize(
    ("path", "message"),
    [("x.pdf", "expected a name that ends in .png or .svg"), ("not/there/x.png", "there is no folder not/there")],
)
def test_a_plot_that_cannot_be_written_is_refused_before_any_work(path: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        check_plot(Path(path))


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # what an import finds where it is not installed
    with pytest.raises(DefinitionError, match=r"pip install 'streamkit\[plot\]'"):
        check_plot(tmp_path / "x.png")
