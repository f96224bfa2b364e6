"""`asynclave init`, `asynclave up` and `asynclave down`; their errors are `AsynclaveError`s."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_protocol.codes import Code, ConfigInvalid

if TYPE_CHECKING:
    from asynclave.deployment.control import Deployment

_StateDir = Annotated[Path, typer.Option(help="Directory for keys, configuration and logs.")]
_STATE_DIR = Path(".asynclave")
_APP = Path("experiments/quickstart")


def init_command(
    directory: Annotated[Path, typer.Argument(help="New or empty directory.")],
    nodes: Annotated[int, typer.Option(min=2, help="Number of nodes.")],
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name or address of the server's machine; the nodes use the first."),
    ] = None,
    gateways: Annotated[
        int, typer.Option(min=1, help="Gateways that share the enclave, behind a proxy.")
    ] = 1,
    buffer_size: Annotated[int, typer.Option(min=2, help="Updates per released model.")] = 2,
    federation: Annotated[str, typer.Option(help="Name of the federation.")] = "local",
    gateway_port: Annotated[int, typer.Option(min=1, max=65535)] = 9443,
    superlink_port: Annotated[int, typer.Option(min=1, max=65535)] = 9092,
    ticket_hours: Annotated[float, typer.Option(min=0, help="Life of the tickets.")] = 72.0,
) -> None:
    """Make keys, certificates and one bundle per node for a federation on several machines."""
    from asynclave.deployment.federation import FederationSpec, init

    spec = FederationSpec(
        nodes=nodes,
        hosts=tuple(host or ()),
        gateways=gateways,
        buffer_size=buffer_size,
        federation=federation,
        gateway_port=gateway_port,
        superlink_port=superlink_port,
        ticket_hours=ticket_hours,
    )
    made = init(directory, spec)
    typer.echo(_next_steps(directory) if made else f"{directory} was made before; nothing changed.")


def up_command(
    state_dir: _StateDir = _STATE_DIR,
    nodes: Annotated[int, typer.Option(min=1, help="Number of SuperNodes.")] = 3,
    confidential: Annotated[
        bool, typer.Option("--confidential/--plain", help="Seal updates to an enclave.")
    ] = True,
    buffer_size: Annotated[int, typer.Option(min=1, help="Updates per released model.")] = 2,
    slow_node: Annotated[
        int | None, typer.Option(min=0, help="Index of a node to make slow.")
    ] = None,
    slow_delay: Annotated[float, typer.Option(min=0, help="Its extra seconds per task.")] = 2.0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="SuperLink's port; 0: any.")] = 0,
    warm: Annotated[
        bool, typer.Option("--warm", help="Fork tasks from a process with the imports done.")
    ] = False,
    preload: Annotated[
        list[str] | None, typer.Option(help="Module to import there; may be repeated.")
    ] = None,
    app: Annotated[
        Path | None,
        typer.Option(help="Flower app named in the printed command.", show_default=str(_APP)),
    ] = None,
) -> None:
    """Start SuperLink, SuperNodes, gateway and enclave on this machine."""
    # Imported here so that --help stays quick.
    from asynclave.deployment.control import up

    named = _app_named(app)
    deployment = up(
        state_dir,
        nodes,
        confidential,
        buffer_size=buffer_size,
        slow_node=slow_node,
        slow_delay=slow_delay,
        port=port,
        warm=warm,
        preload=tuple(preload or ()),
    )
    typer.echo(_description(deployment, named))


def down_command(state_dir: _StateDir = _STATE_DIR) -> None:
    """Stop what `asynclave up` started."""
    from asynclave.deployment.control import down

    typer.echo("Stopped." if down(state_dir) else "Nothing to stop.")


def _app_named(app: Path | None) -> Path:
    """Return where the app lies, so that its command works in any folder; APP if nobody said."""
    named = app or _APP
    if (named / "pyproject.toml").is_file():
        return named.resolve()
    if app is not None:
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"--app: {app} is no Flower app, it has no pyproject.toml."
        )
    return Path("APP")


def _next_steps(directory: Path) -> str:
    return "\n".join(
        [
            f"{directory}/authority   put it away; no machine needs it",
            f"{directory}/superlink   to the SuperLink's machine",
            f"{directory}/trusted     to the machine of gateway and enclave",
            f"{directory}/server      to where the ServerApp runs",
            f"{directory}/nodes/NAME  to that node alone, over a channel that keeps it secret",
            "The TEE is simulated, and every bundle opts in to that.",
        ]
    )


def _description(deployment: Deployment, app: Path) -> str:
    status, spec = deployment.status, deployment.spec
    slow = "" if spec.slow_node is None else f", node-{spec.slow_node} is slow"
    warm = ", tasks forked from a warm process" if spec.warm else ""
    return "\n".join(
        [
            f"SuperLink   {status.superlink} (TLS, node authentication)",
            f"SuperNodes  {spec.nodes}{slow}{warm}",
            f"Gateway     {status.gateway or 'none: updates travel in Flower messages'}",
            *(["Enclave     simulated TEE, opted in"] if spec.confidential else []),
            *([f"Ended       {', '.join(status.ended)}: see the logs"] if status.ended else []),
            f"State       {deployment.state.root} (logs in {deployment.state.logs.name})",
            f"Run         {deployment.run_command(app)}",
        ]
    )
