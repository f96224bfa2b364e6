"""Two gateways on one database: each decision is made once, whoever makes it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sql

from fl_protocol.codes import AsynclaveError, ConfigInvalid, GatewayUnavailable
from fl_server.gateway.database import REVOKED, Database
from fl_server.gateway.registry import Family, Registry
from fl_server.gateway.shared_memory import Refusals, SharedReplayMemory
from tests.gateway.test_update_journal import header
from tests.support.clock import SetClock
from tests.support.postgres import PostgresServer

ROUNDS = 20


@pytest.fixture
def two(location: str) -> Iterator[list[Database]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Database(location))) for _ in range(2)]


def race(*contenders: Callable[[], object]) -> list[str]:
    """Run all at once, each in a thread; return what came of each, refusals by their code."""
    gate, results = threading.Barrier(len(contenders)), []

    def run(contender: Callable[[], object]) -> None:
        gate.wait()
        try:
            results.append(str(contender()))
        except AsynclaveError as refusal:
            results.append(refusal.code)

    threads = [threading.Thread(target=run, args=(contender,)) for contender in contenders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_ticket_is_redeemed_by_one_of_two_identities(two: list[Database]) -> None:
    registries = [Registry(database) for database in two]
    for number in range(ROUNDS):
        registries[0].add_ticket(f"t{number}", "client", f"node-{number}", expires_at=100.0)
        keys = [bytes([number, which]) * 16 for which in range(2)]
        outcome = race(
            *(
                lambda r=registry, k=key, t=f"t{number}": r.redeem(t, k, 1.0).client_id
                for registry, key in zip(registries, keys, strict=True)
            )
        )
        assert outcome.count("ENROL_TICKET_USED") == 1, outcome


def test_one_identity_that_redeems_two_tickets_at_once_is_one_client(two: list[Database]) -> None:
    registries = [Registry(database) for database in two]
    for number in range(ROUNDS):
        key = bytes([number, 7]) * 16
        for which in range(2):
            registries[0].add_ticket(f"t{number}.{which}", "client", "node", expires_at=100.0)
        outcome = race(
            *(
                lambda r=registry, t=f"t{number}.{which}", k=key: r.redeem(t, k, 1.0).client_id
                for which, registry in enumerate(registries)
            )
        )
        assert len(set(outcome)) == 1 and outcome[0].startswith("node-"), outcome


def test_a_refresh_token_is_rotated_once_and_a_second_successor_revokes(
    two: list[Database],
) -> None:
    registries = [Registry(database) for database in two]
    registries[0].add_ticket("ticket", "client", "node", expires_at=100.0)
    client = registries[0].redeem("ticket", bytes(32), 1.0)
    for number in range(ROUNDS):
        family = Family(f"f{number}", client.client_id, "jkt")
        registries[0].start_family(family, f"r{number}", 0.0, expires_at=100.0)
        outcome = race(
            *(
                lambda r=registry, n=number, w=which: r.rotate(
                    f"r{n}", f"s{n}.{w}", client.client_id, "jkt", 2.0
                )
                for which, registry in enumerate(registries)
            )
        )
        assert Counter(code == "REFRESH_REUSED" for code in outcome) == {True: 1, False: 1}
        assert all(registry.revoked(family=f"f{number}") for registry in registries)


def test_a_repeated_exchange_at_another_gateway_gets_the_same_answer(two: list[Database]) -> None:
    first, second = (Registry(database) for database in two)
    first.add_ticket("ticket", "client", "node", expires_at=100.0)
    client = first.redeem("ticket", bytes(32), 1.0)
    for number in range(ROUNDS):
        family = Family(f"f{number}", client.client_id, "jkt")
        first.start_family(family, f"r{number}", 0.0, expires_at=100.0)
        outcome = race(
            *(
                lambda r=registry, n=number: r.rotate(
                    f"r{n}", f"s{n}", client.client_id, "jkt", 2.0
                )
                for registry in (first, second)
            )
        )
        assert outcome == [str(family)] * 2


def test_a_proof_is_used_at_one_gateway_only(two: list[Database]) -> None:
    memories = [SharedReplayMemory(database, "proof", 60.0) for database in two]
    for number in range(ROUNDS):
        outcome = race(*(lambda m=m, n=number: m.use(f"proof-{n}", 1.0) for m in memories))
        assert sorted(outcome) == ["False", "True"]
    # A proof of another kind is another one.
    assert SharedReplayMemory(two[0], "grant", 60.0).use("proof-0", 1.0)


def test_what_nobody_could_use_again_is_forgotten(two: list[Database]) -> None:
    memory, other = (SharedReplayMemory(database, "proof", 60.0) for database in two)
    assert memory.use("early", 0.0)
    assert memory.use("late", 1000.0)
    assert not other.use("late", 1000.0)
    assert other.use("early", 1000.0)


def test_a_full_memory_refuses_before_it_fills_the_database(two: list[Database]) -> None:
    memory = SharedReplayMemory(two[0], "proof", 60.0, capacity=1)
    assert memory.use("one", 1.0)
    with pytest.raises(GatewayUnavailable, match=r"^OVERLOADED"):
        memory.use("two", 1.0)
    assert SharedReplayMemory(two[1], "proof", 60.0).use("two", 1.0)


def test_a_revocation_counts_at_once_at_the_other_gateway_and_after_a_restart(
    two: list[Database], location: str
) -> None:
    first, second = (Registry(database) for database in two)
    assert not second.revoked(client="node")
    first.revoke("client", "node")
    assert second.revoked(client="node", jti="any") == {"client"}
    assert not second.revoked(family="node")
    with closing(Database(location)) as later:
        assert Registry(later).revoked(client="node") == {"client"}


def test_a_refusal_is_known_to_the_other_gateway(two: list[Database]) -> None:
    clock = SetClock()
    first, second = (Refusals(database, clock) for database in two)
    assert not second.noted(header("u-1"))
    first.note(header("u-1"))
    first.note(header("u-1"))
    assert second.noted(header("u-1"))
    assert not second.noted(header("u-2"))


_REDEEM = """
import sys
from fl_protocol.codes import AsynclaveError
from fl_server.gateway.registry import open_registry
with open_registry(sys.argv[1]) as registry:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(sys.argv[3])):
        try:
            registry.redeem(f"t{number}", bytes([int(sys.argv[2]), number]) * 16, 1.0)
            print("redeemed")
        except AsynclaveError as refusal:
            print(refusal.code)
