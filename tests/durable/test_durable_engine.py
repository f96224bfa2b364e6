"""A run that is cut off anywhere continues with the same models, bit for bit."""

import errno
import random
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_protocol.codes import StorageFailed
from fl_protocol.ports import SystemRng
from fl_server.durable.engine import DurableEngine, Saved
from fl_server.durable.journal import Journal
from fl_server.durable.ledger import Ledger
from strategies.catalog import recipe_from
from strategies.engine import Engine, Limits
from strategies.errors import MergeDue
from strategies.reject import Reject
from strategies.release import ReleaseRule
from strategies.update import Accepted, ClientUpdate, Rejected, digest_of
from tests.support.disk import MemoryDisk

SIZE = 7
FOLDER = Path("/run")
ABOUT = {"layout": "abc"}
RECIPES = [
    ("fedbuff", {"buffer_size": 3}),
    ("async-wa", {"buffer_size": 4}),
    ("async-wa", {"buffer_size": 3, "cache": "sketch"}),
    ("fedasync", {}),
    ("ca2fl", {"buffer_size": 3}),
    ("fadas", {"buffer_size": 3}),
    ("ringmaster", {}),
]


class Machine:
    """What a loss of power leaves: a disk and a database."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.database = sqlite3.connect(":memory:", isolation_level=None)

    def saved(self, **more) -> Saved:
        journal = Journal(FOLDER / "journal", self.disk, SystemRng(), segment_bytes=700)
        return Saved(FOLDER, self.disk, journal, Ledger(self.database), **more)

    def boot(self, name="fedbuff", options=None, *, about=None, rule=None, **more):
        engine = Engine(
            recipe_from(name, **({"buffer_size": 3} if options is None else options)),
            np.zeros(SIZE, np.float32),
            limits=Limits(max_staleness=20),
            release_rule=rule,
        )
        return DurableEngine(engine, self.saved(**more), about or ABOUT)


def update_of(rng, number, version, client=None):
    delta = np.array([rng.gauss(0, 1) for _ in range(SIZE)], np.float32)
    base = max(0, version - rng.randint(0, 2))
    client = client or f"c{number}"
    return ClientUpdate(client, base, delta, rng.randint(1, 50), f"update-{number}")


def drive(engine, rng, count, digests, now=0.0):
    """Offer updates and merge as a server does; collects the digest of every version."""
    for _ in range(count):
        number = engine.num_received + 1
        engine.offer(update_of(rng, number, engine.version), now + number)
        while engine.ready(now + number):
            merge = engine.merge(now + number)
            digests[merge.version] = merge.digest


@pytest.mark.parametrize(("name", "options"), RECIPES)
@pytest.mark.parametrize("checkpoint_bytes", [1, 1000, 1 << 30])
def test_a_run_cut_off_again_and_again_is_the_run_that_was_not(name, options, checkpoint_bytes):
    whole: dict[int, str] = {}
    drive(Machine().boot(name, options), random.Random(1), 40, whole)

    machine, rng, pieces = Machine(), random.Random(1), {}
    for _ in range(10):
        engine = machine.boot(name, options, checkpoint_bytes=checkpoint_bytes)
        drive(engine, rng, 4, pieces)
        machine.disk.lose_power()
    assert pieces == whole
    assert digest_of(machine.boot(name, options).params) == whole[max(whole)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9))
def test_whatever_was_answered_is_in_exactly_one_row(seed):
    rng, machine, answered = random.Random(seed), Machine(), {}
    for _ in range(4):
        engine = machine.boot(checkpoint_bytes=rng.choice([1, 500, 1 << 30]))
        for _ in range(rng.randint(1, 7)):
            number = engine.num_received + 1
            update = update_of(
                rng, number, engine.version, client=rng.choice("ab") + str(number // 2)
            )
            machine.disk.fail_sync = rng.random() < 0.15
            machine.disk.room = rng.choice([None, None, None, 40])
            try:
                answer = engine.offer(update, float(number))
                answered[update.update_id] = isinstance(answer, Accepted)
            except StorageFailed as error:
                assert error.code in ("JOURNAL_FULL", "JOURNAL_FAILED")
            machine.disk.fail_sync, machine.disk.room = False, None
            if engine.ready(float(number)) and rng.random() < 0.9:
                engine.merge(float(number))
            elif engine.ready(float(number)):
                break
        machine.disk.lose_power(lambda lost: lost[: rng.randint(0, len(lost))])
    engine = machine.boot()
    recorded = [u for row in machine.saved().ledger.rows() for u in row.updates]
    outcomes = {u.update_id: u.outcome == "accepted" for u in recorded}
    assert len(outcomes) == len(recorded)
    waiting = {update.update_id for update in engine.waiting}
    assert not waiting & outcomes.keys()
    unsettled = answered.keys() - outcomes.keys() - waiting
    assert all(not answered[name] for name in unsettled)
    assert all(answered[name] == outcomes[name] for name in answered.keys() & outcomes.keys())
    machine.saved().ledger.check_integrity()


def test_an_update_counts_once_it_is_synced_and_not_before():
    machine = Machine()
    engine = machine.boot()
    engine.offer(update_of(random.Random(0), 1, 0), 1.0)
    machine.disk.fail_sync = True
    with pytest.raises(StorageFailed, match="JOURNAL_FAILED"):
        engine.offer(update_of(random.Random(1), 2, 0), 2.0)
    assert [u.update_id for u in engine.waiting] == ["update-1"]
    machine.disk.fail_sync = False
    machine.disk.lose_power()
    assert [u.update_id for u in machine.boot().waiting] == ["update-1"]


def test_a_version_is_shown_to_nobody_before_it_is_in_the_ledger():
    machine = Machine()
    engine = machine.boot()
    for number in range(1, 4):
        engine.offer(update_of(random.Random(number), number, 0), float(number))
    machine.database.execute("PRAGMA query_only = 1")
    with pytest.raises(StorageFailed, match="LEDGER_FAILED"):
        engine.merge(3.0)
    assert engine.version == 0 and engine.ready(9.0)
    with pytest.raises(StorageFailed, match="LEDGER_FAILED"):
        engine.offer(update_of(random.Random(9), 4, 0), 4.0)
    machine.database.execute("PRAGMA query_only = 0")
    merge = engine.merge(9.0)
    assert (merge.version, engine.version) == (1, 1)
    assert machine.boot().version == 1


def test_a_merge_that_the_crash_came_before_is_made_when_the_run_continues():
    machine = Machine()
    engine = machine.boot()
    for number in range(1, 4):
        engine.offer(update_of(random.Random(number), number, 0), float(number))
    assert engine.ready(3.0)
    again = machine.boot()
    assert (again.version, list(again.waiting)) == (1, [])
    other = Machine().boot()
    digests: dict[int, str] = {}
    for number in range(1, 4):
        other.offer(update_of(random.Random(number), number, 0), float(number))
    digests[1] = other.merge(3.0).digest
    assert digest_of(again.params) == digests[1]


def test_a_full_buffer_journals_nothing():
    machine = Machine()
    engine = machine.boot()
    for number in range(1, 4):
        engine.offer(update_of(random.Random(number), number, 0), float(number))
    with pytest.raises(MergeDue):
        engine.offer(update_of(random.Random(4), 4, 0), 4.0)
    assert engine.num_received == 3


def test_refusals_are_written_down_with_their_code():
    machine = Machine()
    engine = machine.boot()
    bad = ClientUpdate("c1", 0, np.full(SIZE, np.nan, np.float32), 3, "update-1")
    answer = engine.offer(bad, 1.0)
    assert isinstance(answer, Rejected)
    engine.close(2.0)
    (update,) = [u for row in machine.saved().ledger.rows() for u in row.updates]
    assert (update.update_id, update.outcome, update.weight) == ("update-1", "NONFINITE", 0.0)
    drive(machine.boot(), random.Random(3), 4, {})
    assert machine.boot().version == 1


def test_a_discarded_buffer_is_written_down_as_refused():
    rule = ReleaseRule(2, max_leverage=0.4)
    machine = Machine()
    engine = machine.boot("fedbuff", {"buffer_size": 2}, rule=rule)
    for number in range(1, 5):
        engine.offer(update_of(random.Random(0), number, 0, client="ab"[number % 2]), 1.0)
        if engine.ready(1.0):
            engine.merge(1.0)
    engine.close(2.0)
    outcomes = [u.outcome for row in machine.saved().ledger.rows() for u in row.updates]
    assert outcomes
    again = machine.boot("fedbuff", {"buffer_size": 2}, rule=rule)
    assert len(outcomes) + len(again.waiting) == 4


def test_what_a_checkpoint_covers_is_removed():
    machine = Machine()
    engine = machine.boot(checkpoint_bytes=1)
    drive(engine, random.Random(2), 300, {})
    names = machine.disk.list(FOLDER)
    assert len(names) == 1 and names[0].startswith("checkpoint-")
    assert len(machine.disk.list(FOLDER / "journal")) < 30
    engine.close(999.0)
    assert len(machine.disk.list(FOLDER / "journal")) == 1
    assert machine.boot().version == 100


def test_without_room_for_a_checkpoint_the_run_goes_on():
    machine = Machine()
    engine = machine.boot(checkpoint_bytes=1)

    def no_room(path, data, mode=0o600):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_atomic, machine.disk.write_atomic = machine.disk.write_atomic, no_room
    digests: dict[int, str] = {}
    drive(engine, random.Random(5), 9, digests)
    assert engine.version == 3
    machine.disk.write_atomic = write_atomic
    assert digest_of(machine.boot().params) == digests[3]


def test_another_run_is_not_continued():
    machine = Machine()
    machine.boot()
    with pytest.raises(StorageFailed, match=r"STATE_MISMATCH.*another layout: 'abc', not 'xyz'"):
        machine.boot(about={"layout": "xyz"})
    with pytest.raises(StorageFailed, match=r"STATE_MISMATCH.*another options"):
        machine.boot("fedbuff", {"buffer_size": 5})


def altered(machine, change):
    engine = machine.boot()
    drive(engine, random.Random(6), 8, {})
    change(machine)
    with pytest.raises(StorageFailed) as caught:
        machine.boot()
    return caught.value.code


def forge_checkpoint(machine):
    (name,) = [n for n in machine.disk.list(FOLDER) if n.startswith("checkpoint")]
    machine.disk.files[FOLDER / name][200] ^= 1


def forge_row(machine):
    machine.database.execute("UPDATE rows SET content = replace(content, 'c2', 'c9')")


def drop_row(machine):
    machine.database.execute("DELETE FROM rows WHERE number = 1")


def drop_journal(machine):
    for name in machine.disk.list(FOLDER / "journal"):
        machine.disk.remove(FOLDER / "journal" / name)


def shorten_journal(machine):
    machine.disk.remove(FOLDER / "journal" / machine.disk.list(FOLDER / "journal")[-1])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (forge_checkpoint, "LEDGER_DAMAGED"),
        (forge_row, "LEDGER_DAMAGED"),
        (drop_row, "LEDGER_DAMAGED"),
        (drop_journal, "LEDGER_DAMAGED"),
        (shorten_journal, "LEDGER_DAMAGED"),
    ],
)
def test_damage_is_named_and_never_passed_over(change, code):
    assert altered(Machine(), change) == code


@pytest.mark.parametrize("ended", [False, True], ids=["killed", "ended"])
def test_a_journal_cut_at_its_end_loses_nothing_that_the_ledger_counts(ended):
    machine = Machine()
    engine = machine.boot()
    drive(engine, random.Random(6), 8, {})
    if ended:
        engine.close(99.0)
    path = FOLDER / "journal" / machine.disk.list(FOLDER / "journal")[-1]
    whole, received = bytes(machine.disk.files[path]), set()
    for end in range(len(whole) + 1):
        machine.disk.files[path][:] = whole[:end]
        try:
            again = machine.boot()
        except StorageFailed as refused:
            assert refused.code in {"JOURNAL_DAMAGED", "LEDGER_DAMAGED"}
        else:
            assert again.version == 2
            received.add(again.num_received)
        machine.disk.files[path] = bytearray(whole)
    # Nothing tells updates that no row counts from a write that was torn.
    assert received == ({8} if ended else {6, 7, 8})


def test_a_limit_that_the_engine_refuses_by_is_part_of_the_state():
    machine = Machine()
    machine.boot()
    engine = Engine(recipe_from("fedbuff", buffer_size=3), np.zeros(SIZE, np.float32))
    with pytest.raises(StorageFailed, match="STATE_MISMATCH"):
        DurableEngine(engine, machine.saved(), ABOUT)


def test_a_client_that_sends_twice_is_refused_after_a_crash_as_well():
    machine = Machine()
    engine = machine.boot()
    engine.offer(update_of(random.Random(0), 1, 0, client="a"), 1.0)
    machine.disk.lose_power()
    answer = machine.boot().offer(update_of(random.Random(0), 2, 0, client="a"), 2.0)
    assert isinstance(answer, Rejected) and answer.code is Reject.DUPLICATE_UPDATE
