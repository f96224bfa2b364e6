"""A buffer holds updates of one task, so that nobody's is mixed with known ones."""

from __future__ import annotations

from fl_protocol.codes import Code
from tests.support.enclave import Lab


def test_refuses_update_of_another_task_than_the_buffers(lab: Lab) -> None:
    lab.receipt(lab.send(lab.member("victim"), task_digest="a" * 64))
    bystander = lab.member("bystander")
    before = lab.status()
    refused = lab.send(bystander, task_digest="b" * 64)
    assert (refused["ok"], refused["code"]) == (False, Code.ENV_TASK)
    assert lab.status() == before
    lab.receipt(lab.send(bystander, task_digest="a" * 64))
    # A new buffer begins: its first update says what the others must have been trained for.
    reply = lab.send(lab.member("third"), task_digest="b" * 64)
    assert lab.receipt(reply).version == 1
