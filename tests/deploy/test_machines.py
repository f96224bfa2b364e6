"""A federation of `asynclave init` over machines of its own.

The server and two nodes are started as the systemd units do it, one node as the manifests do.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asynclave.deployment.federation import FederationSpec, init
from asynclave.verification.audit import audit
from fl_protocol.chain import Link
from fl_protocol.receipts import ACCEPTED, Receipt
from fl_server.intake.records import CHAIN, MODEL, decode_record
from tests.deploy.kustomize import OVERLAY, build, commands
from tests.deploy.machines import Machine, Network, missing
from tests.deploy.units import read_unit
from tests.support.processes import wait_until

WHY_NOT = missing()
APP = Path(__file__).with_name("machines_app")
VERSIONS = 4
SLOW, DYING, CUT_OFF = 0, 1, 2
PARTITION_SECONDS = 12.0
SUPERLINK = "asynclave-superlink.service"
BIN = Path(sys.executable).parent

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]


class Federation:
    """The server's programs and the nodes, each in its own namespace."""

    def __init__(self, folder: Path, network: Network) -> None:
        self._network, self.folder, self._superlinks = network, folder, 0
        spec = FederationSpec(nodes=len(network.nodes), hosts=(network.server.address,))
        init(folder, spec)
        self.nodes = [folder / "nodes" / name for name in spec.names]
        self._names = spec.names
        self.start_server()
        self._connect()
        for index, name in enumerate(self._names):
            if index == CUT_OFF:
                self._start_pod(network.nodes[index], name)
            else:
                self._start(network.nodes[index], "asynclave-supernode.service", name)

    def start_server(self) -> None:
        server, trusted = self._network.server, self.folder / "trusted"
        for left in (trusted / "launcher.sock", trusted / "gateway-0.port"):
            left.unlink(missing_ok=True)
        self._start(server, "asynclave-enclave.service")
        self.start_superlink()
        wait_until((trusted / "launcher.sock").exists, 240, "the enclave")
        self._start(server, "asynclave-superexec.service")
        self._start(server, "asynclave-gateway@.service")
        wait_until((trusted / "gateway-0.port").exists, 240, "the gateway")

    def start_superlink(self) -> None:
        server = self._network.server
        self._start(server, SUPERLINK)
        self._superlinks += 1
        wait_until(
            lambda: server.log(SUPERLINK).count("Uvicorn running") == self._superlinks,
            120,
            "the SuperLink",
        )

    def _start(self, machine: Machine, unit: str, node: str = "") -> None:
        folders = {name: self.folder / name for name in ("superlink", "trusted", "server")}
        if node:
            folders["node"] = self.folder / "nodes" / node
        started = read_unit(unit, folders, instance="0")
        machine.start(node or unit, started.command, started.environment, started.folder)

    def _start_pod(self, machine: Machine, name: str) -> None:
        """Start what the Kubernetes manifests start for a node: a SuperNode, a warm executor."""
        node, run = self.folder / "nodes" / name, self.folder / "run"
        run.mkdir()
        (run / "executor.key").write_bytes(secrets.token_bytes(32))
        lines = (node / "node.env").read_text().splitlines()
        found = commands(build(OVERLAY), **dict(line.split("=", 1) for line in lines))
        environment = read_unit("asynclave-supernode.service", {"node": node}).environment
        for container in ("supernode", "executor"):
            program, *arguments = found[f"supernode-0-{container}"]
            placed = [
                word.replace("/var/lib/asynclave/node", str(node))
                .replace("/run/asynclave", str(run))
                .replace("/etc/asynclave", str(node))
                for word in arguments
            ]
            home = {"FLWR_HOME": str(run / container)}
            machine.start(
                f"{name}-{container}", [str(BIN / program), *placed], environment | home, node
            )

    def _connect(self) -> None:
        home = self.folder / "operator"
        home.mkdir()
        ca = self.folder / "authority" / "ca.pem"
        (home / "config.toml").write_text(
            f'[superlink.fed]\naddress = "{self._network.server.address}:9092"\n'
            f'root-certificates = "{ca}"\n'
        )
        self._environment = {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PATH": f"{BIN}:/usr/bin:/bin:/usr/sbin:/sbin",
        }
        for key in sorted((self.folder / "superlink" / "nodes").iterdir()):
            self.flwr("supernode", "register", str(key), "fed")

    def flwr(self, *arguments: str) -> dict[str, object]:
        """Call `flwr` on the server's machine."""
        command = [str(BIN / "flwr"), *arguments, "--format", "json"]
        answer: dict[str, object] = json.loads(
            self._network.server.call(command, self._environment)
        )
        return answer

    def online(self) -> int:
        nodes = self.flwr("supernode", "list", "fed")["nodes"]
        assert isinstance(nodes, list)
        return sum(node["status"] == "online" for node in nodes)

    def run(self, output: Path, versions: int = VERSIONS) -> str:
        config = f'server-config="{self.folder}/server/server.json" output="{output}"'
        arguments = [str(APP), "fed", "--run-config", f"{config} versions={versions}"]
        return str(self.flwr("run", *arguments)["run-id"])

    def status(self, run: str) -> str:
        (found,) = self.flwr("ls", "fed", "--run-id", run)["runs"]  # type: ignore[misc]
        return str(found["status"])

    def log(self, run: str) -> str:
        """Return what the ServerApp wrote."""
        command = [str(BIN / "flwr"), "log", run, "fed", "--show"]
        return self._network.server.call(command, self._environment)

    def acknowledged(self, node: int) -> list[str]:
        path = self.nodes[node] / "acknowledged"
        return path.read_text().split() if path.exists() else []

    def trains(self, node: int) -> bool:
        return (self.nodes[node] / "training").exists()


