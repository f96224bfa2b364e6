"""The verifiers against vectors written by others (C2SP Wycheproof)."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc import jws as jose
from joserfc.jwk import RSAKey

from fl_protocol.codes import TokenRejected
from fl_protocol.encoding import b64url_decode
from fl_protocol.jws import VerifyingKey, parse_token, split_compact
from fl_protocol.signatures import is_signed_by
from fl_protocol.tokens import read_key_set, verify_compact_jws
from tests.protocol.vectors import load_vectors

# Faults of the file, reported as https://github.com/C2SP/wycheproof/issues/236: the padding that
# the first was to have was lost when it was written, which left a flawless token that the file
# itself calls valid elsewhere; the second differs from the first by one character too many.
VALID_TOKEN_CALLED_INVALID = 370
JUNK_IN_BASE64_CALLED_VALID = 372
DISPUTED = {VALID_TOKEN_CALLED_INVALID, JUNK_IN_BASE64_CALLED_VALID}
LONGER_HASH_THAN_THE_KEYS = (346, 350)
SHORTER_HASH_OR_OTHER_PADDING = (332, 334, 336, 338, 340)


def jws_cases():
    for group in load_vectors("json_web_signature.json")["testGroups"]:
        for case in group["tests"]:
            yield case, group.get("public") or group["private"]


def verifies(token, jwk):
    try:
        verify_compact_jws(token, jwk)
    except TokenRejected:
        return False
    return True


def find(number):
    return next((case, jwk) for case, jwk in jws_cases() if case["tcId"] == number)


def test_jws_accepts_valid_and_refuses_invalid_tokens():
    wrong, results = [], set()
    for case, jwk in jws_cases():
        if case["tcId"] in DISPUTED:
            continue
        results.add(case["result"])
        if verifies(case["jws"], jwk) != (case["result"] == "valid"):
            wrong.append((case["tcId"], case["comment"], case["result"]))
    assert wrong == []
    assert results == {"valid", "invalid"}


@pytest.mark.parametrize("number", LONGER_HASH_THAN_THE_KEYS)
def test_jws_with_a_longer_hash_than_the_keys_verifies_but_is_no_access_token(number):
    case, jwk = find(number)
    assert (split_compact(case["jws"]).header["alg"], jwk["alg"]) == ("PS384", "PS256")
    assert verify_compact_jws(case["jws"], jwk) == split_compact(case["jws"]).payload
    with pytest.raises(TokenRejected, match=r"^TOKEN_SIGNATURE"):
        VerifyingKey(jwk).verify(case["jws"])


@pytest.mark.parametrize("number", SHORTER_HASH_OR_OTHER_PADDING)
def test_jws_with_a_shorter_hash_or_another_padding_is_refused_though_its_signature_is_right(
    number,
):
    case, jwk = find(number)
    assert verifies(case["jws"], {**jwk, "alg": split_compact(case["jws"]).header["alg"]})
    assert not verifies(case["jws"], jwk)


def test_jws_accepts_a_flawless_token_the_file_calls_invalid():
    """Labelled "invalid padding", yet it has none, and its MAC is right.

    No rule about the token or its key could tell it from the valid ones of its group.
    """
    case, jwk = find(VALID_TOKEN_CALLED_INVALID)
    parts = parse_token(case["jws"])
    mac = hmac.digest(b64url_decode(jwk["k"]), parts.signing_input, hashlib.sha256)
    assert mac == parts.signature
    assert verifies(case["jws"], jwk)


def test_jws_refuses_characters_outside_base64url():
    """RFC 7515, section 2: no other characters may be included."""
    case, jwk = find(JUNK_IN_BASE64_CALLED_VALID)
    assert "?" in case["jws"]
    assert not verifies(case["jws"], jwk)


def test_no_verifier_can_give_both_disputed_results():
    """Whoever skips the stray character reads the very token that must be refused beside it."""
    (refused, _), (accepted, _) = (
        find(VALID_TOKEN_CALLED_INVALID),
        find(JUNK_IN_BASE64_CALLED_VALID),
    )
    assert (refused["result"], accepted["result"]) == ("invalid", "valid")
    assert accepted["jws"].replace("?", "") == refused["jws"]


def accepted_by_set(token, jwks):
    try:
        key = read_key_set(jwks)[parse_token(token).header["kid"]]
        key.verify(token)
    except (TokenRejected, ValueError):
        return False
    return True


def test_key_sets_are_refused_when_weak_ambiguous_or_for_another_use():
    wrong, results = [], set()
    for group in load_vectors("json_web_key.json")["testGroups"]:
        for case in group["tests"]:
            results.add(case["result"])
            jwks = group.get("public") or group["private"]
            if accepted_by_set(case["jws"], jwks) != (case["result"] == "valid"):
                wrong.append((case["tcId"], case["comment"], case["result"]))
    assert wrong == []
    assert results == {"valid", "invalid"}


def test_ed25519_signatures():
    for group in load_vectors("ed25519.json")["testGroups"]:
        key = bytes.fromhex(group["publicKey"]["pk"])
        for case in group["tests"]:
            message, signature = bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"])
            valid = case["result"] == "valid"
            assert is_signed_by(b"", message, signature, key) == valid, case["tcId"]


def test_aes_gcm_decrypts_into_a_buffer():
    for group in load_vectors("aes_gcm.json")["testGroups"]:
        if (group["keySize"], group["ivSize"], group["tagSize"]) != (256, 96, 128):
            continue
        for case in group["tests"]:
            key, iv, aad, msg, ct, tag = (
                bytes.fromhex(case[name]) for name in ("key", "iv", "aad", "msg", "ct", "tag")
            )
            out = bytearray(len(ct))
            try:
                AESGCM(key).decrypt_into(iv, ct + tag, aad, out)
                opened = bytes(out) == msg
            except Exception:
                opened = False
            assert opened == (case["result"] == "valid"), case["tcId"]


@pytest.mark.parametrize(
    ("asked", "verified"), [("RS256", True), ("RS384", False), ("RS512", False)]
)
def test_a_key_of_pkcs1_verifies_with_its_own_hash_alone(asked, verified):
    key = RSAKey.generate_key(2048)
    token = jose.serialize_compact({"alg": asked}, b"payload", key, algorithms=[asked])
    jwk = {**key.as_dict(private=False), "alg": "RS256"}
    assert verifies(token, jwk) is verified
    assert verifies(token, {**jwk, "alg": asked})
