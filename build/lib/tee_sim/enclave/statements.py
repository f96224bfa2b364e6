"""The enclave's records before the ledger gives them their place in the chain."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from fl_protocol.header import Header
from fl_protocol.receipts import (
    GENESIS,
    Opening,
    Receipt,
    Release,
    UpdateStatus,
    updates_digest,
)
from tee_sim.enclave.run import Merged, Run
from tee_sim.policy import EnclavePolicy

_UNPLACED: MappingProxyType[str, Any] = MappingProxyType({"epoch": 0, "seq": 0, "prev": GENESIS})


def opening_of(run: Run, policy: EnclavePolicy, now: float) -> Opening:
    """Return the record of a run opened at its present version; `now` in Unix seconds."""
    return Opening(
        v=1,
        run_id=run.run_id,
        version=run.engine.version,
        model_digest=run.model_digest(),
        manifest_digest=run.layout.digest,
        continues=run.continues,
        iat=int(now),
        policy_digest=policy.digest,
        **_UNPLACED,
    )


def receipt_of(
    run: Run, header: Header, body_digest: str, outcome: str, staleness: int, now: float
) -> Receipt:
    """Return the receipt of an authenticated update: "accepted" or a refusal's code."""
    return Receipt(
        v=1,
        federation=header.federation,
        run_id=header.run_id,
        client_id=header.client_id,
        update_id=header.update_id,
        body_digest=body_digest,
        base_version=header.base_version,
        outcome=outcome,
        staleness=staleness,
        version=run.engine.version,
        iat=int(now),
        trace_id=header.trace_id,
        **_UNPLACED,
    )


def release_of(run: Run, merged: Merged, policy: EnclavePolicy, now: float) -> Release:
    """Return the record of a released model."""
    merge = merged.merge
    return Release(
        v=1,
        run_id=run.run_id,
        version=merge.version,
        model_digest=merge.digest,
        manifest_digest=run.layout.digest,
        updates_digest=updates_digest(merge.consumed),
        num_updates=len(merge.consumed),
        num_clients=merged.num_clients,
        epsilon=merged.epsilon,
        iat=int(now),
        policy_digest=policy.digest,
        **_UNPLACED,
    )


def status_of(run: Run, client: str, update_id: str, nonce: str, now: float) -> UpdateStatus:
    """Return what became of a client's update, for whoever asked with this nonce."""
    return UpdateStatus(
        v=1,
        run_id=run.run_id,
        client_id=client,
        update_id=update_id,
        state=run.standing(client, update_id).value,
        nonce=nonce,
        epoch=0,
        iat=int(now),
    )
