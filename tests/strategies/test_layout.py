"""The manifest: one flat vector, and a refusal for anything that differs."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from strategies import Layout, ManifestMismatch

MODEL = {
    "conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bn.num_batches_tracked": np.array(3, np.int64),
    "bn.bias": np.array([0.5, -0.5], np.float64),
    "scale": np.array(2.0, np.float16),
    "mask": np.array([True, False]),
}


def test_round_trip_keeps_names_order_shapes_dtypes_and_values():
    layout = Layout.of(MODEL)

    restored = layout.unflatten(layout.flatten(MODEL), MODEL)

    assert layout.num_params == 9
    assert list(restored) == list(MODEL)
    for name, array in MODEL.items():
        assert restored[name].dtype == array.dtype
        np.testing.assert_array_equal(restored[name], array)


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1),
        npst.arrays(
            st.sampled_from([np.float16, np.float32]),
            npst.array_shapes(min_dims=0, max_side=3),
            elements=st.floats(-8, 8, width=16),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_model_round_trips_and_so_does_its_manifest(model):
    layout = Layout.of(model)

    assert Layout.from_json(layout.to_json()) == layout
    for name, array in layout.unflatten(layout.flatten(model), {}).items():
        np.testing.assert_array_equal(array, model[name])


def test_flatten_writes_into_a_given_row():
    layout = Layout.of(MODEL)
    row = np.empty(layout.num_params, np.float32)

    assert layout.flatten(MODEL, out=row) is row
    np.testing.assert_array_equal(row, layout.flatten(MODEL))
    with pytest.raises(ManifestMismatch):
        layout.flatten(MODEL, out=row[:-1])


def test_digest_changes_with_any_detail():
    changed = [
        {**MODEL, "conv.weight": MODEL["conv.weight"].T},
        {**MODEL, "bn.bias": MODEL["bn.bias"].astype(np.float32)},
        {("other" if name == "mask" else name): array for name, array in MODEL.items()},
        dict(reversed(MODEL.items())),
    ]

    assert len({Layout.of(model).digest for model in (MODEL, *changed)}) == 5
    for model in changed:
        with pytest.raises(ManifestMismatch):
            Layout.of(MODEL).flatten(model)


def test_refuses_missing_and_extra_arrays():
    layout = Layout.of(MODEL)

    for model in ({**MODEL, "extra": np.zeros(1)}, {"mask": MODEL["mask"]}, {}):
        with pytest.raises(ManifestMismatch):
            layout.flatten(model)


def test_fit_matches_by_name_and_takes_any_precision():
    layout = Layout.of(MODEL)
    floats = {name: array for name, array in MODEL.items() if array.dtype.kind == "f"}
    row = np.empty(layout.num_params, np.float32)

    for dtype in (np.float16, np.float32, np.float64):
        trained = {name: array.astype(dtype) for name, array in reversed(floats.items())}
        assert layout.fit(trained, out=row) is row
        np.testing.assert_array_equal(row, layout.flatten(MODEL))


def test_fit_reads_no_carried_arrays():
    layout = Layout.of(MODEL)

    other = {**MODEL, "bn.num_batches_tracked": np.zeros(3, np.int32), "counter": np.array(1)}
    np.testing.assert_array_equal(layout.fit(other), layout.flatten(MODEL))


def test_fit_makes_infinite_what_is_too_large():
    layout = Layout.of({"w": np.zeros(2, np.float32)})

    np.testing.assert_array_equal(layout.fit({"w": np.array([1e300, 1.0])}), [np.inf, 1.0])


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"bn.bias": None}, "'bn.bias' is missing"),
        ({"bn.bias": np.zeros(3)}, r"'bn.bias' has the shape \(3,\), the model's \(2,\)"),
        ({"bn.bias": np.zeros(2, int)}, "'bn.bias' is of int64, the model's of float64"),
        ({"mask": np.zeros(2)}, "'mask' is of float64, the model's of bool"),
        ({"lora": np.zeros(2)}, "no array 'lora'"),
    ],
)
def test_fit_says_which_array_differs(changed, sentence):
    arrays = {name: array for name, array in (MODEL | changed).items() if array is not None}

    with pytest.raises(ManifestMismatch, match=sentence):
        Layout.of(MODEL).fit(arrays)


def test_refuses_carried_array_that_is_missing_or_differs():
    layout = Layout.of(MODEL)
    flat = layout.flatten(MODEL)

    for carried in ({}, {**MODEL, "mask": np.array([1, 0])}):
        with pytest.raises(ManifestMismatch):
            layout.unflatten(flat, carried)
    with pytest.raises(ManifestMismatch):
        layout.unflatten(flat[:-1], MODEL)


@pytest.mark.parametrize(
    "array",
    [np.zeros(2, np.complex64), np.array(["a"]), np.array([object()]), np.zeros(2, "M8[s]")],
)
def test_refuses_dtype_that_is_not_a_number(array):
    with pytest.raises(ManifestMismatch):
        Layout.of({"w": np.zeros(1, np.float32), "x": array})


def test_refuses_model_without_trained_parameters():
    with pytest.raises(ManifestMismatch):
        Layout.of({"steps": np.array(1)})


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "null",
        "[" * 100_000,
        '{"arrays":[],"v":1}',
        '{"arrays":[["w","float32",[2]]],"v":2}',
        '{"arrays":[["w","float32",[2]]],"v":1} ',
        '{"v":1,"arrays":[["w","float32",[2]]]}',
        '{"arrays":[["w","float32",[2]]],"arrays":[["w","float32",[2]]],"v":1}',
        '{"arrays":[["w","float32",[2]]],"more":1,"v":1}',
        '{"arrays":[["w","float32",[2],0]],"v":1}',
        '{"arrays":[["w","float32",[-2]]],"v":1}',
        '{"arrays":[["w","float32",[true]]],"v":1}',
        '{"arrays":[["w","float32",[2.0]]],"v":1}',
        '{"arrays":[["w","float32",[99999999999]]],"v":1}',
        '{"arrays":[["w","float32",[100000,100000]]],"v":1}',
        '{"arrays":[["w","float128",[2]]],"v":1}',
        '{"arrays":[["","float32",[2]]],"v":1}',
        '{"arrays":[[1,"float32",[2]]],"v":1}',
        '{"arrays":[["w",["float32"],[2]]],"v":1}',
        '{"arrays":[["w","float32",[2]],["w","float32",[2]]],"v":1}',
        '{"arrays":[["w","float32","2"]],"v":1}',
        json.dumps({"arrays": [["w", "float32", [1] * 40]], "v": 1}, separators=(",", ":")),
    ],
)
def test_refuses_manifest_that_is_not_exactly_canonical(document):
    with pytest.raises(ManifestMismatch):
        Layout.from_json(document)
