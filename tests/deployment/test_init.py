from __future__ import annotations

import math
import os
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from asynclave.cli import app
from asynclave.deployment.errors import DeploymentCode, DeploymentError
from asynclave.deployment.federation import FederationSpec, init
from fl_protocol.codes import ConfigInvalid, StorageFailed
from fl_server.gateway.config import GatewayConfig
from fl_server.intake.config import ServerConfig
from fl_server.stack.pki import Authority
from tee_sim.launcher_config import LauncherConfig
from tee_sim.node_config import NodeConfig

SPEC = FederationSpec(nodes=3, hosts=("cloud.example.org", "10.0.0.1"), gateways=2, buffer_size=2)
SECRET = ("*.key", "client.json", "server.json", "registry.sqlite*")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("init") / "fed"
    assert init(folder, SPEC)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_node_gets_exactly_what_it_needs(made: Path) -> None:
    names = {path.name for path in (made / "nodes" / "node-1").iterdir()}
    assert names == {"ca.pem", "client.json", "flower.key", "flower.pub", "node.env"}
    bundle = NodeConfig.load(made / "nodes" / "node-1" / "client.json")
    assert bundle.gateway == "cloud.example.org:9443"
    assert bundle.ca_pem == (made / "authority" / "ca.pem").read_text()
    assert bundle.trust_policy().guardrails.k_min == 2
    environment = (made / "nodes" / "node-1" / "node.env").read_text()
    assert "ASYNCLAVE_SUPERLINK=cloud.example.org:9092\n" in environment
    assert "ASYNCLAVE_PARTITION=1\n" in environment


def test_every_node_has_its_own_ticket_and_key(made: Path) -> None:
    nodes = [made / "nodes" / name for name in SPEC.names]
    assert len({NodeConfig.load(node / "client.json").ticket for node in nodes}) == 3
    assert len({(node / "flower.key").read_bytes() for node in nodes}) == 3
    registered = {path.read_bytes() for path in (made / "superlink" / "nodes").iterdir()}
    assert registered == {(node / "flower.pub").read_bytes() for node in nodes}


def test_secrets_are_readable_by_their_owner_only(made: Path) -> None:
    secrets = [path for pattern in SECRET for path in made.rglob(pattern)]
    # authority, superlink and trusted; issuer, token, hop and platform; nodes; bundles; registry
    assert len(secrets) >= 3 + 4 + 3 + 4 + 1
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_no_secret_of_the_server_is_in_a_nodes_folder(made: Path) -> None:
    of_server = {
        path.read_bytes()
        for name in ("authority", "superlink", "trusted")
        for path in (made / name).rglob("*.key")
    }
    for content in contents(made / "nodes").values():
        assert not any(secret in content for secret in of_server)


def test_certificates_name_every_host_and_come_from_the_authority(made: Path) -> None:
    authority = x509.load_pem_x509_certificate((made / "authority" / "ca.pem").read_bytes())
    for name in ("superlink", "trusted"):
        certificate = x509.load_pem_x509_certificate((made / name / "server.pem").read_bytes())
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert {"cloud.example.org", "localhost"} <= set(names.get_values_for_type(x509.DNSName))
        addresses = map(str, names.get_values_for_type(x509.IPAddress))
        assert {"10.0.0.1", "127.0.0.1"} <= set(addresses)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made / name / "server.pem", made / name / "server.key")


def test_the_authority_can_issue_again(made: Path, tmp_path: Path) -> None:
    loaded = Authority.load(made / "authority")
    before = x509.load_pem_x509_certificate((made / "trusted" / "server.pem").read_bytes())
    again = loaded.issue(tmp_path, ("cloud.example.org",), before.not_valid_before_utc)
    certificate = x509.load_pem_x509_certificate(again.certificate.read_bytes())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(loaded.pem))
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    with pytest.raises(ConfigInvalid, match="no certificate authority"):
        Authority.load(tmp_path)


