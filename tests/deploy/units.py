"""The systemd units read as what they start: command, environment and working directory."""

from __future__ import annotations

import shlex
import string
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
NAMES = sorted(path.name for path in UNITS.glob("*.service"))
HOME = "/var/lib/asynclave/"
PROGRAMS = "/opt/asynclave/bin/"


@dataclass(frozen=True)
class Started:
    """What a unit starts, on a machine whose folders are elsewhere.

    Attributes
    ----------
    command : list of str
        Program and arguments.
    environment : dict of str to str
        What the unit sets.
    folder : Path
        The working directory.
    """

    command: list[str]
    environment: dict[str, str]
    folder: Path


def read_unit(
    name: str,
    folders: Mapping[str, Path],
    instance: str = "",
    environment: Mapping[str, str] | None = None,
) -> Started:
    """Read a unit.

    Parameters
    ----------
    name : str
        File in deploy/systemd.
    folders : mapping
        Where the folders of /var/lib/asynclave are, by name.
    instance : str
        Replaces %i.
    environment : mapping, optional
        Takes precedence over what the unit sets, as EnvironmentFile does.
    """
    settings: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        key, found, value = line.partition("=")
        if found:
            settings.setdefault(key, []).append(_placed(value.replace("%i", instance), folders))
    variables = dict(
        pair.split("=", 1) for line in settings.get("Environment", []) for pair in shlex.split(line)
    )
    for file in settings.get("EnvironmentFile", []):
        if not file.startswith("-"):
            lines = Path(file).read_text().splitlines()
            variables |= dict(pair.split("=", 1) for pair in lines)
    variables |= environment or {}
    (start,) = settings["ExecStart"]
    command = [word for raw in shlex.split(start) for word in _expanded(raw, variables)]
    (folder,) = settings["WorkingDirectory"]
    return Started(command, variables, Path(folder))


def _expanded(word: str, variables: Mapping[str, str]) -> list[str]:
    """Put variables in as systemd does: a word that is one without braces becomes its words."""
    if word.startswith("$") and word[1:].isidentifier():
        return variables.get(word[1:], "").split()
    return [string.Template(word).safe_substitute(variables)]


def _placed(value: str, folders: Mapping[str, Path]) -> str:
    value = value.replace(PROGRAMS, f"{Path(sys.executable).parent}/")
    value = value.replace("PATH=/opt/asynclave/bin:", f"PATH={Path(sys.executable).parent}:")
    for name, folder in folders.items():
        value = value.replace(f"{HOME}{name}", str(folder))
    return value
