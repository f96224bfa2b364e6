"""The code of the key ceremony runs as it is printed, and what it makes fits together."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import pytest

from tee_sim.image import measure
from tee_sim.settings import load_key

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "key-ceremony.md"


def test_the_ceremony_makes_every_key_for_its_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert measure() in printed
    assert names["policy"].digest in printed
    assert "BEGIN CERTIFICATE" in printed and "PRIVATE" not in printed
    made = {path.name for path in (tmp_path / "ceremony").iterdir()}
    assert made >= {"issuer.key", "token.key", "token.previous", "hop.key", "platform.key"}
    for path in (tmp_path / "ceremony").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert len({load_key(path) for path in (tmp_path / "ceremony").glob("*.key")}) == 4
