"""Looks at what surrounds the enclave: packages, loopback, proxies, files that hold keys."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.requirements import Requirement

from asynclave.doctor.finding import Finding, State

_DISTRIBUTION = "asynclave"
_SHOWN = ("flwr", "numpy", "cryptography", "grpcio", "torch")
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy")
_LOOPBACK = ("127.0.0.1", "localhost")
_SUPERLINK_PORTS = (9091, 9092, 9093)
# Whoever reads one of these is the node, the issuer or the platform.
_SECRETS = re.compile(r"identity\.json|.*\.key|.*\.previous|client\.json|server\.json")


def host_findings(state_dir: Path) -> Iterator[Finding]:
    """Look at this machine and at the files of a deployment, if there is one."""
    yield from _versions()
    yield _loopback()
    yield from _ports()
    yield _proxy(os.environ)
    yield from _secrets(state_dir)


def _versions() -> Iterator[Finding]:
    metadata = importlib.metadata.metadata(_DISTRIBUTION)
    wanted = metadata["Requires-Python"].removeprefix(">=")
    running = platform.python_version()
    enough = _numbers(running) >= _numbers(wanted)
    state = State.OK if enough else State.BAD
    advice = "" if enough else f"use Python {wanted} or newer"
    yield Finding("packages", "python", state, running, advice)
    requires = importlib.metadata.requires(_DISTRIBUTION) or []
    requirements = {r.name: r for r in map(Requirement, reversed(requires))}
    for name in _SHOWN:
        yield _package(name, requirements[name])


def _package(name: str, requirement: Requirement) -> Finding:
    install = f"pip install '{name}{requirement.specifier}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        optional = requirement.marker is not None
        state = State.WEAK if optional else State.BAD
        needed = "; asynclave run and the torch trainer need it" if optional else ""
        return Finding("packages", name, state, f"not installed{needed}", install)
    # Local builds such as 2.13.0+cpu are the version they are built from.
    if requirement.specifier.contains(version, prereleases=True):
        return Finding("packages", name, State.OK, version)
    found = f"{version}, tested with {requirement.specifier}"
    return Finding("packages", name, State.BAD, found, install)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _loopback() -> Finding:
    try:
        with (
            socket.create_server((_LOOPBACK[0], 0)) as server,
            socket.create_connection(server.getsockname(), timeout=5),
        ):
            return Finding("network", "loopback", State.OK, "listens and connects")
    except OSError as error:
        advice = "allow processes to listen on 127.0.0.1"
        return Finding("network", "loopback", State.BAD, str(error), advice)


def _ports() -> Iterator[Finding]:
    taken = [port for port in _SUPERLINK_PORTS if not _is_free(port)]
    if taken:
        ports = ", ".join(map(str, taken))
        yield Finding(
            "network",
            "SuperLink's usual ports",
            State.WEAK,
            f"taken: {ports}",
            "a SuperLink started by hand needs others; asynclave up takes free ones by itself",
        )
    else:
        yield Finding("network", "SuperLink's usual ports", State.OK, "free")


def _is_free(port: int) -> bool:
    try:
        with socket.create_server((_LOOPBACK[0], port)):
            return True
    except OSError:
        return False


def _proxy(environment: Mapping[str, str]) -> Finding:
    values = {name.lower(): value for name, value in environment.items()}
    proxies = [name for name in _PROXIES if values.get(name)]
    if not proxies:
        return Finding("network", "NO_PROXY", State.OK, "no proxy is set")
    excluded = {entry.strip() for entry in values.get("no_proxy", "").split(",")}
    missing = [host for host in _LOOPBACK if host not in excluded and "*" not in excluded]
    named = f"{', '.join(proxies)} set"
    if not missing:
        return Finding("network", "NO_PROXY", State.OK, f"{named}; loopback is excluded")
    return Finding(
        "network",
        "NO_PROXY",
        State.WEAK,
        f"{named}; {', '.join(missing)} would go through it",
        "export NO_PROXY=127.0.0.1,localhost before starting Flower by hand",
    )


def _secrets(state_dir: Path) -> Iterator[Finding]:
    found = [path for path in sorted(state_dir.rglob("*")) if _SECRETS.fullmatch(path.name)]
    readable = [path for path in found if stat.S_IMODE(path.stat().st_mode) & 0o077]
    for path in readable:
        words = f"mode {stat.S_IMODE(path.stat().st_mode):04o}: others may read it"
        yield Finding("files", str(path), State.BAD, words, f"chmod 600 {path}")
    if not found:
        yield Finding("files", str(state_dir), State.OK, "no keys or bundles here")
    elif not readable:
        words = f"{len(found)} keys and bundles, each for its owner only"
        yield Finding("files", str(state_dir), State.OK, words)
