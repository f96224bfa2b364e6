from __future__ import annotations

from pathlib import Path

import pytest

from fl_protocol.codes import ConfigInvalid
from fl_sim.simulation.config import DevicesSection
from fl_sim.simulation.fleet_builder import fleet_from
from fl_sim.simulation.windows_file import read_windows

GOOD = "client,start,end\n0,0,10\n1,5,7.5\n0,20,30\n1,7.5,9\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "windows.csv"
    path.write_text(GOOD)
    return path


def test_reads_the_windows_of_each_client_whose_rows_may_alternate(file: Path) -> None:
    windows = read_windows(file, 2)
    assert [windows.at(0, now) for now in (0.0, 9.9, 10.0)] == [(0, 10), (0, 10), (20, 30)]
    assert [windows.at(1, now) for now in (0.0, 7.4, 7.5)] == [(5, 7.5), (5, 7.5), (7.5, 9)]
    assert windows.leaves().tolist() == [30.0, 9.0]


def test_windows_repeat_if_a_period_is_given(file: Path) -> None:
    windows = read_windows(file, 2, period=30.0)
    assert windows.at(0, 30.0) == (30, 40)
    assert windows.at(1, 9.0) == (35, 37.5)


def test_windows_become_a_fleet(file: Path) -> None:
    section = DevicesSection(clients=2, windows=file, jitter=0.0, sigma=0.0, task_seconds=12.0)
    fleet = fleet_from(section, model_bytes=0, virtual_time=10.0, seed=1, scores=[0.0, 1.0])
    assert fleet.course(0, 0, 0.0).end == 22.0
    assert fleet.ready([0, 1], 0.0).tolist() == [0.0, 5.0]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (GOOD.replace("1,5,7.5\n", "").replace("1,7.5,9\n", ""), "no row for client 1"),
        ("client,start,end\n", "no row for client 0; in all it lacks 2 of the 2"),
        (GOOD.replace("0,20", "7,20"), "line 4: client must be 0 to 1, not '7'"),
        (GOOD.replace("0,20,30", "0,9,30"), "line 4: client 0 has a window until 10 before this"),
        (GOOD.replace("5,7.5", "7.5,7.5"), "line 3: the window ends at 7.5, not after its start"),
        (GOOD.replace("30", "2e9"), "line 4: end must be a number from 0 to 1e+09, not '2e9'"),
        (GOOD.replace("0,0", "0,-1"), "line 2: start must be a number from 0 to 1e+09, not '-1'"),
        (GOOD.replace("0,0", "0,nan"), "line 2: start must be"),
        (GOOD.replace("5,7.5", "5"), "line 3: end must be"),
        (GOOD.replace("5,7.5", "5,7.5,8"), "line 3: 4 fields, too many"),
        (GOOD.replace("start", "from"), "no column 'start'"),
        (GOOD.replace("start", "start,from"), "unknown column 'from'; known: client, start, end"),
        ("", "no column 'client'"),
    ],
)
def test_names_the_row_or_column_that_is_wrong(file: Path, text: str, complaint: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigInvalid) as refusal:
        read_windows(file, 2)
    assert complaint in refusal.value.sentence
    assert refusal.value.sentence.startswith("devices.windows: ")


def test_names_a_window_that_ends_after_the_period(file: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"line 4: the window ends after .*period = 25\.$"):
        read_windows(file, 2, period=25.0)


def test_a_window_that_later_periods_would_round_away_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "windows.csv"
    file.write_text("client,start,end\n0,0,1e-6\n1,0,0.5e-6\n")
    read_windows(file, 2)
    with pytest.raises(ConfigInvalid, match=r"line 3: the window lasts no millionth of .* = 1\.$"):
        read_windows(file, 2, period=1.0)


def test_names_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"devices\.windows: .*none\.csv cannot be read"):
        read_windows(tmp_path / "none.csv", 2)
