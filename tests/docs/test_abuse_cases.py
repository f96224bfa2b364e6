"""Every test that the page on abuse cases names exists and expects the code beside it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from fl_protocol.codes import Code
from strategies.reject import Reject

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "abuse-cases.md"
ROW = re.compile(r"\| (?P<attempt>.+) \| (?P<answer>[^|]+) \| `(?P<path>[^:`]+)::(?P<test>\w+)` \|")
ROWS = [row for line in PAGE.read_text().splitlines() if (row := ROW.fullmatch(line))]
CODES = {*Code, *Reject}


def test_every_line_of_a_table_is_a_case() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    heads = [line for line in lines if line.startswith(("| attempt", "|---"))]
    assert len(ROWS) == len(lines) - len(heads) > 90


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["attempt"])
def test_case_is_tested_with_its_code(row: re.Match[str]) -> None:
    path = ROOT / "tests" / row["path"]
    tree = ast.parse(path.read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    (function,) = [n for n in ast.walk(tree) if isinstance(n, functions) and n.name == row["test"]]
    source = "\n".join(map(ast.unparse, [*function.decorator_list, function]))
    codes = re.findall(r"`(\w+)`", row["answer"])
    assert codes or row["answer"] == "—"
    assert set(codes) <= CODES
    assert [code for code in codes if code not in source and code not in _helpers(tree)] == []


def _helpers(tree: ast.Module) -> str:
    """Return what of a module its tests may refer to: all but the tests themselves."""
    others = [node for node in tree.body if not getattr(node, "name", "").startswith("test_")]
    return "\n".join(map(ast.unparse, others))
