"""What an enclave does with good updates."""

from __future__ import annotations

import numpy as np

from fl_protocol.chain import Link, first_fault
from fl_protocol.receipts import (
    Opening,
    Receipt,
    Release,
    updates_digest,
    verify_head,
    verify_opening,
)
from strategies.update import digest_of
from tests.support.enclave import EPOCH, INITIAL, LAYOUT, Lab, SealedImage, signed_of


def test_opens_a_run_and_names_its_model(lab: Lab) -> None:
    reply = lab.open_run()
    assert (reply["version"], reply["epoch"]) == (0, EPOCH)
    opening = verify_opening(signed_of(reply), lab.keys.receipt)
    assert (opening.version, opening.model_digest) == (0, digest_of(INITIAL))


def test_continues_a_run_at_its_version(lab: Lab) -> None:
    assert lab.open_run(version=5)["version"] == 5
    lab.merge_with(1.0, 3.0, base_version=5)
    assert lab.release(6)[0].version == 6


def test_accepts_an_update_with_a_signed_receipt(lab: Lab) -> None:
    update = lab.update(lab.member("a"))
    receipt = lab.receipt(lab.submit(update))
    assert receipt.outcome == "accepted"
    assert receipt.client_id == "a"
    assert receipt.update_id == update.header.update_id
    assert (receipt.epoch, receipt.version, receipt.staleness) == (EPOCH, 0, 0)
    assert lab.status()["pending"] == 1


def test_releases_the_mean_of_k_clients(lab: Lab) -> None:
    lab.merge_with(1.0, 3.0)
    record, params = lab.release(1)
    np.testing.assert_allclose(params, INITIAL + 2, rtol=1e-6)
    assert record.model_digest == digest_of(params)
    assert record.manifest_digest == LAYOUT.digest
    assert (record.num_updates, record.num_clients, record.run_id) == (2, 2, lab.run_id)
    assert record.policy_digest == lab.policy.digest


def test_second_round_trains_from_the_release(lab: Lab) -> None:
    lab.merge_with(1.0, 3.0)
    digest = lab.release(1)[0].model_digest
    lab.merge_with(-2.0, -2.0, base_version=1, base_model_digest=digest)
    np.testing.assert_allclose(lab.release(2)[1], INITIAL, atol=1e-6)


def test_tells_the_staleness_of_a_late_update(lab: Lab) -> None:
    lab.merge_with(1.0, 3.0)
    assert lab.receipt(lab.send(lab.member("late"))).staleness == 1


def test_update_of_several_segments_merges(sealed_image: SealedImage) -> None:
    size = (5 << 20) // 4 + 3
    big = LAYOUT.of({"weight": np.zeros(size, np.float32)})
    lab = Lab(sealed_image, changes={"max_norm": 1e9})
    try:
        start = np.zeros(size, np.float32)
        lab.open_run(layout_json=big.to_json(), params=start.tobytes())
        deltas = [np.random.default_rng(seed).random(size, np.float32) for seed in (1, 2)]
        shared = {"base_model_digest": digest_of(start), "manifest_digest": big.digest}
        for name, delta in zip("ab", deltas, strict=True):
            lab.receipt(lab.send(lab.member(name), delta, **shared))
        np.testing.assert_allclose(lab.release(1)[1], sum(deltas) / 2, rtol=1e-6)
    finally:
        lab.close()


def test_same_update_again_gets_the_same_receipt_and_counts_once(lab: Lab) -> None:
    update = lab.update(lab.member("a"))
    first, again = lab.submit(update), lab.submit(update)
    assert again == first
    assert lab.status()["pending"] == 1


def test_update_repeated_after_its_release_counts_once(lab: Lab) -> None:
    update = lab.update(lab.member("a"))
    first = lab.submit(update)
    lab.merge_with(3.0)
    assert lab.submit(update) == first
    assert lab.status() == {**lab.status(), "version": 1, "pending": 0}


def test_released_update_is_not_counted_again_in_a_reopened_run(lab: Lab) -> None:
    update = lab.update(lab.member("a"))
    first = lab.submit(update)
    lab.merge_with(3.0)
    _, params = lab.release(1)
    assert lab.open_run(params=params.tobytes(), version=1)["ok"]
    assert lab.submit(update) == first
    assert lab.status()["pending"] == 0


def test_opening_a_run_discards_what_was_buffered(lab: Lab) -> None:
    update = lab.update(lab.member("a"))
    lab.submit(update)
    lab.open_run()
    assert lab.status()["pending"] == 0
    assert lab.submit(update)["ok"]
    assert lab.status()["pending"] == 1


def test_the_chain_holds_openings_receipts_refusals_and_releases(lab: Lab) -> None:
    opening = verify_opening(signed_of(lab.open_run()), lab.keys.receipt)
    assert lab.send(lab.member("a"))["ok"]
    refused = lab.send(lab.member("b"), float("nan"))
    assert lab.send(lab.member("c"))["ok"]
    lab.release(1)
    reply = lab.ask({"op": "GET_RECORDS", "from_seq": opening.seq})
    links = [Link.of(signed_of(record)) for record in reply["records"]]
    assert [link.record.outcome for link in links if isinstance(link.record, Receipt)] == [
        "accepted",
        "NONFINITE",
        "accepted",
    ]
    assert (refused["ok"], signed_of(refused)) == (False, links[2].signed)
    assert isinstance(links[0].record, Opening) and isinstance(links[-1].record, Release)
    heads = {EPOCH: verify_head(signed_of(reply["head"]), lab.keys.receipt)}
    assert first_fault(links, {EPOCH: lab.keys.receipt}, heads) is None


def test_a_release_names_the_updates_in_it(lab: Lab) -> None:
    receipts = [lab.receipt(lab.send(lab.member(name))) for name in "ab"]
    release, _ = lab.release(1)
    assert release.updates_digest == updates_digest(receipt.update_id for receipt in receipts)


def test_what_nobody_is_enrolled_for_leaves_no_record(lab: Lab) -> None:
    opening = verify_opening(signed_of(lab.open_run()), lab.keys.receipt)
    update = lab.update(lab.member("a"))
    assert not lab.submit(update.with_part("membership", bytes(100)))["ok"]
    assert lab.ask({"op": "GET_RECORDS", "from_seq": opening.seq + 1})["records"] == []


def test_a_receipt_carries_the_trace_id_of_its_update(lab: Lab) -> None:
    receipt = lab.receipt(lab.send(lab.member("a"), trace_id="ab" * 16))
    assert receipt.trace_id == "ab" * 16
