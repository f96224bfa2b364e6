"""Who makes a call: token, revocation and proof of possession."""

from __future__ import annotations

from dataclasses import dataclass

from fl_protocol.codes import Code, ProofRejected, TokenRejected
from fl_protocol.jws import parse_token
from fl_protocol.proof import ProofVerifier, thumbprint
from fl_protocol.tokens import Claims
from fl_server.gateway.issuer import family_of
from fl_server.gateway.registry import Registry
from fl_server.gateway.token_keys import TokenKeys


@dataclass(frozen=True)
class Bearer:
    """Whoever presents a token that verifies, and whether it was revoked nevertheless.

    The latter is for those to know who have proved that the token is theirs.
    """

    token: str
    claims: Claims
    revoked: bool


class Authenticator:
    """Decides whether the bearer of a token and a proof may make a call.

    It asks the registry, so it belongs in a thread; it may be used from several.

    Parameters
    ----------
    tokens : TokenKeys
        Verify access tokens.
    proofs, first_proofs : ProofVerifier
        Verify the proofs beside a token, and those of callers who have none yet: these must not
        be able to fill the memory that the others' proofs need.
    registry : Registry
        Revocations.
    """

    def __init__(
        self,
        tokens: TokenKeys,
        proofs: ProofVerifier,
        first_proofs: ProofVerifier,
        registry: Registry,
    ) -> None:
        self._tokens, self._registry = tokens, registry
        self._proofs, self._first_proofs = proofs, first_proofs

    def bearer(self, scope: str, metadata: dict[str, str]) -> Bearer:
        """Verify token and scope.

        Parameters
        ----------
        scope : str
            Scope the method requires.
        metadata : dict
            Call metadata; "authorization" is read.

        Raises
        ------
        TokenRejected
        """
        authorization = metadata.get("authorization", "")
        if "DPoP " in authorization and "," in authorization:
            raise TokenRejected(Code.TOKEN_MALFORMED, "send one access token")
        kind, _, token = authorization.partition(" ")
        if kind != "DPoP" or not token:
            raise TokenRejected(Code.TOKEN_MISSING)
        claims = self._tokens.verify(token, scope)
        return Bearer(token, claims, self._is_revoked(token, claims))

    def check_revocation(self, bearer: Bearer) -> None:
        """Look again whether a token was revoked; raises TokenRejected if it was."""
        if self._is_revoked(bearer.token, bearer.claims):
            raise TokenRejected(Code.TOKEN_REVOKED)

    def check_proof(self, method: str, bearer: Bearer, metadata: dict[str, str]) -> None:
        """Verify that whoever presents a token holds its key.

        Parameters
        ----------
        method : str
            Full gRPC method, the proof's htu.
        bearer : Bearer
            What `bearer` returned.
        metadata : dict
            Call metadata; "dpop" is read.

        Raises
        ------
        ProofRejected
        """
        self._proofs.verify(_proof_in(metadata), method, bearer.token, bearer.claims.jkt)

    def check_key(self, method: str, proof_key: bytes, metadata: dict[str, str]) -> None:
        """Verify that a caller without a token holds the proof key it wants bound to one.

        Raises
        ------
        ProofRejected
        """
        self._first_proofs.verify(_proof_in(metadata), method, None, thumbprint(proof_key))

    def _is_revoked(self, token: str, claims: Claims) -> bool:
        revoked = self._registry.revoked(
            client=claims.client_id,
            family=family_of(claims.jti),
            jti=claims.jti,
            kid=parse_token(token).header["kid"],
        )
        if "kid" in revoked:
            # Not the bearer's fault: the code makes clients ask for a new token.
            raise TokenRejected(Code.TOKEN_UNKNOWN_KEY)
        return bool(revoked)


def _proof_in(metadata: dict[str, str]) -> str:
    if not metadata.get("dpop"):
        raise ProofRejected(Code.PROOF_MISSING)
    return metadata["dpop"]
