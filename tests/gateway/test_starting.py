"""A gateway that cannot start says which file or setting it is, and ends."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fl_protocol.codes import Code, ConfigInvalid, StorageFailed
from fl_server.gateway.config import GatewayConfig
from fl_server.gateway.database import Database
from fl_server.stack import LocalStack
from fl_server.stack.pki import create_server_certificate

Spoil = Callable[[GatewayConfig, Path], GatewayConfig]


def without_token_key(config: GatewayConfig, folder: Path) -> GatewayConfig:
    return replace(config, token_key=str(folder / "token.key"))


def with_a_folder_for_its_log(config: GatewayConfig, folder: Path) -> GatewayConfig:
    (folder / "audit.jsonl").mkdir()
    return config


def with_a_folder_for_its_port(config: GatewayConfig, folder: Path) -> GatewayConfig:
    (folder / "gateway.port").mkdir()
    return config


def with_the_key_of_another_certificate(config: GatewayConfig, folder: Path) -> GatewayConfig:
    other = create_server_certificate(folder, ("localhost",), datetime.datetime.now(datetime.UTC))
    return replace(config, tls_key=str(other.key))


@pytest.mark.parametrize(
    ("spoil", "code", "named"),
    [
        (without_token_key, Code.CONFIG_INVALID, "token.key"),
        (with_a_folder_for_its_log, Code.JOURNAL_FAILED, "audit.jsonl"),
        (with_a_folder_for_its_port, Code.JOURNAL_FAILED, "gateway.port"),
        (with_the_key_of_another_certificate, Code.CONFIG_INVALID, "KEY_VALUES_MISMATCH"),
    ],
)
def test_what_is_in_the_way_is_named(
    stack: LocalStack, tmp_path: Path, spoil: Spoil, code: Code, named: str
) -> None:
    config = replace(
        GatewayConfig.load(stack.state_dir / "gateway.json"),
        port=0,
        audit_log=str(tmp_path / "audit.jsonl"),
        port_file=str(tmp_path / "gateway.port"),
        journal_dir=str(tmp_path / "journal"),
    )
    spoil(config, tmp_path).save(tmp_path / "gateway.json")
    command = [sys.executable, "-m", "fl_server.gateway", str(tmp_path / "gateway.json")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"{code}: ") and named in ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr


def test_a_registry_of_somebody_else_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(StorageFailed, match=r"registry\.sqlite.*not permitted"):
        Database(tmp_path / "registry.sqlite")


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_there_is_not_is_refused(stack: LocalStack, port: int) -> None:
    config = GatewayConfig.load(stack.state_dir / "gateway.json")
    with pytest.raises(ConfigInvalid, match=str(port)):
        replace(config, port=port)