"""


def test_two_processes_that_race_redeem_each_ticket_once(location: str) -> None:
    with closing(Database(location)) as database:
        for number in range(ROUNDS):
            Registry(database).add_ticket(f"t{number}", "client", f"n{number}", expires_at=9.0)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _REDEEM, location, str(which), str(ROUNDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for which in range(2)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outcomes = [process.communicate()[0].split() for process in processes]
    for pair in zip(*outcomes, strict=True):
        assert sorted(pair) == ["ENROL_TICKET_USED", "redeemed"]


def started(location: str) -> str:
    with closing(Database(location)) as database:
        return str(Registry(database).revoked(client="node"))


def test_gateways_that_start_at_once_make_one_schema(location: str) -> None:
    assert race(*[partial(started, location)] * 4) == ["set()"] * 4


def test_gateways_that_start_at_once_wait_for_each_others_file(tmp_path: Path) -> None:
    # One in forty met another that was just making its file.
    for number in range(50):
        location = str(tmp_path / f"{number}.sqlite")
        assert race(*[partial(started, location)] * 4) == ["set()"] * 4


@pytest.mark.parametrize("location", ["postgresql"], indirect=True)
def test_a_registry_that_is_away_refuses_and_is_found_again(
    two: list[Database], postgres_server: PostgresServer
) -> None:
    registry = Registry(two[0])
    registry.revoke("client", "node")
    postgres_server.stop()
    try:
        for _ in range(2):
            with pytest.raises(GatewayUnavailable, match=r"^REGISTRY_UNAVAILABLE"):
                registry.revoked(client="node")
            with pytest.raises(GatewayUnavailable, match=r"^REGISTRY_UNAVAILABLE"):
                registry.revoke("client", "other")
    finally:
        postgres_server.start()
    # Connections that were open meanwhile are found out one by one.
    for _ in range(5):
        try:
            assert registry.revoked(client="node") == {"client"}
            break
        except GatewayUnavailable:
            continue
    assert registry.revoked(client="node") == {"client"}


@pytest.mark.parametrize("address", ["mysql://host/db", "://"])
def test_an_address_that_is_not_usable_is_named(address: str) -> None:
    with pytest.raises(ConfigInvalid, match="registry's address"):
        Database(address)


def test_a_prepared_statement_takes_all_its_parameters_and_no_other(two: list[Database]) -> None:
    asked = sql.select(REVOKED.c.kind).where(REVOKED.c.value == sql.bindparam("name"))
    prepared = two[0].prepared(asked)
    assert list(prepared(name="nobody")) == []
    for parameters in ({}, {"other": "nobody"}, {"name": "nobody", "kind": "client"}):
        with pytest.raises(TypeError):
            prepared(**parameters)
