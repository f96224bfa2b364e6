"""Randomness under test control, and headers to seal with."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from fl_protocol.envelope import SUITE, Header, key_id
from tests.support.clock import NOW

DIGEST = "0" * 64


class CountedRng:
    """Different bytes at every call, the same in every run."""

    def __init__(self, seed: str = "") -> None:
        self._seed = seed
        self._calls = 0

    def bytes(self, n: int) -> bytes:
        self._calls += 1
        return hashlib.shake_256(f"{self._seed}/{self._calls}".encode()).digest(n)


def make_header(enclave_key: bytes, **changes: Any) -> Header:
    header = Header(
        v=1,
        suite=SUITE,
        federation="demo",
        run_id="run-1",
        epoch=3,
        key_id=key_id(enclave_key),
        policy_digest=DIGEST,
        client_id="client-7",
        base_version=4,
        base_model_digest=DIGEST,
        num_examples=120,
        manifest_digest=DIGEST,
        task_digest=DIGEST,
        ct_len=0,
        seg_size=0,
        n_segs=0,
        nonce="0" * 32,
        update_id="update-1",
        iat=int(NOW),
        exp=int(NOW) + 600,
        trace_id="a" * 32,
    )
    return replace(header, **changes)
