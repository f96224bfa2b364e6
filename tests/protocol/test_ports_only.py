"""What must run under simulated faults knows time, chance, disk and network as ports only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DURABLE = ("account", "checkpoint", "engine", "frames", "group_commit", "journal", "ledger", "rows")
CORE = [
    *(ROOT / "strategies").rglob("*.py"),
    *(ROOT / "fl_server" / "durable" / f"{name}.py" for name in DURABLE),
    *(ROOT / "fl_protocol" / f"{name}.py" for name in ("breaker", "retry", "session", "replay")),
    *(ROOT / "fl_server" / "strategy" / f"{name}.py" for name in ("dispatch", "pacing", "run")),
    *(
        ROOT / "fl_server" / "intake" / f"{name}.py"
        for name in ("continued", "enclave_run", "keeper", "plain", "records", "releases")
    ),
    *(
        ROOT / "fl_client" / f"{name}.py"
        for name in ("contributions", "outbox", "sealing", "uploader")
    ),
    *(ROOT / "tee_sim" / "enclave" / f"{name}.py" for name in ("ledger", "memory", "service")),
    ROOT / "fl_server" / "gateway" / "update_journal.py",
]
# Modules that are the outside world, or lead to it.
FORBIDDEN = {
    "time",
    "datetime",
    "secrets",
    "os",
    "socket",
    "shutil",
    "tempfile",
    "subprocess",
    "uuid",
}
# Chance is a port, too; but for generators that a caller seeds.
SEEDED = {"random.Random", "numpy.random"}
CALLS = {"open", "print", "input"}
METHODS = {
    *("read_bytes", "read_text", "write_bytes", "write_text", "unlink", "mkdir", "rename"),
    *("iterdir", "glob", "rglob", "stat", "exists", "is_file", "is_dir"),
}
# `Disk` has methods of the same names.
OF_PORTS = {"exists"}


def breaches(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [f"import {a.name}" for a in node.names if a.name.split(".")[0] in FORBIDDEN]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN:
            found.append(f"from {node.module}")
        elif isinstance(node, ast.Call):
            found += _calls(node)
    return found


def _calls(node: ast.Call) -> list[str]:
    called = ast.unparse(node.func)
    if isinstance(node.func, ast.Name) and node.func.id in CALLS:
        return [f"{called}()"]
    if called.startswith("random.") and called not in SEEDED:
        return [f"{called}()"]
    if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS - OF_PORTS:
        return [f"{called}()"]
    return []


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_core_reaches_the_outside_through_ports_only(path: Path) -> None:
    assert breaches(path) == []


@pytest.mark.parametrize(
    "line",
    [
        "import time",
        "from os import urandom",
        "open('x')",
        "import random; random.random()",
        "path.read_bytes()",
    ],
)
def test_the_check_can_fail(tmp_path: Path, line: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(line)
    assert breaches(path)
