"""The list of mutations does not rot: each still fits the text that it breaks, and its test is there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.life.mutations import ROOT, Mutation, mutations

MUTATIONS = mutations()
CONTRACTS = "".join(path.read_text() for path in (ROOT / "streamkit" / "testing").glob("*contracts.py"))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_it_applies(mutation: Mutation, tmp_path: Path) -> None:
    copy = tmp_path / mutation.file
    copy.parent.mkdir(parents=True)
    copy.write_text((ROOT / mutation.file).read_text())
    mutation.apply(tmp_path)
    ast.parse(copy.read_text())
    assert copy.read_text() != (ROOT / mutation.file).read_text()
    file, _, names = mutation.test.partition("::")
    for name in names.replace("[", "::[").split("::"):
        assert name.startswith("[") or name in (ROOT / file).read_text() + CONTRACTS, f"{mutation.test} is not there"
