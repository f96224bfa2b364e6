from __future__ import annotations

import pytest

from fl_client.supernode.policy import (
    ADMISSION_PATIENCE,
    ADMISSION_PAUSE,
    LONGEST_PAUSE,
    STEADY,
    Life,
    NodeRefused,
    RestartPolicy,
)

NOT_ACTIVATED = """\
\x1b[91mERROR \x1b[0m:     Exit Code: 305
Failed to initialize the connection to the SuperLink.
[code: 2004] Failed to activate SuperNode."""
ACTIVATED = "\x1b[92mINFO \x1b[0m:      SuperNode ID: 14560928559070256031"
BAD_KEY = "\x1b[91mERROR \x1b[0m:     Exit Code: 302\nUnable to parse the private key file."


def life(output: str) -> Life:
    found = Life()
    for line in output.splitlines():
        found.read(line)
    return found


def test_reads_what_a_supernode_says() -> None:
    assert life(ACTIVATED) == Life(node_id=14560928559070256031)
    assert life(NOT_ACTIVATED) == Life(exit_code=305)


def test_one_that_was_killed_comes_back_at_once_and_then_more_slowly() -> None:
    policy = RestartPolicy()
    pauses = [policy.pause(life(ACTIVATED), -9, 10.0 * i, 10.0 * i + 1) for i in range(8)]
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == LONGEST_PAUSE
    # and quickly again after a long life
    assert policy.pause(life(ACTIVATED), -9, 100.0, 100.0 + STEADY) == 1.0


def test_a_refusal_is_tried_again_while_the_superlink_may_hold_the_node() -> None:
    policy = RestartPolicy()
    for now in (0.0, 30.0, ADMISSION_PATIENCE):
        assert policy.pause(life(NOT_ACTIVATED), 1, now, now) == ADMISSION_PAUSE
    # however long it takes a busy machine to end
    late = 2 * ADMISSION_PATIENCE
    assert policy.pause(life(NOT_ACTIVATED), 1, ADMISSION_PATIENCE, late) == ADMISSION_PAUSE
    with pytest.raises(NodeRefused, match="NODE_NOT_ADMITTED") as refusal:
        policy.pause(life(NOT_ACTIVATED), 1, ADMISSION_PATIENCE + 1, ADMISSION_PATIENCE + 2)
    assert refusal.value.status == 77


def test_an_admission_ends_the_count_of_refusals() -> None:
    policy = RestartPolicy()
    policy.pause(life(NOT_ACTIVATED), 1, 0.0, 0.0)
    policy.pause(life(ACTIVATED), 1, 5.0, 70.0)
    late = ADMISSION_PATIENCE + 1
    assert policy.pause(life(NOT_ACTIVATED), 1, late, late) == ADMISSION_PAUSE


def test_a_401_before_the_admission_counts_as_a_refusal() -> None:
    # A SuperNode ends gracefully at a 401: with status 0 and without a code.
    policy = RestartPolicy()
    assert policy.pause(life(""), 0, 0.0, 1.0) == ADMISSION_PAUSE
    with pytest.raises(NodeRefused, match="clock"):
        policy.pause(life(""), 0, ADMISSION_PATIENCE + 2, ADMISSION_PATIENCE + 3)


@pytest.mark.parametrize(("output", "status"), [(BAD_KEY, 1), ("usage: ...", 2)])
def test_one_that_cannot_run_is_not_started_again(output: str, status: int) -> None:
    with pytest.raises(NodeRefused, match="NODE_MISCONFIGURED") as refusal:
        RestartPolicy().pause(life(output), status, 0.0, 1.0)
    assert refusal.value.status == 78


def test_an_exception_is_no_reason_to_give_up() -> None:
    output = "RuntimeError: SuperNode Runtime HTTP API failed to start."
    assert RestartPolicy().pause(life(output), 1, 0.0, 1.0) == 1.0
