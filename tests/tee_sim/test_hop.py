"""Requests on the hop from the gateway to the enclave's host: each abuse has its code."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl_protocol import canonical
from fl_protocol.codes import Code, ConfigInvalid, HopRejected
from fl_protocol.ports import SystemClock, SystemRng
from tee_sim import hop
from tee_sim.control import LauncherClient
from tee_sim.hop import WINDOW, HopSigner, HopVerifier, Origin, origin
from tee_sim.settings import load_key
from tests.support.clock import NOW, SetClock
from tests.support.enclave import HOP_KEY, INITIAL, LAYOUT, Lab, flipped
from tests.support.platform_process import Platform, platform

__all__ = ["platform"]

REQUEST = {"op": "GET_RELEASE", "run_id": "r", "version": 1}
TRACE = "ab" * 16

Signed = dict[str, Any]


def signed(clock: SetClock | None = None, key: bytes = HOP_KEY) -> Signed:
    origin.set(Origin("/asynclave.v1.Gateway/GetRelease", TRACE))
    return HopSigner(key, clock or SetClock(), SystemRng()).sign(REQUEST)


def with_hop(request: Signed, **changes: object) -> Signed:
    return {**request, "hop": {**request["hop"], **changes}}


def refusal(request: Signed, clock: SetClock | None = None) -> str:
    with pytest.raises(HopRejected) as caught:
        HopVerifier(HOP_KEY, clock or SetClock()).verify(request)
    return caught.value.code


def test_a_request_says_which_call_and_trace_it_serves() -> None:
    request = signed()
    HopVerifier(HOP_KEY, SetClock()).verify(request)
    assert request["hop"]["path"] == "/asynclave.v1.Gateway/GetRelease"
    assert request["hop"]["traceparent"].split("-")[1] == TRACE


@pytest.mark.parametrize(
    "change",
    [
        lambda r: {**r, "version": 2},
        lambda r: {**r, "version": True},
        lambda r: {**r, "run_id": "s"},
        lambda r: {**r, "force": True},
        lambda r: {k: v for k, v in r.items() if k != "version"},
        lambda r: {**r, "op": "STATUS"},
        lambda r: with_hop(r, path="/asynclave.v1.Gateway/OpenRun"),
        lambda r: with_hop(r, traceparent=r["hop"]["traceparent"].replace(TRACE, "cd" * 16)),
        lambda r: with_hop(r, body="0" * 64),
        lambda r: with_hop(r, time=r["hop"]["time"] + 1),
        lambda r: with_hop(r, nonce="0" * 32),
        lambda r: with_hop(r, more=1),
        lambda r: {k: v for k, v in r.items() if k != "mac"},
        lambda r: {**r, "mac": r["mac"][:-1]},
        lambda r: {**r, "mac": r["mac"].upper()},
        lambda r: {**r, "mac": "é"},
        lambda r: {**r, "mac": 7},
        lambda r: REQUEST,
    ],
    ids=[
        "changed parameter",
        "another type",
        "changed run",
        "added parameter",
        "removed parameter",
        "another operation",
        "another path",
        "changed trace id",
        "another body hash",
        "changed time",
        "changed nonce",
        "added member",
        "no mac",
        "short mac",
        "another spelling",
        "not ASCII",
        "not a text",
        "unsigned",
    ],
)
def test_anything_changed_added_or_left_out_is_refused(
    change: Callable[[Signed], Signed],
) -> None:
    assert refusal(change(signed())) == Code.HOP_SIGNATURE


def test_another_key_is_refused() -> None:
    assert refusal(signed(key=b"x" * 32)) == Code.HOP_SIGNATURE


@pytest.mark.parametrize("nonce", ["", "ab" * 17, "ab" * 15 + "a", "AB" * 16, "\n" * 32, 7])
def test_a_nonce_of_another_form_is_refused_though_it_is_signed(
    monkeypatch: pytest.MonkeyPatch, nonce: object
) -> None:
    mac = hop._mac
    monkeypatch.setattr(hop, "_mac", lambda key, request: mac(key, with_hop(request, nonce=nonce)))
    request = with_hop(signed(), nonce=nonce)
    monkeypatch.undo()
    assert refusal(request) == Code.HOP_SIGNATURE


@pytest.mark.parametrize("seconds", [-WINDOW - 1, WINDOW + 1])
def test_a_stale_time_is_refused(seconds: float) -> None:
    assert refusal(signed(), SetClock(NOW + seconds)) == Code.HOP_STALE


def test_a_reused_nonce_is_refused_for_as_long_as_its_time_is_good() -> None:
    clock = SetClock()
    ahead = signed(SetClock(NOW + WINDOW))
    verifier = HopVerifier(HOP_KEY, clock)
    verifier.verify(ahead)
    for later in (0, 2 * WINDOW):
        clock.time = NOW + later
        with pytest.raises(HopRejected, match=Code.HOP_REPLAYED):
            verifier.verify(ahead)
    clock.time = NOW + 2 * WINDOW + 1
    with pytest.raises(HopRejected, match=Code.HOP_STALE):
        verifier.verify(ahead)


def code(reply: Signed) -> str:
    assert not reply["ok"]
    return str(reply["code"])


def test_the_enclave_answers_no_unsigned_request(lab: Lab) -> None:
    assert code(lab.ask_all({"op": "STATUS"})[0]) == Code.HOP_SIGNATURE


def test_the_enclave_answers_a_request_once(lab: Lab) -> None:
    request = lab.signer.sign({"op": "STATUS"})
    assert lab.ask_all(request)[0]["ok"]
    assert code(lab.ask_all(request)[0]) == Code.HOP_REPLAYED


def test_the_enclave_opens_no_run_from_another_model_than_was_signed(lab: Lab) -> None:
    before = lab.status()
    for body in (flipped(INITIAL.tobytes(), 8), bytes(4 * LAYOUT.num_params)):
        reply = lab.ask(
            {
                "op": "OPEN_RUN",
                "run_id": "other",
                "version": 0,
                "layout_json": LAYOUT.to_json(),
                "recipe_json": canonical.encode(dict(lab.policy.recipe)).decode(),
            },
            body,
            INITIAL.tobytes(),
        )
        assert code(reply) == Code.HOP_BODY
    assert lab.status() == before
    assert before["run_id"] == lab.run_id


def test_the_enclave_takes_no_update_beside_another_ones_signature(lab: Lab) -> None:
    update = lab.update(lab.member("a"))
    other = lab.update(lab.member("b"))
    reply = lab.submit(update.with_part("tags", other.parts["tags"]))
    assert code(reply) == Code.ENV_SIGNATURE
    swapped = lab.signer.sign({"op": "STATUS"}) | {"op": "SUBMIT"}
    assert code(lab.ask_all(swapped, update.body)[0]) == Code.HOP_SIGNATURE


def test_the_launcher_answers_no_unsigned_request(platform: Platform) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
        raw.connect(str(platform.socket))
        for packet in (b'{"op":"ATTACH"}', b'{"nonce":"' + b"00" * 32 + b'","op":"EVIDENCE"}'):
            raw.send(packet)
            assert Code.HOP_SIGNATURE.encode() in raw.recv(4096)


async def test_whoever_lacks_the_key_gets_no_enclave(platform: Platform) -> None:
    stranger = LauncherClient(platform.socket, HopSigner(bytes(32), SystemClock(), SystemRng()))
    with pytest.raises(HopRejected, match=Code.HOP_SIGNATURE):
        await stranger.attach()
    stranger.close()


def test_a_key_of_another_length_is_named(tmp_path: Path) -> None:
    (tmp_path / "hop.key").write_bytes(b"short")
    with pytest.raises(ConfigInvalid, match="5 bytes, not 32"):
        load_key(tmp_path / "hop.key")
