"""The machine changes under a worker on a real Kafka: its disk is full, its clock jumps."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kafka.site import APP, ROOT, Site, wait_for
from tests.kafka.test_changes import check_all, counted, end_of

# -- the disk is full -------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk of 20 MB, where this user may mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)]
    mounted = shutil.which("mount") is not None and not subprocess.run(mount, capture_output=True).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room that there is."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                continue
        except OSError:
            return filler
    raise AssertionError("no disk is without end")


def test_a_full_disk_stops_the_worker_and_loses_nothing(site: Site) -> None:
    filler = None
    with small_disk(site.folder) as mounted:
        site.send(300)
        with site.worker("--checkpoint", "50ms", "--quiet") as worker:
            wait_for(lambda: counted(site), worker)
            if mounted:
                filler = fill(site.folder)
            else:  # the worker's files may not grow
                resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            site.send(300)
            said = end_of(worker)
        assert f"state at {site.data.slot(0).state} cannot be written" in said
        assert "No space left on device" in said or "File too large" in said
        assert "Make room" in said
        if filler is not None:
            said = site.command("worker", "--until-caught-up", status=1)
            assert str(site.data.slot(0).path) in said
            assert "No space left on device" in said
            assert "Traceback" not in said
            filler.unlink()
        site.command("worker", "--until-caught-up")
        check_all(site)


# -- the clock jumps --------------------------------------------------------------------------------------------------

CLOCK = """
import os, pathlib, time
real, file = time.time, pathlib.Path(os.environ["CLOCK_FILE"])
time.time = lambda: real() + float(file.read_text() or 0)
"""


def test_a_clock_that_jumps_changes_no_answer(site: Site, tmp_path: Path) -> None:
    """Offsets decide. A copy that seems to be of another week is made anew, which costs time and nothing else."""
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    clock = tmp_path / "clock"
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    environment = {**site.environment(), "PYTHONPATH": path, "CLOCK_FILE": str(clock)}
    command = [sys.executable, "-m", "streamkit", "worker", str(APP), "--checkpoint", "50ms", "--quiet"]
    for hours in ((0, -2, 2), (120,), (-120,)):
        clock.write_text("0")
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as worker:
            try:
                for hour in hours:
                    site.send(200)
                    wait_for(lambda: counted(site), worker)
                    clock.write_text(str(hour * 3600))
                site.send(200)
                wait_for(lambda: counted(site), worker)
            finally:
                worker.send_signal(signal.SIGKILL)
    check_all(site)
