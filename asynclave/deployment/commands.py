"""`asynclave up` and `asynclave down`; their errors are `AsynclaveError`s."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from asynclave.deployment.control import Deployment

_StateDir = Annotated[Path, typer.Option(help="Directory for keys, configuration and logs.")]
_STATE_DIR = Path(".asynclave")
_APP = Path("experiments/quickstart")


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
    app: Annotated[Path, typer.Option(help="Flower app named in the printed command.")] = _APP,
) -> None:
    """Start SuperLink, SuperNodes, gateway and enclave on this machine."""
    # Imported here so that --help stays quick.
    from asynclave.deployment.control import up

    deployment = up(
        state_dir,
        nodes,
        confidential,
        buffer_size=buffer_size,
        slow_node=slow_node,
        slow_delay=slow_delay,
        port=port,
    )
    typer.echo(_description(deployment, app))


def down_command(state_dir: _StateDir = _STATE_DIR) -> None:
    """Stop what `asynclave up` started."""
    from asynclave.deployment.control import down

    typer.echo("Stopped." if down(state_dir) else "Nothing to stop.")


def _description(deployment: Deployment, app: Path) -> str:
    status, spec = deployment.status, deployment.spec
    slow = "" if spec.slow_node is None else f", node-{spec.slow_node} is slow"
    return "\n".join(
        [
            f"SuperLink   {status.superlink} (TLS, node authentication)",
            f"SuperNodes  {spec.nodes}{slow}",
            f"Gateway     {status.gateway or 'none: updates travel in Flower messages'}",
            *(["Enclave     simulated TEE, opted in"] if spec.confidential else []),
            f"State       {deployment.state.root}",
            f"Run         {deployment.run_command(app)}",
        ]
    )
