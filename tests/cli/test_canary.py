import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from asynclave.canary import Needles, search_files, search_memory, search_stream

TENSOR = np.random.default_rng(7).normal(size=64).astype(np.float32)

HOLDER = """
import sys
held = bytes.fromhex(sys.stdin.readline().strip()[::-1])
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def needles() -> Needles:
    return Needles.of(TENSOR)


def test_finds_the_tensor_raw_and_in_hexadecimal(needles: Needles) -> None:
    assert needles.found_in(b"x" + TENSOR.tobytes() + b"y")
    assert needles.found_in(TENSOR.tobytes().hex().encode())


def test_finds_a_part_of_the_tensor(needles: Needles) -> None:
    assert needles.found_in(TENSOR[-8:].tobytes())


def test_finds_nothing_in_other_bytes(needles: Needles) -> None:
    other = np.random.default_rng(8).normal(size=4096).astype(np.float32)

    assert not needles.found_in(other.tobytes())


@pytest.mark.parametrize("cut", [1, 13, 31, 33])
def test_finds_a_match_cut_by_a_chunk_boundary(needles: Needles, cut: int) -> None:
    data = b"a" * 100 + TENSOR[:8].tobytes() + b"b" * 100
    position = 100 + cut

    assert search_stream([data[:position], data[position:]], needles)


def test_names_the_files_that_hold_it(tmp_path: Path, needles: Needles) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "leak.log").write_bytes(b"\0" * 5_000_000 + TENSOR.tobytes())
    (tmp_path / "clean.log").write_bytes(b"\0" * 1000)

    assert search_files(tmp_path, needles) == [tmp_path / "deep" / "leak.log"]


def test_finds_it_in_the_memory_of_the_process_that_holds_it_only(needles: Needles) -> None:
    assert search_memory(os.getpid(), needles)
    for content, expected in ((TENSOR.tobytes(), True), (b"\1" * 256, False)):
        with subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdin and process.stdout
            # Sent reversed, so that only the decoded copy can match.
            process.stdin.write(content.hex()[::-1].encode() + b"\n")
            process.stdin.flush()
            process.stdout.readline()

            assert search_memory(process.pid, needles) is expected

            process.stdin.write(b"\n")
            process.stdin.flush()
