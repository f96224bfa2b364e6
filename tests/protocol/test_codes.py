import pickle

import pytest

from fl_protocol.codes import (
    SENTENCES,
    AsynclaveError,
    Code,
    EnvelopeRejected,
    EvidenceRejected,
    GatewayUnavailable,
    TokenRejected,
    UpdateRejected,
    error_for,
)


def test_every_code_has_a_sentence_and_a_typed_error():
    assert set(SENTENCES) == set(Code)
    for code in Code:
        error = error_for(code)
        assert str(error) == f"{code}: {SENTENCES[code]}"
        assert not isinstance(error, UpdateRejected)


@pytest.mark.parametrize(
    "code, family",
    [
        ("TOKEN_EXPIRED", TokenRejected),
        ("REFRESH_REUSED", TokenRejected),
        ("ENV_EPOCH", EnvelopeRejected),
        ("EVIDENCE_DEBUG", EvidenceRejected),
        ("OVERLOADED", GatewayUnavailable),
        ("NONFINITE", UpdateRejected),
    ],
)
def test_code_becomes_its_typed_error(code, family):
    assert type(error_for(code)) is family


def test_error_keeps_code_and_sentence_across_processes():
    error = pickle.loads(pickle.dumps(TokenRejected(Code.TOKEN_EXPIRED, "Renew it.")))
    assert (type(error), error.code, error.sentence) == (
        TokenRejected,
        "TOKEN_EXPIRED",
        "Renew it.",
    )
    assert isinstance(error, AsynclaveError)
