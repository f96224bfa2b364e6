"""One test per refusal of the enclave; none of them may change its state."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fl_protocol.codes import Code
from fl_protocol.header import Header
from strategies import CA2FL, FedAsync, FedBuff, Layout
from strategies.reject import Reject
from strategies.update import digest_of
from tests.support.enclave import INITIAL, LAYOUT, Lab, Update, described, flipped


def assert_refused(lab: Lab, code: str, ask: Callable[[], dict[str, Any]]) -> None:
    before = lab.status()
    reply = ask()
    assert (reply["ok"], reply.get("code")) == (False, str(code))
    assert reply["sentence"]
    assert lab.status() == before


def assert_update_refused(lab: Lab, code: str, update: Update) -> None:
    assert_refused(lab, code, lambda: lab.submit(update))


def test_refuses_leaky_recipe(lab: Lab) -> None:
    assert_refused(lab, Code.LEAKY_RECIPE, lambda: lab.open_run(described(FedAsync())))


def test_refuses_cache_on_disk(lab: Lab) -> None:
    spilling = described(CA2FL(cache="disk"))
    assert_refused(lab, Code.RUN_RECIPE, lambda: lab.open_run(spilling))
    assert "in the clear" in lab.open_run(spilling)["sentence"]


def test_refuses_recipe_other_than_the_policys(lab: Lab) -> None:
    other = described(FedBuff(buffer_size=5))
    assert_refused(lab, Code.RUN_RECIPE, lambda: lab.open_run(other))


def test_refuses_unknown_recipe(lab: Lab) -> None:
    unknown = {"name": "median-of-means", "options": {}}
    assert_refused(lab, Code.RUN_RECIPE, lambda: lab.open_run(unknown))


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("recipe_json", "[" * 4000, Code.RUN_RECIPE),
        ("recipe_json", '{"name":"fedbuff","options":{"\\ud800":"1"}}', Code.RUN_RECIPE),
        ("layout_json", "[" * 4000, Code.RUN_MANIFEST),
    ],
)
def test_serves_on_after_a_text_made_to_end_it(lab: Lab, name: str, text: str, code: str) -> None:
    request = {
        "op": "OPEN_RUN",
        "run_id": lab.run_id,
        "version": 0,
        "layout_json": LAYOUT.to_json(),
        "recipe_json": "{}",
    }
    for _ in range(5):
        assert_refused(lab, code, lambda: lab.ask(request | {name: text}))


def test_refuses_model_that_does_not_fit_its_layout(lab: Lab) -> None:
    short = INITIAL[1:].tobytes()
    assert_refused(lab, Code.RUN_MANIFEST, lambda: lab.open_run(params=short))


def test_refuses_layout_that_is_not_one(lab: Lab) -> None:
    assert_refused(lab, Code.RUN_MANIFEST, lambda: lab.open_run(layout_json="{}"))


def test_refuses_initial_model_with_nan(lab: Lab) -> None:
    params = np.full_like(INITIAL, np.nan).tobytes()
    assert_refused(lab, Code.RUN_MANIFEST, lambda: lab.open_run(params=params))


def test_refuses_initial_version_below_zero(lab: Lab) -> None:
    assert_refused(lab, Code.RUN_MANIFEST, lambda: lab.open_run(version=-1))


@pytest.mark.parametrize("member", ["client_id", "update_id", "nonce"])
@pytest.mark.parametrize("value", ["", "\0", 1], ids=["empty", "NUL", "number"])
def test_refuses_to_sign_a_status_that_is_none(lab: Lab, member: str, value: object) -> None:
    request = {"op": "UPDATE_STATUS", "run_id": lab.run_id, "client_id": "a", "update_id": "u"}
    request["nonce"] = "0" * 32
    assert lab.ask(request)["ok"]
    assert_refused(lab, Code.ENV_MALFORMED, lambda: lab.ask(request | {member: value}))


def test_refuses_the_release_of_a_run_without_a_name(lab: Lab) -> None:
    request = {"op": "GET_RELEASE", "run_id": "", "version": 1}
    assert_refused(lab, Code.RUN_UNKNOWN, lambda: lab.ask(request))


def test_refused_run_keeps_the_buffer_of_the_open_one(lab: Lab) -> None:
    lab.send(lab.member("a"))
    assert not lab.open_run(described(FedAsync()))["ok"]
    assert lab.status()["pending"] == 1


def test_refuses_malformed_header(lab: Lab) -> None:
    update = lab.update(lab.member("a"))
    assert_update_refused(lab, Code.ENV_MALFORMED, update.with_part("protected", b"{}"))


def test_refuses_header_in_another_spelling(lab: Lab) -> None:
    update = lab.update(lab.member("a"))
    spaced = update.parts["protected"].replace(b",", b", ", 1)
    assert_update_refused(lab, Code.ENV_MALFORMED, update.with_part("protected", spaced))


def test_refuses_request_without_its_parts(lab: Lab) -> None:
    assert_refused(lab, Code.ENV_MALFORMED, lambda: lab.ask({"op": "SUBMIT"}, b"body"))


def test_refuses_other_suite(lab: Lab) -> None:
    update = lab.update(lab.member("a"))
    weaker = replace(update.header, suite="X25519-HKDF-SHA256-AES-128-GCM").encode()
    assert_update_refused(lab, Code.ENV_SUITE, update.with_part("protected", weaker))


def test_refuses_membership_of_nobody_enrolled(lab: Lab) -> None:
    update = lab.update(lab.member("a"))
    forged = flipped(update.parts["membership"], 3)
    assert_update_refused(lab, Code.ENV_MEMBERSHIP, update.with_part("membership", forged))


def test_refuses_membership_of_another_federation(lab: Lab) -> None:
    stranger = lab.member("a", federation="banks")
    assert_update_refused(lab, Code.ENV_MEMBERSHIP, lab.update(stranger))


def test_refuses_membership_of_another_client(lab: Lab) -> None:
    update = lab.update(lab.member("a"), client_id="b")
    assert_update_refused(lab, Code.ENV_IDENTITY, update)


def test_refuses_update_signed_by_another_client(lab: Lab) -> None:
    member = lab.member("a")
    thief = replace(member, identity=lab.member("b").identity)
    assert_update_refused(lab, Code.ENV_SIGNATURE, lab.update(thief))


@pytest.mark.parametrize("part", ["wrap", "tags", "signature"])
def test_refuses_update_with_a_changed_part(lab: Lab, part: str) -> None:
    update = lab.update(lab.member("a"))
    changed = update.with_part(part, flipped(update.parts[part], 77))
    assert_update_refused(lab, Code.ENV_SIGNATURE, changed)


def test_refuses_header_changed_after_signing(lab: Lab) -> None:
    update = lab.update(lab.member("a"))
    heavier = replace(update.header, num_examples=999).encode()
    assert_update_refused(lab, Code.ENV_SIGNATURE, update.with_part("protected", heavier))


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        (Code.ENV_RUN, {"run_id": "run-2"}),
        (Code.ENV_RUN, {"federation": "banks"}),
        (Code.ENV_EPOCH, {"epoch": 6}),
        (Code.ENV_KEY_ID, {"key_id": "0" * 64}),
        (Code.ENV_POLICY, {"policy_digest": "0" * 64}),
        (Code.ENV_MODEL_DIGEST, {"base_model_digest": "0" * 64}),
        (Code.ENV_MANIFEST, {"manifest_digest": "0" * 64}),
        (Reject.UNKNOWN_BASE_VERSION, {"base_version": 1}),
        (Reject.BAD_NUM_EXAMPLES, {"num_examples": 0}),
        (Reject.BAD_NUM_EXAMPLES, {"num_examples": -1}),
        (Reject.BAD_NUM_EXAMPLES, {"num_examples": 1001}),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "-".join(value),
)
def test_refuses_update_bound_to_something_else(
    lab: Lab, code: str, changes: dict[str, Any]
) -> None:
    assert_update_refused(lab, code, lab.update(lab.member("a"), **changes))


@pytest.mark.parametrize(("iat", "exp"), [(-7200, -3600), (3600, 7200), (0, 2 * 86_400), (10, 0)])
def test_refuses_update_outside_its_validity(lab: Lab, iat: int, exp: int) -> None:
    now = int(time.time())
    update = lab.update(lab.member("a"), iat=now + iat, exp=now + exp)
    assert_update_refused(lab, Code.ENV_EXPIRED, update)


def test_refuses_update_sealed_to_another_epochs_key(lab: Lab) -> None:
    other_key = lab.member("x").identity.public_key().public_bytes_raw()
    update = lab.update(lab.member("a"), enclave_key=other_key)
    assert_update_refused(lab, Code.ENV_DECRYPT, update)


@pytest.mark.parametrize("bit", [0, 100, -1])
def test_refuses_update_with_a_flipped_ciphertext_bit(lab: Lab, bit: int) -> None:
    update = lab.update(lab.member("a"))
    position = bit % (8 * len(update.body))
    changed = replace(update, body=flipped(update.body, position))
    assert_update_refused(lab, Code.ENV_DECRYPT, changed)


def test_refuses_truncated_body(lab: Lab) -> None:
    update = lab.update(lab.member("a"))
    assert_update_refused(lab, Code.ENV_LENGTH, replace(update, body=update.body[:-1]))


def test_refuses_appended_body(lab: Lab) -> None:
    update = lab.update(lab.member("a"))
    assert_update_refused(lab, Code.ENV_LENGTH, replace(update, body=update.body + b"x"))


def test_refuses_lengths_that_do_not_add_up(lab: Lab) -> None:
    update = lab.update(lab.member("a"))
    huge = replace(update.header, ct_len=10 << 30).encode()
    assert_update_refused(lab, Code.ENV_LENGTH, update.with_part("protected", huge))


def test_refuses_same_id_with_other_content(lab: Lab) -> None:
    member = lab.member("a")
    lab.send(member, 1.0, update_id="once")
    assert_update_refused(lab, Code.ENV_REPLAY_MISMATCH, lab.update(member, 2.0, update_id="once"))


def test_refuses_update_with_nan(lab: Lab) -> None:
    assert_update_refused(lab, Reject.NONFINITE, lab.update(lab.member("a"), float("nan")))


def test_refuses_update_with_infinity(lab: Lab) -> None:
    assert_update_refused(lab, Reject.NONFINITE, lab.update(lab.member("a"), float("inf")))


def test_refuses_update_of_wrong_shape(lab: Lab) -> None:
    longer = np.ones(LAYOUT.num_params + 1, np.float32)
    assert_update_refused(lab, Reject.WRONG_SHAPE, lab.update(lab.member("a"), longer))


def test_refuses_update_with_too_large_norm(lab: Lab) -> None:
    assert_update_refused(lab, Reject.NORM_TOO_LARGE, lab.update(lab.member("a"), 1e6))


def test_refuses_update_that_is_too_stale(lab: Lab) -> None:
    digests = [digest_of(INITIAL)]
    for version in range(4):
        lab.merge_with(0.5, 0.5, base_version=version, base_model_digest=digests[-1])
        digests.append(lab.release(version + 1)[0].model_digest)
    assert_update_refused(lab, Reject.TOO_STALE, lab.update(lab.member("a")))
    oldest = lab.update(lab.member("b"), base_version=1, base_model_digest=digests[1])
    assert lab.receipt(lab.submit(oldest)).staleness == 3


def test_refuses_second_update_of_a_client_from_one_version(lab: Lab) -> None:
    member = lab.member("a")
    lab.send(member)
    lab.merge_with(1.0)
    assert_update_refused(lab, Reject.DUPLICATE_UPDATE, lab.update(member))


def test_refuses_client_beyond_its_share_of_the_buffer(lab: Lab) -> None:
    lab.merge_with(1.0, 1.0)
    member, digest = lab.member("a"), lab.release(1)[0].model_digest
    lab.send(member)
    second = lab.update(member, base_version=1, base_model_digest=digest)
    assert_update_refused(lab, Reject.CLIENT_QUOTA, second)


def test_refuses_release_that_does_not_exist(lab: Lab) -> None:
    lab.send(lab.member("a"))
    ask = {"op": "GET_RELEASE", "run_id": lab.run_id, "version": 1}
    assert_refused(lab, Code.RELEASE_NOT_READY, lambda: lab.ask(ask))
    assert_refused(lab, Code.RELEASE_NOT_READY, lambda: lab.ask(ask | {"version": 0}))
    assert_refused(lab, Code.RELEASE_NOT_READY, lambda: lab.ask(ask | {"version": "1"}))


def test_refuses_release_of_another_run(lab: Lab) -> None:
    ask = {"op": "GET_RELEASE", "run_id": "run-2", "version": 1}
    assert_refused(lab, Code.RUN_UNKNOWN, lambda: lab.ask(ask))


def test_refuses_to_tell_a_single_update(lab: Lab) -> None:
    lab.send(lab.member("a"))
    for operation in ("GET_UPDATE", "STATE", "MERGE", ""):
        assert_refused(lab, Code.RUN_UNKNOWN, lambda op=operation: lab.ask({"op": op}))  # type: ignore[misc]


def test_row_of_a_refused_update_does_not_leak_into_the_next(lab: Lab) -> None:
    lab.submit(replace(good := lab.update(lab.member("a"), 9.0), body=flipped(good.body, 300)))
    lab.merge_with(1.0, 3.0)
    np.testing.assert_allclose(lab.release(1)[1], INITIAL + 2, rtol=1e-6)


def test_every_bit_of_a_signed_header_counts(lab: Lab) -> None:
    update = lab.update(lab.member("a"))
    protected = update.parts["protected"]
    before = lab.status()
    for bit in range(0, 8 * len(protected), 5):
        assert not lab.submit(update.with_part("protected", flipped(protected, bit)))["ok"]
    assert lab.status() == before
    assert Header.decode(protected) == update.header
    assert lab.submit(update)["ok"]


def test_unopened_enclave_knows_no_run(sealed_image: Any) -> None:
    fresh = Lab(sealed_image)
    try:
        assert fresh.send(fresh.member("a"))["code"] == Code.RUN_UNKNOWN
        reply = fresh.ask({"op": "GET_RELEASE", "run_id": fresh.run_id, "version": 1})
        assert reply["code"] == Code.RUN_UNKNOWN
    finally:
        fresh.close()


def test_huge_layout_is_refused_before_its_memory_is_taken(lab: Lab) -> None:
    huge = Layout.of({"weight": np.lib.stride_tricks.as_strided(
        np.zeros(1, np.float32), (2**32,), (0,)
    )})  # fmt: skip
    assert_refused(lab, Code.RUN_MANIFEST, lambda: lab.open_run(layout_json=huge.to_json()))
