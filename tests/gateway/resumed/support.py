"""A server that is left as a kill would leave it, and started again."""

from __future__ import annotations

from pathlib import Path

from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack, StackSettings
from tests.support.sealed import LAYOUT, RECIPE, K, client, initial, offer, trained

RUN = "kept"
SETTINGS = StackSettings(recipe=RECIPE, k=K, node_patience=20.0, run_patience=10.0)


def server(stack: LocalStack, folder: Path, **options: object) -> SealedIntake:
    intake = SealedIntake(
        stack.server_config(), RECIPE, state_folder=folder, watch_interval=3600, **options
    )
    intake.open(RUN, LAYOUT, initial())
    return intake


def abandon(intake: SealedIntake) -> None:
    """Let go of a server as a kill would: without a word to anybody."""
    intake._stopped.set()
    intake._stack.close()


def fill_buffer(stack: LocalStack, intake: SealedIntake) -> None:
    """Have as many clients contribute as it takes for version 1."""
    for number in range(K):
        uploaded = client(stack, f"node-{number}").upload(trained(RUN, 1.0))
        assert offer(intake, str(number), uploaded).accepted
