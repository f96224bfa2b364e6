"""The clients' logs against the server's records: what was lost, and what counted twice."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from asynclave.chaos.real.federation import Federation
from asynclave.chaos.real.settings import RUN, ProcessConfig, recipe
from asynclave.verification.audit import audit
from fl_client.config import ClientConfig
from fl_client.uploader import SealedUploader
from fl_protocol.codes import UpdateRejected
from fl_server.intake.sealed import SealedIntake
from strategies.update import Vector


@dataclass(frozen=True)
class Verdict:
    """What the records say.

    Attributes
    ----------
    acknowledged : int
        Distinct updates that a client was told were accepted.
    released, waiting : int
        Of these, in a release, and in the enclave's buffer at the end.
    lost : tuple of str
        Neither; must be none.
    versions, enclaves : int
        Released, and run in.
    flaw : str
        The first thing `asynclave verify-run` objects to, an update in two releases for one.
    """

    acknowledged: int
    released: int
    waiting: int
    lost: tuple[str, ...]
    versions: int
    enclaves: int
    flaw: str


def settle(federation: Federation) -> set[str]:
    """Let every client deliver what it still has; returns the updates that wait for a release."""
    waiting: set[str] = set()
    for bundle in federation.client_bundles:
        uploader = SealedUploader(ClientConfig.load(bundle))
        try:
            with contextlib.suppress(UpdateRejected):
                # What waits for its release bars the node from any other model.
                uploader.settle(RUN, "")
            waiting.update(kept.update_id for kept in uploader.outbox.of(RUN))
        finally:
            uploader.close()
    return waiting


def judge(federation: Federation, config: ProcessConfig, initial: Vector) -> Verdict:
    """Take the run up once more, write its last records down, and hold the logs against them."""
    intake = SealedIntake(
        federation.server_bundle, recipe(), state_folder=Path(federation.run_folder)
    )
    try:
        intake.open(RUN, config.layout, initial)
        # Twice: what completes a buffer is released between the two.
        settle(federation)
        waiting = settle(federation)
        intake.catch_up()
    finally:
        intake.close()
    found = audit(federation.run_folder)
    acknowledged = {entry.update for entry in federation.acknowledgements()}
    released = acknowledged & found.released.keys()
    lost = acknowledged - released - waiting
    return Verdict(
        len(acknowledged),
        len(released),
        len(acknowledged & waiting - released),
        tuple(sorted(lost)),
        found.version,
        len(found.enclaves),
        "" if found.flaw is None else f"record {found.flaw.index}: {found.flaw.detail}",
    )
