"""``make bench``: what the trust path costs, measured in one run, as one JSON object."""

from __future__ import annotations

import json
import os
import platform
import sys
from typing import Any

from benchmarks import enclave, end_to_end, gateway, layers, memory, merging, spawning

_SIZES = {"mnist_mlp": 50_890, "four_megabytes": 1_000_000}
_ROUNDS = {"mnist_mlp": 200, "four_megabytes": 40}


def main() -> None:
    """Measure and print."""
    figures: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}",
        "merge": merging.measure(),
        "enclave_over_floor": enclave.measure_all(),
        "gateway_over_echo": gateway.measure_all(),
        "spawning": spawning.measure(),
        "memory_of_large_updates": memory.measure()
        if os.geteuid() == 0
        else "left out: takes root",
    }
    whole = end_to_end.measure(tuple(_SIZES.values()))
    for name, num_params in _SIZES.items():
        single = layers.measure(num_params, _ROUNDS[name])
        upload = whole[f"upload_{num_params}_ms"]
        figures[name] = {
            "parameters": num_params,
            "layers_ms": single,
            "upload_ms": upload,
            "shares_of_upload": _shares(single, upload),
            "checks_ms": layers.checks_ms(single),
            "enclave_over_floor": _part(single, "enclave_") / single["floor_aes_and_add"],
        }
    figures["processes_mib"] = {key: value for key, value in whole.items() if key.endswith("_mib")}
    json.dump(_rounded(figures), sys.stdout, indent=2)
    print()


def _shares(single: dict[str, float], upload: float) -> dict[str, float]:
    shares = {name: _part(single, f"{name}_") / upload for name in ("client", "gateway", "enclave")}
    return {**shares, "wire_attestation_and_disk": 1 - sum(shares.values())}


def _part(single: dict[str, float], prefix: str) -> float:
    return sum(value for name, value in single.items() if name.startswith(prefix))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(member) for key, member in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
