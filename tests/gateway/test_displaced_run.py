"""A run that takes the place of another, of which the enclave has a release nobody fetched."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack, StackSettings
from strategies.update import digest_of
from tests.support.sealed import LAYOUT, RECIPE, K, client, initial, offer, open_run, trained

PATIENT = StackSettings(recipe=RECIPE, k=K)


def test_it_is_opened_in_a_fresh_enclave_and_nothing_is_lost(tmp_path: Path) -> None:
    with LocalStack(tmp_path, PATIENT) as stack:
        first = open_run(stack, "first", watch_interval=3600)
        nodes = [client(stack, f"node-{number}") for number in range(K)]
        for node in nodes:
            node.upload(trained("first", 1.0))
        second = open_run(stack, "second", watch_interval=3600)
        assert (second.version, second.attested.epoch) == (0, first.attested.epoch + 1)
        again = SealedIntake(stack.server_config(), RECIPE, watch_interval=3600)
        again.open("first", LAYOUT, initial())
        for number, node in enumerate(nodes):
            settled = node.settle("first", digest_of(initial()))
            assert settled is not None
            assert offer(again, str(number), settled.uploaded).accepted
        merge = again.take_merge()
        assert merge is not None
        np.testing.assert_allclose(merge.params, initial() + 1.0)
        for intake in (first, second, again):
            intake.close()
