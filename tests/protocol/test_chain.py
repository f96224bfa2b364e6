"""What was done to a chain, and to which of its records first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fl_protocol.chain import Damage, Link, first_fault
from fl_protocol.receipts import GENESIS, Head, Opening, read_record, record_digest, sign
from fl_protocol.signatures import Signed
from tests.protocol.support import DIGEST
from tests.protocol.test_receipts import KEY, OTHER, PUBLIC, RECEIPT, RELEASE

EPOCH = RECEIPT.epoch
BEFORE = "9" * 64
KEYS = {epoch: PUBLIC for epoch in range(EPOCH, EPOCH + 2)}
OPENING = Opening(
    v=1,
    run_id="run-1",
    version=0,
    model_digest=DIGEST,
    manifest_digest=DIGEST,
    continues=GENESIS,
    epoch=EPOCH,
    seq=0,
    prev=GENESIS,
    iat=1_800_000_000,
    policy_digest=DIGEST,
)
RECORDS = (OPENING, RECEIPT, RECEIPT, RELEASE, RECEIPT, RECEIPT, RELEASE)

Chain = list[Signed]


def make_chain(key: Ed25519PrivateKey = KEY, epoch: int = EPOCH, seq: int = 0) -> Chain:
    chain: Chain = []
    prev = GENESIS
    for record in RECORDS:
        chain.append(sign(replace(record, epoch=epoch, seq=seq, prev=prev), key))
        prev, seq = record_digest(chain[-1]), seq + 1
    return chain


def relinked(chain: Chain, after: Signed) -> Chain:
    """Sign records again behind another one."""
    links = [after]
    for signed in chain:
        links.append(sign(replace(read_record(signed), prev=record_digest(links[-1])), KEY))
    return links[1:]


def twice_opened(epoch: int = EPOCH, other: str = OPENING.run_id) -> Chain:
    """The opening of the run, two receipts, another opening, receipt and release."""
    chain: Chain = []
    prev = GENESIS
    again = replace(OPENING, run_id=other)
    for seq, record in enumerate([OPENING, RECEIPT, RECEIPT, again, RECEIPT, RELEASE]):
        chain.append(sign(replace(record, epoch=epoch, seq=seq, prev=prev), KEY))
        prev = record_digest(chain[-1])
    return chain


def heads_of(*chains: Chain) -> dict[int, Head]:
    return {
        EPOCH + number: Head(1, EPOCH + number, len(chain), record_digest(chain[-1]), 0)
        for number, chain in enumerate(chains)
    }


def fault(chain: Chain, *originals: Chain, length: int | None = None) -> tuple[int, str] | None:
    heads = heads_of(*(originals or (make_chain(),)))
    if length is not None:
        heads = {EPOCH: replace(heads[EPOCH], length=length)}
    found = first_fault([Link.of(signed) for signed in chain], KEYS, heads)
    return None if found is None else (found.index, found.damage.value)


def test_a_whole_chain_has_no_fault() -> None:
    assert fault(make_chain()) is None
    first, second = make_chain(), make_chain(epoch=EPOCH + 1)
    assert fault([*first, *second], first, second) is None
    assert first_fault([], KEYS, {}) is None


def test_a_chain_begins_with_the_opening_of_the_run_wherever_that_stands() -> None:
    opening = sign(replace(OPENING, seq=40, prev=BEFORE), KEY)
    chain = [opening, *relinked(make_chain(seq=40)[1:], opening)]
    assert fault(chain, chain, length=47) is None
    assert fault(chain[1:], chain, length=47) == (0, "removed")


def test_a_later_opening_of_the_run_does_not_stand_for_the_first() -> None:
    whole = twice_opened()
    assert fault(whole, whole) is None
    assert fault(whole[1:], whole) == (0, "removed")
    assert fault(whole[2:], whole) == (0, "removed")
    # Nothing tells these from another run's.
    assert fault(whole[3:], whole) is None
    assert fault([whole[1], whole[0], *whole[2:]], whole) == (0, "reordered")


def test_an_epoch_that_begins_with_the_opening_of_another_run_lacks_its_own() -> None:
    first = make_chain()
    second = twice_opened(epoch=EPOCH + 1, other="run-2")
    assert fault([*first, *second], first, second) is None
    assert fault([*first, *second[3:]], first, second) == (7, "removed")


def test_a_chain_that_begins_twice_is_forked() -> None:
    for seq, prev in [(40, GENESIS), (0, BEFORE)]:
        opening = sign(replace(OPENING, seq=seq, prev=prev), KEY)
        assert fault([opening], [opening], length=seq + 1) == (0, "forked")


def test_a_head_that_ends_before_the_opening_counts_records_that_are_missing() -> None:
    opening = sign(replace(OPENING, seq=40, prev=BEFORE), KEY)
    assert fault([opening], [opening], length=40) == (0, "removed")
    assert fault(make_chain(), make_chain(), length=0) == (0, "removed")


@pytest.mark.parametrize("index", range(len(RECORDS)))
def test_a_head_that_names_another_record_is_forked(index: int) -> None:
    chain = make_chain()
    other = sign(replace(RECEIPT, seq=index, client_id="x"), KEY)
    assert fault(chain, [*chain[:index], other]) == (index, "forked")


def test_records_after_the_head_are_no_fault() -> None:
    assert fault(make_chain(), make_chain()[:4]) is None


@pytest.mark.parametrize("index", range(len(RECORDS)))
@pytest.mark.parametrize("where", ["payload", "signature"])
def test_every_edited_byte_is_found_where_it_is(index: int, where: str) -> None:
    whole = make_chain()
    content = getattr(whole[index], where)
    for at in range(0, len(content), 3):
        changed = bytes([*content[:at], content[at] ^ 1, *content[at + 1 :]])
        chain = [*whole[:index], replace(whole[index], **{where: changed}), *whole[index + 1 :]]
        assert fault(chain) == (index, "edited")


@pytest.mark.parametrize("index", range(len(RECORDS)))
def test_a_removed_record_is_missed_where_it_was(index: int) -> None:
    chain = make_chain()
    del chain[index]
    assert fault(chain) == (index, "removed")


@pytest.mark.parametrize("index", range(len(RECORDS) - 1))
def test_two_swapped_records_are_found_at_the_first(index: int) -> None:
    chain = make_chain()
    chain[index], chain[index + 1] = chain[index + 1], chain[index]
    assert fault(chain) == (index, "reordered")


@pytest.mark.parametrize("index", range(len(RECORDS)))
def test_a_record_that_stands_twice_is_found_the_second_time(index: int) -> None:
    chain = make_chain()
    chain.insert(index + 1, chain[index])
    assert fault(chain) == (index + 1, "duplicated")


@pytest.mark.parametrize(
    ("forge", "index"),
    [
        (lambda: make_chain(OTHER), 0),
        (lambda: [*make_chain()[:-1], sign(replace(RELEASE, seq=6), OTHER)], 6),
        (lambda: make_chain(epoch=EPOCH + 9), 0),
    ],
    ids=["whole chain", "last record", "epoch without evidence"],
)
def test_a_foreign_key_is_named_even_if_its_chain_fits(
    forge: Callable[[], Chain], index: int
) -> None:
    chain = forge()
    assert fault(chain, chain) == (index, "signature")


def test_an_enclave_that_signs_two_records_with_one_number_is_named() -> None:
    chain = make_chain()
    other = sign(replace(RECEIPT, seq=2, prev=record_digest(chain[1]), client_id="x"), KEY)
    assert fault([*chain[:2], other, *chain[3:]]) == (3, "forked")
    assert fault([*chain[:3], other, *chain[3:]]) == (3, "forked")


def test_an_epoch_cut_short_is_missed_where_the_next_begins() -> None:
    first, second = make_chain(), make_chain(epoch=EPOCH + 1)
    assert fault([*first[:-2], *second], first, second) == (5, "removed")
    assert fault([*second, *first], first, second) == (0, "reordered")


def test_an_epoch_that_is_missing_as_a_whole_is_missed_where_it_was() -> None:
    first, second = make_chain(), make_chain(epoch=EPOCH + 1)
    assert fault(first, first, second) == (7, "removed")
    assert fault(second, first, second) == (0, "removed")
    assert fault([], first) == (0, "removed")


def test_an_epoch_without_a_head_may_lack_its_end() -> None:
    links = [Link.of(signed) for signed in make_chain()]
    found = first_fault(links, KEYS, {})
    assert found is not None and (found.index, found.damage) == (7, Damage.REMOVED)


@given(
    st.lists(st.tuples(st.sampled_from(["remove", "swap", "repeat", "edit"]), st.integers(0, 6)))
)
def test_whatever_is_done_to_a_chain_shows_unless_it_was_undone(
    steps: list[tuple[str, int]],
) -> None:
    whole = make_chain()
    chain = list(whole)
    for what, number in steps:
        if not chain:
            break
        at = number % len(chain)
        if what == "remove":
            del chain[at]
        elif what == "swap":
            chain[at], chain[-1] = chain[-1], chain[at]
        elif what == "repeat":
            chain.insert(at, chain[at])
        else:
            content = chain[at].payload
            chain[at] = replace(chain[at], payload=content[:9] + b"~" + content[10:])
    found = fault(chain)
    assert (found is None) == (chain == whole)
