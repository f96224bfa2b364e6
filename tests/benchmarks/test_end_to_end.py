"""The benchmark of whole uploads still runs; what it measures is for its reader."""

from benchmarks.end_to_end import measure


def test_every_size_is_uploaded_to_an_enclave_that_lives_on() -> None:
    figures = measure((1_000, 2_000))
    sizes = {"upload_1000_ms", "upload_2000_ms"}
    memory = {f"{name}_{when}_mib" for name in ("gateway", "enclave") for when in ("idle", "peak")}
    assert figures.keys() == sizes | memory
    assert min(figures.values()) > 0