def test_a_run_over_machines_survives_a_slow_a_dead_and_a_cut_off_one(tmp_path: Path) -> None:
    output = tmp_path / "model.bin"
    with Network(3, tmp_path) as network:
        # given a federation of which one machine has little bandwidth
        network.limit(SLOW, "1mbit")
        federation = Federation(tmp_path / "federation", network)
        wait_until(lambda: federation.online() == 3, 240, "connecting the nodes")
        # when one machine loses power while it trains
        run = federation.run(output)
        wait_until(lambda: federation.acknowledged(DYING), 240, "the first update")
        wait_until(lambda: federation.trains(DYING), 240, "the second task")
        network.nodes[DYING].kill()
        # and another one its connection
        wait_until(lambda: federation.trains(CUT_OFF), 240, "a task")
        with network.partitioned(CUT_OFF):
            time.sleep(PARTITION_SECONDS)
        # then the run ends with what it was asked for
        wait_until(
            lambda: federation.status(run).startswith("finished"), 400, "the rest of the run"
        )
        assert federation.status(run) == "finished:completed", federation.log(run)
        acknowledged = [update for node in range(3) for update in federation.acknowledged(node)]
    assert (
        network.server.name
        not in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
    )
    # and what the enclave signed verifies, each version of it
    records = output.with_suffix(".run")
    found = audit(records)
    assert found.flaw is None and found.version >= VERSIONS
    # and the server has the model that was released
    assert output.read_bytes() == (records / MODEL).read_bytes()
    assert json.loads(Path(f"{output}.json").read_text())["mean"] > 0
    # and everything acknowledged is in one version, or waits at its node for the next run's
    # (an update that is delivered again is acknowledged again, and counts once)
    assert len(set(acknowledged)) >= 2 * VERSIONS - 2
    signed = accepted_updates(records)
    assert len(set(signed)) == len(signed) == found.accepted
    assert set(found.released) <= set(signed)
    kept = {update for node in federation.nodes for update in kept_updates(node)}
    assert set(acknowledged) <= set(found.released) | kept
    assert len(set(signed) - set(found.released)) < 2


def test_a_run_survives_its_superlink_and_then_the_whole_server(tmp_path: Path) -> None:
    output = tmp_path / "model.bin"
    records = output.with_suffix(".run")
    with Network(2, tmp_path) as network:
        federation = Federation(tmp_path / "federation", network)
        wait_until(lambda: federation.online() == 2, 240, "connecting the nodes")
        # when the SuperLink dies in the middle of a run
        run = federation.run(output)
        wait_until(lambda: federation.acknowledged(0), 240, "the first update")
        network.server.stop(SUPERLINK)
        federation.start_superlink()
        # then the run goes on from its database
        wait_until(
            lambda: federation.status(run).startswith("finished"), 400, "the rest of the run"
        )
        assert federation.status(run) == "finished:completed", federation.log(run)
        first = audit(records)
        assert first.flaw is None and first.version >= VERSIONS
        # when the server loses power in the middle of another run of the same name
        before = len(federation.acknowledged(0))
        federation.run(output, first.version + 2 * VERSIONS)
        wait_until(lambda: len(federation.acknowledged(0)) > before + 1, 400, "more updates")
        network.server.kill()
        lost = len(accepted_updates(records))
        federation.start_server()
        wait_until(lambda: federation.online() == 2, 240, "connecting the nodes again")
        # then it is taken up where it was, in a new enclave
        again = federation.run(output, first.version + 2 * VERSIONS)
        wait_until(lambda: federation.status(again).startswith("finished"), 400, "the last run")
        assert federation.status(again) == "finished:completed", federation.log(again)
        acknowledged = [update for node in range(2) for update in federation.acknowledged(node)]
    found = audit(records)
    assert found.flaw is None and len(found.enclaves) == 2
    assert found.version >= first.version + 2 * VERSIONS
    signed = accepted_updates(records)
    assert len(signed) > lost > first.accepted
    assert len(set(found.released)) == len(found.released)
    kept = {update for node in federation.nodes for update in kept_updates(node)}
    assert set(acknowledged) <= set(found.released) | kept


def accepted_updates(records: Path) -> list[str]:
    """Return the ids of the updates that the enclave signed for as accepted."""
    lines = (records / CHAIN).read_bytes().splitlines()
    read = [Link.of(decode_record(line)).record for line in lines]
    return [r.update_id for r in read if isinstance(r, Receipt) and r.outcome == ACCEPTED]


def kept_updates(node: Path) -> list[str]:
    """Return the ids of the updates that a node keeps until it has seen them in a release."""
    files = (node / "identity" / "outbox").rglob("*.update")
    return [json.loads(file.read_bytes().partition(b"\n")[0])["update_id"] for file in files]
