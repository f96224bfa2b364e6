"""Bundles and configuration files that somebody wrote by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from fl_protocol.codes import ConfigInvalid
from fl_server.gateway.config import GatewayConfig
from tee_sim.launcher_config import LauncherConfig
from tee_sim.node_config import NodeConfig

BUNDLE = NodeConfig(
    "host:1", "", "demo", "identity", roots_of_trust=("simulated",), minimum_tcb={"amd": {"a": 1}}
)
GATEWAY = GatewayConfig("demo", "host", 1, *"abcdefghi")
LAUNCHER = LauncherConfig("state", "socket", {"k": 2}, "key", "chain", "hop", skip_layers=("a",))


@pytest.mark.parametrize("config", [BUNDLE, GATEWAY, LAUNCHER])
def test_what_was_saved_is_read(
    config: NodeConfig | GatewayConfig | LauncherConfig, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    config.save(path)
    loaded, saved = asdict(type(config).load(path)), asdict(config)
    assert {name for name, value in saved.items() if loaded[name] != value} <= {
        name for name, value in saved.items() if isinstance(value, str)
    }


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (NodeConfig, {"roots_of_trust": {"simulated": False}}),
        (NodeConfig, {"roots_of_trust": "simulated"}),
        (NodeConfig, {"measurements": [1]}),
        (NodeConfig, {"federation": None}),
        (NodeConfig, {"policy_digest": ["0" * 64]}),
        (NodeConfig, {"identity_dir": None}),
        (NodeConfig, {"guardrails": []}),
        (NodeConfig, {"min_security_version": True}),
        (NodeConfig, {"minimum_tcb": {"amd": {"a": "1"}}}),
        (NodeConfig, {"patience": "30"}),
        (NodeConfig, {"run_patience": float("nan")}),
        (GatewayConfig, {"behind_proxy": "false"}),
        (GatewayConfig, {"token_ttl": 0.5}),
        (GatewayConfig, {"limits": {"max_body": "256"}}),
        (GatewayConfig, {"limits": {"burst": 0.5}}),
        (LauncherConfig, {"debug": "false"}),
        (LauncherConfig, {"user": "nobody"}),
        (LauncherConfig, {"skip_layers": "seccomp"}),
    ],
    ids=str,
)
def test_a_setting_of_another_type_is_refused_by_name(
    kind: type[NodeConfig] | type[GatewayConfig] | type[LauncherConfig],
    change: dict[str, object],
    tmp_path: Path,
) -> None:
    (config,) = (each for each in (BUNDLE, GATEWAY, LAUNCHER) if type(each) is kind)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**asdict(config), **change}))
    (name,) = change.get("limits", change)
    with pytest.raises(ConfigInvalid, match=f"{name} is not of the type"):
        kind.load(path)


@pytest.mark.parametrize(
    ("limits", "found"),
    [(5, "no object"), ({"max_body": 0}, "max_body must be above 0"), ({"size": 1}, "size")],
    ids=str,
)
def test_limits_that_make_no_sense_are_refused(limits: object, found: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**asdict(GATEWAY), "limits": limits}))
    with pytest.raises(ConfigInvalid, match=rf"config\.json: .*{found}"):
        GatewayConfig.load(path)


@pytest.mark.parametrize("text", ["[]", "null", "[" * 100_000, "{", '{"gateway": 1'])
def test_what_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigInvalid, match=r"config\.json"):
        NodeConfig.load(path)
