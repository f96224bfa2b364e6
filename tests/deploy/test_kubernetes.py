"""The manifests against Kubernetes' own schemas and against each other; no cluster has run them."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from asynclave.deployment.federation import FederationSpec, init
from tests.deploy.kustomize import OVERLAY, Manifest, build, containers, members
from tests.deploy.owners import (
    AS_ROOT,
    GATEWAYS_USER,
    assert_only_the_launchers_socket_is_opened,
    assert_roots_files_are_safe,
)

FOLDER = OVERLAY.parents[1]
VERSIONS = ["1.31", kubernetes_validate.latest_version()]
MANIFESTS = build(OVERLAY)
BY_NAME = {f"{m['kind']}/{m['metadata']['name']}": m for m in MANIFESTS}
WORKLOADS = [m for m in MANIFESTS if m["kind"] == "StatefulSet"]
# What the enclave locks itself down with, as in its systemd unit.
ENCLAVE = "enclave"


def pod(workload: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = workload["spec"]["template"]["spec"]
    return found


def every_container() -> list[Any]:
    return [
        pytest.param(workload, container, id=f"{workload['metadata']['name']}-{container['name']}")
        for workload in WORKLOADS
        for container in containers(workload)
    ]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", BY_NAME)
def test_kubernetes_knows_every_member(name: str, version: str) -> None:
    kubernetes_validate.validate(BY_NAME[name], version, strict=True)


def test_a_mistyped_member_would_be_found() -> None:
    wrong = {**BY_NAME["Service/asynclave"], "spce": {}}
    with pytest.raises(kubernetes_validate.ValidationError, match="spce"):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_the_overlay_has_a_server_and_two_nodes() -> None:
    names = {workload["metadata"]["name"] for workload in WORKLOADS}
    assert names == {"superlink", "superexec", "trusted", "supernode-0", "supernode-1"}
    assert {m["metadata"].get("namespace") for m in MANIFESTS} == {"asynclave", None}
    secrets = {v["secretName"] for k, v in members(MANIFESTS) if k == "secret"}
    assert {"asynclave-node-0", "asynclave-node-1"} <= secrets
    partitions = [BY_NAME[f"ConfigMap/asynclave-node-{i}"]["data"] for i in range(2)]
    assert [data["ASYNCLAVE_PARTITION"] for data in partitions] == ["0", "1"]


def test_no_secret_is_in_a_manifest() -> None:
    assert not [m for m in MANIFESTS if m["kind"] == "Secret"]
    assert not [value for key, value in members(MANIFESTS) if key == "stringData"]


def test_everything_that_is_named_exists() -> None:
    for workload in WORKLOADS:
        names = {volume["name"] for volume in pod(workload)["volumes"]}
        claims = workload["spec"].get("volumeClaimTemplates", [])
        names |= {claim["metadata"]["name"] for claim in claims}
        for container in containers(workload):
            assert {mount["name"] for mount in container["volumeMounts"]} <= names
            ports = {port["name"] for port in container.get("ports", [])}
            probed = [v["port"] for k, v in members(container) if k in ("httpGet", "tcpSocket")]
            assert set(probed) <= ports
            numbers = {port["containerPort"] for port in container.get("ports", [])}
            assert {v["port"] for k, v in members(container) if k == "grpc"} <= numbers
        assert f"Service/{workload['spec']['serviceName']}" in BY_NAME
    for key, value in members(MANIFESTS):
        if key == "configMapRef":
            assert f"ConfigMap/{value['name']}" in BY_NAME


def test_every_selector_finds_its_own_pods_only() -> None:
    for workload in WORKLOADS:
        wanted = workload["spec"]["selector"]["matchLabels"].items()
        labels = [w["spec"]["template"]["metadata"]["labels"].items() for w in WORKLOADS]
        assert sum(wanted <= found for found in labels) == 1
    for policy in (m for m in MANIFESTS if m["kind"] == "NetworkPolicy"):
        wanted = policy["spec"]["podSelector"]["matchLabels"].items()
        chosen = [
            w for w in WORKLOADS if wanted <= w["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert len(chosen) == 1
        ports = {p["name"] for c in containers(chosen[0]) for p in c.get("ports", [])}
        taken = {p["port"] for rule in policy["spec"].get("ingress", []) for p in rule["ports"]}
        assert taken <= ports


def test_the_service_leads_to_the_superlink_and_to_the_gateway() -> None:
    service = BY_NAME["Service/asynclave"]["spec"]
    behind = [
        port["name"]
        for workload in WORKLOADS
        if service["selector"].items() <= workload["spec"]["template"]["metadata"]["labels"].items()
        for container in containers(workload)
        for port in container.get("ports", [])
    ]
    assert sorted(behind) == sorted(port["targetPort"] for port in service["ports"])


@pytest.mark.parametrize(("workload", "container"), every_container())
def test_every_container_is_confined(workload: Manifest, container: Manifest) -> None:
    own, shared = container["securityContext"], pod(workload)["securityContext"]
    assert own["readOnlyRootFilesystem"] is True
    assert own["capabilities"]["drop"] == ["ALL"]
    assert shared["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(workload)["automountServiceAccountToken"] is False
    if workload["metadata"]["name"] == "trusted" and container["name"] != "gateway":
        return
    assert own["allowPrivilegeEscalation"] is False
    assert "add" not in own["capabilities"]
    assert {**shared, **own}["runAsNonRoot"] is True


@pytest.mark.parametrize(
    ("workload", "name"), [("superexec", "superexec"), ("supernode-0", "executor")]
)
def test_apps_have_a_home_that_they_can_write_to(workload: str, name: str) -> None:
    (container,) = [c for c in containers(BY_NAME[f"StatefulSet/{workload}"]) if c["name"] == name]
    (home,) = [entry["value"] for entry in container["env"] if entry["name"] == "HOME"]
    (mount,) = [m for m in container["volumeMounts"] if m["mountPath"] == home]
    assert not mount.get("readOnly")


def test_the_enclave_has_the_capabilities_of_its_systemd_unit() -> None:
    unit = (FOLDER.parent / "systemd" / "asynclave-enclave.service").read_text()
    line = next(x for x in unit.splitlines() if x.startswith("CapabilityBoundingSet="))
    (enclave,) = [c for c in containers(BY_NAME["StatefulSet/trusted"]) if c["name"] == ENCLAVE]
    added = enclave["securityContext"]["capabilities"]["add"]
    assert {f"CAP_{name}" for name in added} == set(line.partition("=")[2].split())


@pytest.mark.parametrize(("workload", "container"), every_container())
def test_every_lasting_container_is_probed_and_bounded(
    workload: Manifest, container: Manifest
) -> None:
    if container in pod(workload).get("initContainers", []):
        return
    assert "readinessProbe" in container
    assert container["resources"]["limits"]["memory"]


def moved(script: str, places: dict[str, Path]) -> str:
    for place, folder in places.items():
        assert place in script
        script = script.replace(place, str(folder))
    return script


def first_container(workload: str) -> str:
    (container,) = pod(BY_NAME[f"StatefulSet/{workload}"])["initContainers"]
    *_, script = container["command"]
    return str(script)


@AS_ROOT
def test_the_volume_of_gateway_and_enclave_is_filled_once(tmp_path: Path) -> None:
    # given the Secrets of a federation
    init(tmp_path / "fed", FederationSpec(nodes=2, hosts=("asynclave",)))
    trusted, volume = tmp_path / "fed" / "trusted", tmp_path / "volume"
    secret, platform = tmp_path / "secret", tmp_path / "platform"
    for source, target in ((trusted, secret), (trusted / "platform", platform)):
        target.mkdir()
        for file in source.iterdir():
            if file.is_file():
                shutil.copy(file, target)
    volume.mkdir()
    script = moved(
        first_container("trusted"),
        {
            "/var/lib/asynclave/trusted": volume,
            "/etc/asynclave/trusted": secret,
            "/etc/asynclave/platform": platform,
        },
    )
    # when
    subprocess.run(["sh", "-c", script], check=True)
    # then everything is there, the gateway's for the gateway and the platform's for root
    copied = {p.relative_to(volume) for p in volume.rglob("*") if p.is_file()}
    assert copied == {p.relative_to(trusted) for p in trusted.rglob("*") if p.is_file()}
    assert (volume / "issuer.key").stat().st_uid == GATEWAYS_USER
    assert (volume / "platform" / "platform.key").stat().st_uid == 0
    assert stat.S_IMODE((volume / "platform" / "platform.key").stat().st_mode) == 0o600
    # and what has changed since is not overwritten
    (volume / "registry.sqlite").write_bytes(b"grown")
    subprocess.run(["sh", "-c", script], check=True)
    assert (volume / "registry.sqlite").read_bytes() == b"grown"
    assert_roots_files_are_safe(volume)


@AS_ROOT
def test_only_the_launchers_own_socket_is_opened_for_the_gateway(tmp_path: Path) -> None:
    (enclave,) = [c for c in containers(BY_NAME["StatefulSet/trusted"]) if c["name"] == ENCLAVE]
    *_, script = enclave["lifecycle"]["postStart"]["exec"]["command"]
    assert_only_the_launchers_socket_is_opened(script, tmp_path)


def test_a_nodes_volume_is_filled_once_and_its_executor_has_a_new_secret(tmp_path: Path) -> None:
    init(tmp_path / "fed", FederationSpec(nodes=2, hosts=("asynclave",)))
    volume, run = tmp_path / "volume", tmp_path / "run"
    for folder in (volume, run):
        folder.mkdir()
    script = moved(
        first_container("supernode-0"),
        {
            "/var/lib/asynclave/node": volume,
            "/etc/asynclave": tmp_path / "fed" / "nodes" / "node-0",
            "/run/asynclave": run,
        },
    )
    secrets = []
    for _ in range(2):
        subprocess.run(["sh", "-c", script], check=True)
        secrets.append((run / "executor.key").read_bytes())
        (volume / "client.json").write_bytes(b"kept")
    assert len(set(secrets)) == 2 and {len(secret) for secret in secrets} == {32}
    assert (volume / "client.json").read_bytes() == b"kept"
