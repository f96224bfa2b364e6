"""The benchmark of single layers still runs; what it measures is for its reader."""

from benchmarks.layers import checks_ms, measure


def test_every_layer_of_an_update_is_measured() -> None:
    layers = measure(1_000, 2)
    assert min(layers.values()) > 0
    assert 0 < checks_ms(layers) < sum(layers.values())
