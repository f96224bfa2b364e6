"""Every test that the page on abuse cases names exists and has the code beside it."""

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
_WORD = re.compile(r"\w+")
CODES = {*Code, *Reject}


def test_every_line_of_a_table_is_a_case() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    heads = [line for line in lines if line.startswith(("| attempt", "|---"))]
    assert len(ROWS) == len(lines) - len(heads) > 90


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["attempt"])
def test_case_is_tested_with_its_code(row: re.Match[str]) -> None:
    words = _words((ROOT / "tests" / row["path"]).read_text(), row["test"])
    codes = re.findall(r"`(\w+)`", row["answer"])
    assert codes or row["answer"] == "—"
    assert set(codes) <= CODES
    assert [code for code in codes if code not in words] == []


def test_a_code_that_stands_elsewhere_in_the_module_does_not_count() -> None:
    module = """
USED, unused = "HERE", "NOT"
OTHER = "ELSEWHERE"
def helper(): return USED
def test_it(): assert helper() == "TESTED"
def test_another(): assert OTHER == "ANOTHER"
"""
    words = _words(module, "test_it")
    assert {"HERE", "TESTED"} <= words
    assert not words & {"ELSEWHERE", "ANOTHER"}


def _words(source: str, test: str) -> set[str]:
    """Return the words of a test and of what it uses of its module, directly or not."""
    module = ast.parse(source)
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    (function,) = [n for n in ast.walk(module) if isinstance(n, functions) and n.name == test]
    words = set(_WORD.findall(ast.unparse(function)))
    rest = [node for node in module.body if node is not function]
    while used := [node for node in rest if _defined(node) & words]:
        rest = [node for node in rest if node not in used]
        words.update(*(_WORD.findall(ast.unparse(node)) for node in used))
    return words


def _defined(node: ast.stmt) -> set[str]:
    """Return the names that a statement of a module defines, other than by an import."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    return {
        name.id
        for name in ast.walk(node)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    }
