"""Every command line of the units and manifests against the parser that will read it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from asynclave.deployment.federation import FederationSpec, init
from fl_client.warm.superexec import parser as warm_parser
from fl_server.gateway.config import GatewayConfig
from fl_server.intake.config import ServerConfig
from tee_sim.launcher_config import LauncherConfig
from tee_sim.node_config import NodeConfig
from tests.deploy.kustomize import OVERLAY, build, commands
from tests.deploy.units import NAMES, UNITS, read_unit
from tests.support import envoy

# Their packages give the functions of the same names.
superexec, supernode, superlink = (
    import_module(f"flwr.{package}.cli.flower_{name}")
    for package, name in (
        ("supercore", "superexec"),
        ("supernode", "supernode"),
        ("superlink", "superlink"),
    )
)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lines") / "fed"
    init(folder, FederationSpec(nodes=2, hosts=("asynclave",)))
    # What docs/how-to/scale-out.md has installed there.
    (folder / "envoy").mkdir()
    for name in ("ca.pem", "server.pem", "server.key"):
        shutil.copy(folder / "trusted" / name, folder / "envoy")
    return folder


def folders(federation: Path) -> dict[str, Path]:
    return {
        **{name: federation / name for name in ("superlink", "trusted", "server", "envoy")},
        "node": federation / "nodes" / "node-1",
    }


def of_units(federation: Path) -> dict[str, list[str]]:
    return {name: read_unit(name, folders(federation), instance="0").command for name in NAMES}


def of_manifests() -> dict[str, list[str]]:
    return commands(build(OVERLAY))


def read_by(command: list[str], folder: Path) -> None:
    """Have a command read by the parser of the program that it starts; raises if it does not."""
    program, *arguments = command
    name = Path(program).name
    if name == "python":
        assert arguments.pop(0) == SAFE_PATH
    if arguments[:1] == ["-m"]:
        _, name, *arguments = arguments
    elif name == "python":
        name, *arguments = Path(arguments[0]).name, *arguments[1:]
    assert READERS[name](arguments, folder) is not None


def configured(kind: type[LauncherConfig | GatewayConfig]) -> Callable[[list[str], Path], object]:
    def read(arguments: list[str], trusted: Path) -> object:
        (file,) = arguments
        return kind.load(trusted / file)

    return read


def warm(arguments: list[str], _: Path) -> object:
    own, of_flower = warm_parser().parse_known_args(arguments)
    assert own.preload
    return superexec._parse_args().parse_args(of_flower)


def node(arguments: list[str], _: Path) -> object:
    options = supernode._parse_args_run_supernode().parse_args(arguments)
    config = supernode.parse_config_args([options.node_config])
    assert set(config) == {"asynclave-config", "partition-id", "num-partitions"}
    assert int(config["partition-id"]) < int(config["num-partitions"])
    return options


def envoys(arguments: list[str], _: Path) -> object:
    if not envoy.PROGRAM.exists():
        pytest.skip(envoy.REASON)
    command = [str(envoy.PROGRAM), *arguments, "--mode", "validate"]
    said = subprocess.run(command, capture_output=True, text=True)
    # It understands the line, and then misses the file that `render.py` is to print.
    assert "PARSE ERROR" not in said.stderr and arguments[1] in said.stderr, said.stderr
    return said


def key_set(arguments: list[str], trusted: Path) -> object:
    assert (UNITS.parent / "envoy" / "fetch_jwks.py").exists()
    # Nothing of deploy/ is in the package: the page puts it there.
    assert "cp -r deploy/envoy /opt/asynclave/deploy/" in DEPLOY_PAGE.read_text()
    _, ca, _ = arguments
    assert (trusted / ca).exists()
    return arguments


READERS: dict[str, Callable[[list[str], Path], object]] = {
    "flower-superlink": lambda a, _: superlink._parse_args_run_superlink().parse_args(a),
    "flower-superexec": lambda a, _: superexec._parse_args().parse_args(a),
    "envoy": envoys,
    "fetch_jwks.py": key_set,
    "fl_client.supernode": node,
    "fl_client.warm": warm,
    "fl_server.gateway": configured(GatewayConfig),
    "tee_sim.launcher": configured(LauncherConfig),
}


def test_python_never_imports_from_the_folder_that_it_starts_in(federation: Path) -> None:
    # Others may write there; what they plant would run as whoever the unit or container is.
    found = {**of_units(federation), **of_manifests()}
    pythons = {name: line for name, line in found.items() if Path(line[0]).name == "python"}
    assert len(pythons) >= 10
    assert [name for name, line in pythons.items() if line[1] != SAFE_PATH] == []
    texts = [p.read_text() for p in UNITS.parent.rglob("*") if p.suffix in (".service", ".yaml")]
    # None is hidden in a script either, where the lines above do not look.
    written = [rest for text in texts for rest in re.findall(r"bin/python\d?(.*)", text)]
    assert len(written) >= 5 and all(rest.startswith(f" {SAFE_PATH} ") for rest in written)


@pytest.mark.parametrize("unit", NAMES)
def test_a_units_command_is_understood(unit: str, federation: Path) -> None:
    read_by(of_units(federation)[unit], federation / "trusted")


@pytest.mark.parametrize("container", of_manifests())
def test_a_manifests_command_is_understood(container: str, federation: Path) -> None:
    read_by(of_manifests()[container], federation / "trusted")


def test_a_supernode_takes_the_warm_executor_of_its_machine(federation: Path) -> None:
    executor = (UNITS / "asynclave-executor.service").read_text()
    (line,) = [text for text in executor.splitlines() if "SUPERNODE_OPTIONS=" in text]
    options = line.partition("SUPERNODE_OPTIONS=")[2]
    name = "asynclave-supernode.service"
    places = folders(federation)
    cold = read_unit(name, places).command
    warm = read_unit(name, places, environment={"SUPERNODE_OPTIONS": options}).command
    read_by(warm, federation / "trusted")
    secret = "executor.key"
    assert len(warm) == len(cold) + 4 and secret in warm
    assert secret in read_unit("asynclave-executor.service", places).command


def test_an_option_that_does_not_exist_would_be_found(federation: Path) -> None:
    command = [*of_manifests()["superlink-superlink"], "--no-such-option"]
    with pytest.raises(SystemExit):
        read_by(command, federation / "trusted")


def test_the_files_that_units_name_come_from_init(federation: Path) -> None:
    units = [read_unit(name, folders(federation), instance="0") for name in NAMES]
    named = [unit.folder / word for unit in units for word in unit.command if FILE.search(word)]
    made_by_init = [file for file in named if file.name not in MADE_LATER]
    assert len(made_by_init) >= 10
    assert [file for file in made_by_init if not file.exists()] == []


DEPLOY_PAGE = UNITS.parents[1] / "docs" / "how-to" / "deploy.md"
MADE_LATER = {"state.db", "executor.key", "jwks.json"}
SAFE_PATH = "-P"
FILE = re.compile(r"^[\w./-]+\.(pem|key|json|db)$")


def test_bundles_are_where_the_manifests_put_them(federation: Path) -> None:
    # Names of files that manifests read out of Secrets made from these folders.
    assert {"superexec.key", "ca.pem", "server.pem", "server.key"} <= {
        path.name for path in (federation / "superlink").iterdir()
    }
    assert ServerConfig.load(federation / "server" / "server.json").gateway == "asynclave:9443"
    bundle = federation / "nodes" / "node-0"
    assert NodeConfig.load(bundle / "client.json").gateway == "asynclave:9443"
    assert (bundle / "node.env").read_text().startswith("ASYNCLAVE_SUPERLINK=asynclave:9092\n")