def test_folders_can_be_moved(made: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("gateway-1.json", "launcher.json"):
        (moved / name).write_bytes((made / "trusted" / name).read_bytes())
    gateway = GatewayConfig.load(moved / "gateway-1.json")
    launcher = LauncherConfig.load(moved / "launcher.json")
    # The nodes reach the proxy in front, which is the only one to say where they are.
    assert gateway.port == 9445 and gateway.host == "127.0.0.1" and gateway.behind_proxy
    assert gateway.launcher_socket == launcher.socket == str(moved / "launcher.sock")
    assert ServerConfig.load(made / "server" / "server.json").records_dir == str(
        made / "server" / "records"
    )


def test_the_same_again_changes_nothing(made: Path) -> None:
    before = contents(made)
    assert init(made, SPEC) is False
    assert contents(made) == before


def test_another_federation_in_the_folder_is_refused(made: Path) -> None:
    before = contents(made)
    other = FederationSpec(nodes=4, hosts=SPEC.hosts, gateways=2, buffer_size=2)
    with pytest.raises(DeploymentError, match="other nodes") as refusal:
        init(made, other)
    assert refusal.value.code == DeploymentCode.STATE_DIR_IN_USE
    assert contents(made) == before


def test_a_folder_with_files_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(DeploymentError, match="not a federation's") as refusal:
        init(tmp_path, SPEC)
    assert refusal.value.code == DeploymentCode.STATE_DIR_IN_USE
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_contradicting_choices_are_refused() -> None:
    with pytest.raises(ConfigInvalid, match=r"2 to 3 .*nodes"):
        FederationSpec(nodes=3, buffer_size=4)
    with pytest.raises(ConfigInvalid, match="neither a DNS name"):
        FederationSpec(nodes=3, hosts=("cloud.example.org:9092",))
    with pytest.raises(ConfigInvalid, match="9092"):
        FederationSpec(nodes=3, gateways=2, gateway_port=9091)
    with pytest.raises(ConfigInvalid, match="65534"):
        FederationSpec(nodes=3, gateways=3, gateway_port=65534)


@pytest.mark.parametrize(
    "host", ["256.1.1.1", "10.0.0", "010.0.0.1", "example.-org", "::1", "a..b", "x" * 64, "x\n"]
)
def test_what_no_certificate_could_name_is_refused(host: str) -> None:
    with pytest.raises(ConfigInvalid, match="neither a DNS name"):
        FederationSpec(nodes=2, hosts=(host,))


@pytest.mark.parametrize(
    "host", ["10.0.0.255", "cloud-1.example.org", "1st", "3.example", "x" * 63]
)
def test_names_and_addresses_are_taken(host: str) -> None:
    assert FederationSpec(nodes=2, hosts=(host,)).host == host


@pytest.mark.parametrize("hours", [math.nan, math.inf, 0.0, -1.0])
def test_tickets_that_are_never_or_always_good_are_refused(hours: float) -> None:
    with pytest.raises(ConfigInvalid, match="ticket"):
        FederationSpec(nodes=2, ticket_hours=hours)


def test_a_name_that_no_update_could_carry_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="federation"):
        init(tmp_path / "fed", FederationSpec(nodes=2, federation="my hospitals"))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match="file/fed"):
        init(tmp_path / "file" / "fed", SPEC)


def test_a_folder_that_cannot_even_be_looked_at_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="xxx"):
        init(tmp_path / ("x" * 300), SPEC)


def test_the_command_says_what_goes_where(tmp_path: Path) -> None:
    arguments = ["init", str(tmp_path / "fed"), "--nodes", "2", "--host", "cloud.example.org"]
    first, second = (CliRunner().invoke(app, arguments) for _ in range(2))
    assert first.exit_code == second.exit_code == 0
    assert "to that node alone" in first.output
    assert "nothing changed" in second.output
