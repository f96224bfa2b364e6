"""Damaged quotes and noise: refused with a code, never a crash."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_protocol.codes import EvidenceRejected
from tee_sim.quotes.verifiers import read_quote
from tests.support.quotes import KINDS, IntelMaker, Vendor

VENDOR = Vendor()


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KINDS), st.data())
def test_damaged_quotes_are_refused_and_never_crash(
    which: tuple[int, str], data: st.DataObject
) -> None:
    quote = bytearray(made_once(*which))
    start = data.draw(st.integers(0, len(quote) - 1))
    replaced = data.draw(st.integers(0, 200))
    quote[start : start + replaced] = data.draw(st.binary(max_size=200))
    if quote == made_once(*which):
        return
    with pytest.raises(EvidenceRejected):
        read = read_quote(bytes(quote), ())
        assert read.facts().tcb
        read.authenticate(VENDOR.root_keys)


@given(st.binary(max_size=2000) | st.binary(min_size=1184, max_size=1184))
def test_noise_is_refused_and_never_crashes(noise: bytes) -> None:
    with pytest.raises(EvidenceRejected):
        read_quote(noise, ()).authenticate(VENDOR.root_keys)


@functools.cache
def made_once(version: int, kind: str) -> bytes:
    return IntelMaker(VENDOR, version, kind).make()
