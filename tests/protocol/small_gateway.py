"""A small gateway over real gRPC and TLS, for the session's tests.

Tokens, proofs and grants are verified by the real verifiers; only storage is a dictionary. What it
answers next can be scripted with `fail_next`.
"""

from __future__ import annotations

from collections import Counter
from concurrent import futures

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import (
    AsynclaveError,
    Code,
    EnrolmentRejected,
    ProofRejected,
    TokenRejected,
)
from fl_protocol.identity import verify_enrolment, verify_grant
from fl_protocol.proof import ProofNonces, ProofVerifier, thumbprint
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.proto import gateway_pb2_grpc
from fl_protocol.tokens import TokenSigner, TokenVerifier
from fl_protocol.wire import CODE_METADATA, NONCE_METADATA, SERVICE

TICKET = "ticket-1"
TTL = 300


class SmallGateway(gateway_pb2_grpc.GatewayServicer):
    def __init__(self, certificate, clock, rng):
        self._certificate = certificate
        self._clock = clock
        self._rng = rng
        self._use_signing_key("key-1")
        self._proofs = ProofVerifier(clock)
        self._identities = {}
        self._refresh_tokens = set()
        self._failures = []
        self._server = None
        self.calls = Counter()
        self.grants = []
        self.metadata = {}

    def start(self, port=0):
        self._server = grpc.server(
            futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)]
        )
        gateway_pb2_grpc.add_GatewayServicer_to_server(self, self._server)
        port = self._server.add_secure_port(f"localhost:{port}", self._certificate)
        self._server.start()
        return f"localhost:{port}"

    def stop(self):
        self._server.stop(0).wait()

    def fail_next(self, method, *failures):
        """Script (status, code or None) answers for the next calls of a method."""
        self._failures.extend((method, *failure) for failure in failures)

    def ask_for_nonces(self):
        nonces = ProofNonces(self._rng.bytes(32), self._clock)
        self._proofs = ProofVerifier(self._clock, nonces=nonces)

    def forget_refresh_tokens(self):
        self._refresh_tokens.clear()

    def rotate_signing_key(self):
        self._use_signing_key("key-2")

    def _use_signing_key(self, kid):
        key = Ed25519PrivateKey.from_private_bytes(self._rng.bytes(32))
        self._signer = TokenSigner(key, kid)
        jwks = {"keys": [self._signer.jwk()]}
        self._tokens = TokenVerifier(jwks, "issuer", "gateway", self._clock)

    def Enrol(self, request, context):
        return self._answer("Enrol", context, lambda: self._enrol(request))

    def IssueToken(self, request, context):
        return self._answer("IssueToken", context, lambda: self._issue(request, context))

    def GetEvidence(self, request, context):
        reply = pb.EvidenceReply(evidence=request.nonce)
        return self._answer(
            "GetEvidence", context, lambda: self._admit("GetEvidence", context, reply)
        )

    def SubmitUpdate(self, requests, context):
        received = b"".join(request.segment for request in requests)
        reply = pb.SubmitReply(payload=received)
        return self._answer(
            "SubmitUpdate", context, lambda: self._admit("SubmitUpdate", context, reply)
        )

    def GetRelease(self, request, context):
        yield pb.ReleaseChunk(chunk=b"one")
        self._answer("GetRelease", context, lambda: self._admit("GetRelease", context, None))
        yield pb.ReleaseChunk(chunk=b"two")

    def _answer(self, method, context, handle):
        self.calls[method] += 1
        self.metadata = dict(context.invocation_metadata())
        for index, (name, status, code) in enumerate(self._failures):
            if name == method:
                del self._failures[index]
                self._abort(context, status, code, "scripted")
        try:
            return handle()
        except ProofRejected as error:
            context.set_trailing_metadata(
                ((CODE_METADATA, error.code), (NONCE_METADATA, error.nonce))
            )
            context.abort(grpc.StatusCode.UNAUTHENTICATED, error.sentence)
        except AsynclaveError as error:
            self._abort(context, grpc.StatusCode.UNAUTHENTICATED, error.code, error.sentence)

    @staticmethod
    def _abort(context, status, code, details):
        if code is not None:
            context.set_trailing_metadata(((CODE_METADATA, str(code)),))
        context.abort(status, details)

    def _enrol(self, request):
        if request.ticket != TICKET:
            raise EnrolmentRejected(Code.ENROL_TICKET_INVALID)
        verify_enrolment(request.ticket, request.identity_key, request.proof_key, request.signature)
        self._identities["client-7"] = request.identity_key
        return pb.EnrolReply(
            client_id="client-7", membership=b"statement", refresh_token=self._new_refresh_token()
        )

    def _issue(self, request, context):
        self.grants.append(request.WhichOneof("grant"))
        jkt = thumbprint(request.proof_key)
        self._check_proof(context, "IssueToken", None, jkt)
        if request.WhichOneof("grant") == "refresh_token":
            if request.refresh_token not in self._refresh_tokens:
                raise TokenRejected(Code.REFRESH_REUSED)
            self._refresh_tokens.remove(request.refresh_token)
        else:
            grant = request.identity
            verify_grant(
                request.client_id,
                grant.iat,
                grant.nonce,
                request.proof_key,
                grant.signature,
                self._identities[request.client_id],
                self._clock.now(),
            )
        token = self._signer.issue(
            issuer="issuer",
            audience="gateway",
            client_id=request.client_id,
            scope="update:submit attest:read",
            jkt=jkt,
            clock=self._clock,
            rng=self._rng,
            ttl=TTL,
        )
        return pb.TokenReply(
            access_token=token, refresh_token=self._new_refresh_token(), expires_in=TTL
        )

    def _admit(self, method, context, reply):
        metadata = dict(context.invocation_metadata())
        token = metadata["authorization"].removeprefix("DPoP ")
        claims = self._tokens.verify(token)
        self._check_proof(context, method, token, claims.jkt)
        return reply

    def _check_proof(self, context, method, token, jkt):
        proof = dict(context.invocation_metadata())["dpop"]
        self._proofs.verify(proof, SERVICE + method, token, jkt)

    def _new_refresh_token(self):
        token = self._rng.bytes(16).hex()
        self._refresh_tokens.add(token)
        return token
