"""Where the Wycheproof vectors are; they are read from beside the repository, never copied in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


def load_vectors(name: str) -> dict[str, Any]:
    """Read a Wycheproof file; skip without it on a desk, fail without it in CI."""
    sibling = Path(__file__).resolve().parents[2].parent / "shared" / "vectors"
    folder = Path(os.environ.get("ASYNCLAVE_VECTORS") or sibling)
    path = folder / "wycheproof" / name
    if not path.exists():
        message = f"{name} not found; set ASYNCLAVE_VECTORS to the folder that holds wycheproof/"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return json.loads(path.read_text())  # type: ignore[no-any-return]
