"""The network as a port: a session over a transport that loses calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fl_protocol.codes import Code, GatewayUnavailable, TokenRejected
from fl_protocol.identity import Identity
from fl_protocol.ports import SystemClock, SystemRng
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.session import Session


class LossyTransport:
    """Answers as a gateway would, after failing each method as often as it is told."""

    def __init__(self, failures: dict[str, list[Exception]]) -> None:
        self.failures, self.calls, self.closed = failures, [], False

    def invoke(
        self,
        method: str,
        request: Any,
        read: Callable[[Any], Any],
        token: str | None,
        timeout: float | None = None,
        trace_id: str | None = None,
    ) -> Any:
        self.calls.append((method, token))
        if self.failures.get(method):
            raise self.failures[method].pop(0)
        issued = sum(name == "IssueToken" for name, _ in self.calls)
        replies = {
            "Enrol": pb.EnrolReply(client_id="node", membership=b"m", refresh_token="r"),
            "IssueToken": pb.TokenReply(
                access_token=f"token-{issued}", refresh_token="r", expires_in=300
            ),
            "GetKeys": pb.KeysReply(jwks_json="{}"),
        }
        return read(replies[method])

    def close(self) -> None:
        self.closed = True


def session(transport: LossyTransport) -> Session:
    rng = SystemRng()
    identity = Identity.generate(rng)
    return Session(
        "gateway:443", b"", identity, "ticket", SystemClock(), rng, transport=transport, patience=5
    )


def test_a_session_speaks_through_the_transport_it_is_given() -> None:
    transport = LossyTransport({})

    with session(transport) as node:
        assert node.call("GetKeys", pb.KeysRequest()).jwks_json == "{}"

    assert [method for method, _ in transport.calls] == ["Enrol", "IssueToken", "GetKeys"]
    assert transport.closed


def test_lost_calls_are_repeated_and_an_expired_token_is_renewed_once() -> None:
    lost = GatewayUnavailable(Code.GATEWAY_UNAVAILABLE)
    expired = TokenRejected(Code.TOKEN_EXPIRED)
    transport = LossyTransport({"Enrol": [lost], "GetKeys": [lost, expired]})

    reply = session(transport).call("GetKeys", pb.KeysRequest())

    assert reply.jwks_json == "{}"
    tokens = [token for method, token in transport.calls if method == "GetKeys"]
    assert tokens == ["token-1", "token-1", "token-2"]
