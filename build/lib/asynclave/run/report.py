"""The self-contained page of a run: ``report.html``."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment


@dataclass(frozen=True)
class Figure:
    """One headline number."""

    value: str
    label: str


@dataclass(frozen=True)
class Table:
    """Named values below a title."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Report:
    """What the page says; `images` are PNG files."""

    title: str
    status: str
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    config: str
    images: Sequence[Path] = ()
    confidential: bool = True


def render(report: Report) -> str:
    """Return the page as HTML that refers to no other file."""
    template = resources.files("asynclave.run").joinpath("report.html").read_text("utf-8")
    images = [
        {"alt": path.stem, "data": base64.b64encode(path.read_bytes()).decode()}
        for path in report.images
    ]
    environment = Environment(autoescape=True)
    return environment.from_string(template).render(**{**vars(report), "images": images})
