"""A small federation over a real gateway and a real enclave process."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from flwr.app import ConfigRecord, RecordDict

from fl_client.config import ClientConfig
from fl_client.outbox import Kept
from fl_client.sealing import submit_messages
from fl_client.updates import LocalUpdate, Uploaded
from fl_client.uploader import SealedUploader
from fl_protocol.envelope import SealedUpdate, seal
from fl_protocol.flower import RECEIPT, receipt_entries
from fl_protocol.identity import Identity
from fl_protocol.ports import SystemClock, SystemRng
from fl_protocol.proof import ProofNonces, make_proof
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.proto.gateway_pb2_grpc import GatewayStub
from fl_protocol.wire import CODE_METADATA, SERVICE
from fl_server.intake.base import Outcome
from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack
from fl_server.stack.keys import HOP_KEY
from strategies.layout import Layout
from strategies.recipes.fedbuff import FedBuff
from strategies.update import Vector, digest_of
from tee_sim.settings import load_key

K = 2
ARRAYS = {
    "weight": np.arange(12, dtype=np.float32).reshape(3, 4) / 8,
    "bias": np.zeros(4, np.float32),
    "steps": np.array(3, np.int64),
}
LAYOUT = Layout.of(ARRAYS)
# Plain averaging, so that a test can say what a merge must be.
RECIPE = FedBuff(buffer_size=K, staleness_exponent=0.0, server_lr=1.0)


TASK = "0" * 64


def initial() -> Vector:
    return LAYOUT.flatten(ARRAYS)


def open_run(stack: LocalStack, run_id: str, **options: Any) -> SealedIntake:
    """Open a run; the server of one stack keeps its identity between calls."""
    intake = SealedIntake(stack.server_config(), RECIPE, **options)
    intake.open(run_id, LAYOUT, initial())
    return intake


def client(stack: LocalStack, name: str, gateway: str | None = None) -> SealedUploader:
    """A node, of the first gateway or of the one at an address."""
    config = ClientConfig.load(stack.client_config(name))
    return SealedUploader(dataclasses.replace(config, gateway=gateway or config.gateway))


def trained(
    run_id: str,
    delta: Vector | float,
    *,
    version: int = 0,
    base: Vector | None = None,
    num_examples: int = 10,
) -> LocalUpdate:
    vector = np.full(LAYOUT.num_params, delta, np.float32) if isinstance(delta, float) else delta
    base_digest = digest_of(initial() if base is None else base)
    return LocalUpdate(run_id, version, base_digest, LAYOUT.digest, TASK, vector, num_examples)


def sealed_by(uploader: SealedUploader, update: Any, **changes: Any) -> tuple[SealedUpdate, bytes]:
    """Seal as the uploader does, with header members changed before signing."""
    enrolment = uploader._session.enrol()
    attested = uploader._connection.attestor.current()
    kept = Kept(uploader._rng.bytes(8).hex(), update, {})
    header = uploader._sealer.header(kept, enrolment, attested)
    header = dataclasses.replace(header, **changes)
    delta = memoryview(update.delta)
    key = uploader._sealer._identity.identity_key
    return seal(header, delta, attested.hpke_key, key, uploader._rng), enrolment.membership


def submit(uploader: SealedUploader, sealed: SealedUpdate, membership: bytes) -> Any:
    return uploader._session.call("SubmitUpdate", lambda: submit_messages(sealed, membership))


def reply_with(uploaded: Uploaded) -> RecordDict:
    entries = receipt_entries(uploaded.receipt.outcome, uploaded.signed)
    return RecordDict({RECEIPT: ConfigRecord(dict(entries))})


def offer(intake: SealedIntake, node: str, uploaded: Uploaded, version: int = 0) -> Outcome:
    return intake.offer(reply_with(uploaded), node, version, initial(), now=0.0)


class RawGateway:
    """Calls with hand-made credentials; a refusal's code is returned, not raised."""

    def __init__(
        self, stack: LocalStack, address: str | None = None, identity: Identity | None = None
    ) -> None:
        self.address = address or stack.address
        self.identity = identity or Identity.generate(SystemRng())
        self.nonces = ProofNonces(load_key(stack.state_dir / HOP_KEY), SystemClock())
        credentials = grpc.ssl_channel_credentials(stack.ca_pem)
        self._channel = grpc.secure_channel(
            self.address, credentials, [("grpc.enable_http_proxy", 0)]
        )
        self._stub: Any = GatewayStub(self._channel)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._channel.close()

    def proof(self, method: str, token: str | None, identity: Identity | None = None) -> str:
        key = (identity or self.identity).proof_key
        return make_proof(
            key, SERVICE + method, token, SystemClock(), SystemRng(), self.nonces.current()
        )

    def call(
        self,
        method: str,
        request: Any,
        token: str | None = None,
        *,
        proof: str | None = None,
        metadata: Sequence[tuple[str, str]] | None = None,
        timeout: float = 20,
    ) -> Any:
        """Return the reply, or the refusal's code."""
        if metadata is None:
            metadata = [("dpop", self.proof(method, token) if proof is None else proof)]
            if token is not None:
                metadata.append(("authorization", f"DPoP {token}"))
        try:
            reply = getattr(self._stub, method)(request, metadata=metadata, timeout=timeout)
            return list(reply) if method == "GetRelease" else reply
        except grpc.RpcError as error:
            trailing = dict(error.trailing_metadata() or ())
            return trailing.get(CODE_METADATA, str(error.code()))

    def enrol(self, ticket: str) -> Any:
        request = pb.EnrolRequest(
            ticket=ticket,
            identity_key=self.identity.public_identity_key,
            proof_key=self.identity.public_proof_key,
            signature=self.identity.sign_enrolment(ticket),
        )
        return self.call("Enrol", request)

    def refresh(self, client_id: str, refresh_token: str) -> Any:
        request = pb.TokenRequest(
            client_id=client_id,
            refresh_token=refresh_token,
            proof_key=self.identity.public_proof_key,
        )
        return self.call("IssueToken", request)

    def by_identity(self, client_id: str, nonce: bytes, iat: int | None = None) -> Any:
        when = int(SystemClock().now()) if iat is None else iat
        grant = pb.IdentityGrant(
            iat=when, nonce=nonce, signature=self.identity.sign_grant(client_id, when, nonce)
        )
        request = pb.TokenRequest(
            client_id=client_id, identity=grant, proof_key=self.identity.public_proof_key
        )
        return self.call("IssueToken", request)


def reader_of(stack: LocalStack, name: str, address: str | None = None) -> tuple[RawGateway, str]:
    """Return a second server's connection and access token: what may read releases."""
    raw = RawGateway(stack, address)
    enrolled = raw.enrol(stack.ticket("server", name))
    return raw, raw.refresh(enrolled.client_id, enrolled.refresh_token).access_token


def audit_lines(stack: LocalStack) -> str:
    return Path(stack.state_dir / "audit.jsonl").read_text()
