import subprocess
import sys

import pytest

import asynclave


@pytest.mark.parametrize("name", ["AsyncWA", "FedAsync", "FedBuff", "sealed_uploads"])
def test_the_public_names_come_from_the_package(name: str) -> None:
    assert getattr(asynclave, name).__name__ == name
    assert name in asynclave.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="FedMagic"):
        asynclave.FedMagic  # noqa: B018


def test_importing_the_package_loads_neither_torch_nor_flwr() -> None:
    program = "import asynclave, sys; print(sorted({'torch', 'flwr'} & set(sys.modules)))"

    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    assert loaded.strip() == "[]"


def test_the_command_line_names_its_version() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "asynclave", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert shown.stdout.strip() == asynclave.__version__
