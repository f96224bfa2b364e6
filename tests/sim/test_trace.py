from __future__ import annotations

from pathlib import Path

import pytest

from fl_protocol.codes import ConfigInvalid
from fl_sim.simulation.config import DevicesSection
from fl_sim.simulation.fleet_builder import fleet_from
from fl_sim.simulation.trace import read_trace

GOOD = "client,compute,network,duty_cycle\n0,2.0,8,1\n2,6.0,16,0.25\n1,4.0,8,0.5\n"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "devices.csv"
    path.write_text(GOOD)
    return path


def test_reads_every_column_by_client(trace: Path) -> None:
    read = read_trace(trace, 3)
    assert read.compute == (2.0, 4.0, 6.0)
    assert read.network == (8.0, 8.0, 16.0)
    assert read.duty_cycle == (1.0, 0.5, 0.25)


def test_a_byte_order_mark_is_no_part_of_the_first_column(trace: Path) -> None:
    trace.write_text(GOOD, encoding="utf-8-sig")
    assert read_trace(trace, 3).compute == (2.0, 4.0, 6.0)


def test_rows_stay_with_the_clients_they_name_unless_rare_classes_are_to_decide(
    trace: Path,
) -> None:
    section = DevicesSection(clients=3, speed="trace", trace=trace)
    assert not section.slow_hold_rare and DevicesSection(clients=3).slow_hold_rare
    fleet = fleet_from(section, model_bytes=0, virtual_time=10.0, seed=1)
    assert fleet.compute == (2.0, 4.0, 6.0)
    asked = DevicesSection(clients=3, speed="trace", trace=trace, slow_hold_rare=True)
    assert asked.slow_hold_rare
    fleet = fleet_from(asked, model_bytes=0, virtual_time=10.0, seed=1, scores=[0.9, 0.1, 0.0])
    assert fleet.compute == (6.0, 4.0, 2.0)


def test_a_trace_becomes_a_fleet(trace: Path) -> None:
    section = DevicesSection(clients=3, speed="trace", trace=trace)
    fleet = fleet_from(section, model_bytes=500_000, virtual_time=10.0, seed=1)
    # 500 kB are 4 Mbit, down and up: 8 Mbit.
    assert fleet.transfer == pytest.approx((1.0, 1.0, 0.5))
    assert fleet.median_task == pytest.approx(5.0)
    assert fleet.duty == (1.0, 0.5, 0.25)
    assert fleet.period == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (GOOD.replace("1,4.0,8,0.5\n", ""), "no row for client 1"),
        (GOOD.replace("2,6.0", "0,6.0"), "line 3: client 0 has a row already"),
        (GOOD.replace("2,6.0", "7,6.0"), "line 3: client must be 0 to 2, not '7'"),
        (GOOD.replace("6.0", ""), "line 3: compute must be a number from 1e-09 to 1e+09, not ''"),
        (GOOD.replace("6.0", "nan"), "line 3: compute must be"),
        (GOOD.replace("0.25", "1.5"), "line 3: duty_cycle must be a number from 1e-09 to 1, not"),
        (GOOD.replace("6.0", "1e-300"), "line 3: compute must be"),
        (GOOD.replace("6.0", "6_0"), "line 3: compute must be a number from 1e-09 to 1e+09, not"),
        (GOOD.replace("2,6.0", f"{'9' * 5000},6.0"), "line 3: client must be 0 to 2"),
        (GOOD.replace("network", "compute"), "names a column twice"),
        (GOOD.replace("2,6.0,16,0.25", "2,6.0"), "line 3: network must be"),
        (GOOD.replace("2,6.0,16,0.25", "2,6.0,16,0.25,9"), "line 3: 5 fields"),
        (GOOD.replace("compute", "speed"), "no column 'compute'"),
        (GOOD.replace("network", "modem"), "unknown column 'modem'"),
        ("", "no column 'client'"),
    ],
)
def test_names_the_row_or_column_that_is_wrong(trace: Path, text: str, complaint: str) -> None:
    trace.write_text(text)
    with pytest.raises(ConfigInvalid) as refusal:
        read_trace(trace, 3)
    assert complaint in refusal.value.sentence
    assert refusal.value.sentence.startswith("devices.trace: ")


def test_names_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"devices\.trace: .*none\.csv cannot be read"):
        read_trace(tmp_path / "none.csv", 3)
