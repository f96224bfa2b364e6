"""A ledger that is damaged is refused as such, whatever SQLite gives of it."""

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_protocol.codes import StorageFailed
from fl_server.durable.folder import LEDGER, connect
from fl_server.durable.ledger import Ledger, next_link
from fl_server.durable.rows import Recorded, Row
from tests.durable.test_durable_engine import Machine, drive

PAGE = 4096


def machine() -> Machine:
    """A run of two versions and a row of refusals, with one checkpoint."""
    saved = Machine()
    engine = saved.boot()
    drive(engine, random.Random(6), 8, {})
    engine.close(99.0)
    return saved


def loosened(database: sqlite3.Connection, table: str) -> None:
    """Let a table hold anything, as damaged pages do."""
    database.execute(f"CREATE TABLE other AS SELECT * FROM {table}")
    database.execute(f"DROP TABLE {table}")
    database.execute(f"ALTER TABLE other RENAME TO {table}")


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(StorageFailed) as caught:
        call()
    return str(caught.value.code)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE rows SET content = NULL",
        "UPDATE rows SET content = NULL WHERE number = 1",
        "UPDATE rows SET content = 'text'",
        "UPDATE rows SET content = CAST(x'ff' AS TEXT)",
        "UPDATE rows SET link = NULL WHERE number = 0",
        "UPDATE rows SET link = NULL WHERE number = 3",
        "UPDATE rows SET link = CAST(x'ff' AS TEXT)",
        "UPDATE rows SET link = 7",
        "UPDATE rows SET number = NULL",
        "UPDATE rows SET number = 'one' WHERE number = 1",
        "UPDATE rows SET version = NULL WHERE number = 2",
        "DELETE FROM rows WHERE number = 0",
        "DELETE FROM rows WHERE number = 2",
        "UPDATE checkpoint SET row = NULL",
        "UPDATE checkpoint SET row = 'two'",
        "UPDATE checkpoint SET row = 4",
        "UPDATE checkpoint SET row = -1",
        "UPDATE checkpoint SET row = -9223372036854775808",
        "UPDATE checkpoint SET name = NULL",
        "UPDATE checkpoint SET name = x'00'",
        "UPDATE checkpoint SET digest = NULL",
        "ALTER TABLE rows DROP COLUMN version",
        "DELETE FROM checkpoint",
    ],
)
def test_rows_that_hold_something_else_are_refused(statement: str) -> None:
    saved = machine()
    for table in ("rows", "checkpoint"):
        loosened(saved.database, table)
    saved.database.execute(statement)
    assert refusal(saved.boot) == "LEDGER_DAMAGED"


RECORDED = Recorded("u1", "a", 1, 0, 1, 0, "accepted", 1.0, "0" * 64)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"entry":1', b'"entry":"1"'),
        (b'"entry":1,', b""),
        (b'"version":0', b'"version":true'),
        (b'"at":"1.0"', b'"at":"noon"'),
        (b'"about":{}', b'"about":[]'),
        (b'["u1","a",1', b'["u1","a","1"'),
        (b'["u1","a",1', b'["u1",1'),
        (b'[["u1"', b'["u1",["u1"'),
    ],
)
def test_a_row_of_another_form_is_refused_although_it_fits_the_chain(
    old: bytes, new: bytes
) -> None:
    database = sqlite3.connect(":memory:", isolation_level=None)
    ledger = Ledger(database)
    row = Row(0, 0, "0" * 64, 1.0, 1, (RECORDED,), {})
    ledger.append(row)
    assert list(ledger.rows()) == [row]
    content = row.encode().replace(old, new)
    assert content != row.encode()
    link = next_link("0" * 64, content)
    database.execute("UPDATE rows SET content = ?, link = ?", (content, link))
    assert refusal(lambda: list(ledger.rows())) == "LEDGER_DAMAGED"


def damaged_file(folder: Path, whole: bytes, change: Callable[[bytearray], None]) -> str:
    """Read a ledger after something was done to its file; returns the code, if it was refused."""
    data = bytearray(whole)
    change(data)
    path = folder / LEDGER
    path.write_bytes(data)
    try:
        database = connect(path)
        try:
            ledger = Ledger(database)
            ledger.about(), ledger.checkpoint(), ledger.check_integrity()
        finally:
            database.close()
    except StorageFailed as refused:
        return str(refused.code)
    return ""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("ledger") / LEDGER
    saved = machine()
    database = sqlite3.connect(path)
    saved.database.backup(database)
    database.close()
    return path.read_bytes()


def test_a_file_whose_end_is_zeros_is_refused(whole: bytes, tmp_path: Path) -> None:
    assert damaged_file(tmp_path, whole, lambda data: None) == ""
    for begin in range(512, len(whole), 512):
        code = damaged_file(
            tmp_path,
            whole,
            lambda data, at=begin: data.__setitem__(slice(at, None), bytes(len(data) - at)),
        )
        assert code == "LEDGER_DAMAGED" or not any(whole[begin:]), begin


@settings(deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 6 * PAGE - 1), st.binary(min_size=1, max_size=40)),
        min_size=1,
        max_size=4,
    )
)
def test_a_damaged_file_ends_in_no_other_error(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]]
) -> None:
    def change(data: bytearray) -> None:
        for at, new in changes:
            data[at % len(data) : at % len(data) + len(new)] = new

    assert damaged_file(tmp_path_factory.mktemp("hurt"), whole, change) in ("", "LEDGER_DAMAGED")
