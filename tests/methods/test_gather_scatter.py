"""Gather-scatter patterns (Sun et al., 2021, arXiv 2112.10898) against what defines them."""

import itertools
import json
from contextlib import suppress
from dataclasses import replace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from autoprune.cost.flops import flops_per_layer
from autoprune.errors import PlanError
from autoprune.models.fingerprint import inference_fingerprint
from autoprune.pipeline.measure import show_sparsity
from autoprune.planning.gather_scatter import (
    FORMAT,
    VERSION,
    Bundles,
    GatherScatterSettings,
    choose_balanced,
    estimate_gathers,
    from_bundles,
    load_bundles,
    save_bundles,
    to_bundles,
)
from autoprune.planning.patterns import PatternSettings, bundle_kernels, find_pattern, unread_channels
from autoprune.records.plain import read_json
from autoprune.records.tensors import write_tensors
from autoprune.reporting.patterns import pattern_table, sum_steps
from autoprune.settings import MeasureSettings


def network():
    """Kernels of 8 x 27, 16 x 72, 12 x 144, 10 x 12 and 5 x 10 (outputs x columns)."""
    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3))
    x = image
    for number, width in enumerate((8, 16, 12)):
        x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"conv{number}")(x)
    x = layers.Dense(10, activation="relu", name="hidden")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(5, name="logits")(x), name="network")


def as_matrix(kernel):
    """(outputs, inputs x window) of a kernel (*window, inputs, outputs), entry by entry."""
    *window, inputs, outputs = kernel.shape
    places = list(itertools.product(range(inputs), *map(range, window)))
    return np.array([[kernel[(*place, i, o)] for i, *place in places] for o in range(outputs)])


@st.composite
def cases(draw):
    """A matrix, settings of a pattern that it can have, and its mask."""
    banks = draw(st.integers(2, 9))
    settings = GatherScatterSettings(banks=banks, rows=draw(st.integers(1, banks)), density=draw(st.floats(0.01, 0.99)))
    outputs, columns = draw(st.integers(1, 14)), draw(st.integers(banks, 60))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    kind = draw(st.sampled_from(["float32", "float16", "float64"]))
    matrix = generator.normal(size=(outputs, columns)).astype(kind)
    matrix[generator.random(matrix.shape) < 0.2] = 0  # Weights that are zero may stay all the same.
    return matrix, settings, choose_balanced(np.abs(matrix), settings)


def bundles_of(case):
    matrix, settings, mask = case
    return to_bundles(matrix, mask, banks=settings.banks, rows=settings.rows)


@given(case=cases())
def test_every_bank_keeps_as_many_weights_and_they_are_the_largest(case):
    matrix, settings, mask = case
    counts = []
    for top in range(0, len(mask), settings.rows):
        group = slice(top, top + settings.rows)
        banks = [(group, slice(bank, None, settings.banks)) for bank in range(settings.banks)]
        of_banks = [(mask[bank], np.abs(matrix[bank])) for bank in banks]
        counts.append({int(kept.sum()) for kept, _ in of_banks})
        for kept, sizes in of_banks:
            assert sizes[kept].min() >= sizes[~kept].max(initial=0)
    assert all(len(count) == 1 and min(count) >= 1 for count in counts)
    # Those of the last outputs may be fewer: where the outputs are no multiple.
    assert len(set(map(min, counts[: len(mask) // settings.rows]))) <= 1
    cells = settings.rows * matrix.shape[1] / settings.banks
    most = settings.rows * (matrix.shape[1] // settings.banks)
    if len(mask) >= settings.rows:
        assert abs(min(counts[0]) - np.clip(settings.density * cells, 1, most)) <= 0.5 + 1e-9


@given(case=cases())
def test_the_inputs_of_a_bundle_lie_in_banks_of_their_own(case):
    bundles = bundles_of(case)
    settings = case[1]
    for row in bundles.columns:
        assert sorted(row % settings.banks) == list(range(settings.banks))
    outputs = bundles.outputs()
    assert (outputs // settings.rows == outputs[:, :1] // settings.rows).all()


@given(case=cases())
def test_what_was_bundled_is_had_back(case, tmp_path_factory):
    matrix, _, mask = case
    bundles = bundles_of(case)
    path = tmp_path_factory.mktemp("bundles") / "x.safetensors"
    save_bundles({"block/conv.1": bundles, "other": bundles}, path)
    read = load_bundles(path)
    assert list(read) == ["block/conv.1", "other"]
    for one in (bundles, *read.values()):
        found, kept = from_bundles(one)
        np.testing.assert_array_equal(kept, mask)
        np.testing.assert_array_equal(found, np.where(mask, matrix, 0))
        assert found.dtype == matrix.dtype
        assert one.nbytes == bundles.nbytes


@given(case=cases(), batch=st.sampled_from([(), (1,), (3, 2)]))
def test_the_product_is_that_of_the_dense_matrix_with_zeros(case, batch):
    matrix, _, mask = case
    vectors = np.random.default_rng(1).normal(size=(*batch, matrix.shape[1]))
    expected = vectors @ np.where(mask, matrix, 0).T.astype("float64")
    found = bundles_of(case).multiply(vectors)
    assert found.shape == (*batch, len(matrix))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@given(case=cases(), data=st.data())
def test_a_damaged_file_is_refused(case, tmp_path_factory, data):
    bundles = bundles_of(case)
    path = tmp_path_factory.mktemp("bundles") / "x.safetensors"
    save_bundles({"conv": bundles}, path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    # A change that changes nothing, such as of a blank that fills the header, may go unnoticed.
    with suppress(PlanError):
        one = load_bundles(path)["conv"]
        np.testing.assert_array_equal(from_bundles(one), from_bundles(bundles))


def test_products_of_bundles_are_those_of_the_masked_convolution():
    model = network()
    pattern = find_pattern(model, GatherScatterSettings(banks=8, rows=4, density=0.3))
    bundles = bundle_kernels(model, pattern)
    assert set(bundles) == set(pattern.masks) == {"conv1", "conv2", "hidden"}
    for path, mask in pattern.masks.items():
        layer = model.get_layer(path)
        np.testing.assert_array_equal(from_bundles(bundles[path])[1], as_matrix(mask))
        # One patch of a convolution's input is as large as its window.
        patch = np.random.default_rng(0).normal(size=mask.shape[:-1]).astype("float32")
        layer.kernel.assign(np.where(mask, layer.kernel.numpy(), 0))
        if mask.ndim == 4:
            expected = keras.ops.convert_to_numpy(keras.ops.conv(patch[None], layer.kernel, padding="valid"))[0, 0, 0]
        else:
            expected = patch @ layer.kernel.numpy()
        vector = np.moveaxis(patch, -1, 0).ravel()
        np.testing.assert_allclose(bundles[path].multiply(vector), expected, rtol=1e-5, atol=1e-5)
        assert pattern.bytes_needed(path) == (mask.size * 4, bundles[path].nbytes)


def test_saliency_is_nearly_that_of_the_largest_weights_and_far_from_that_of_blocks():
    matrix = np.random.default_rng(0).normal(size=(64, 256))
    settings = GatherScatterSettings(banks=8, density=0.25)
    mask = choose_balanced(np.abs(matrix), settings)
    found = estimate_gathers(np.abs(matrix), mask, settings)
    assert mask.mean() == 0.25
    sizes = np.sort(np.abs(matrix), axis=None)[::-1]
    assert found.unbalanced_saliency == pytest.approx(sizes[: mask.sum()].sum() / sizes.sum())
    blocks = np.sort(np.abs(matrix).reshape(64, 32, 8).sum(-1), axis=None)[::-1]
    assert found.block_saliency == pytest.approx(blocks[: 64 * 8].sum() / sizes.sum())
    assert found.saliency == pytest.approx(np.abs(matrix)[mask].sum() / sizes.sum())
    told = (found.unbalanced_saliency, found.saliency, found.block_saliency)
    assert told == pytest.approx((0.515, 0.507, 0.338), abs=0.004)
    # More outputs to choose from are nearer still.
    shared = replace(settings, rows=8)
    assert found.saliency < estimate_gathers(np.abs(matrix), choose_balanced(np.abs(matrix), shared), shared).saliency


def test_steps_are_those_of_the_bank_that_is_read_most():
    """Two outputs, of which the largest weights all lie in the even banks, or are spread."""
    scores = np.array([[8.0, 1, 7, 2, 6, 1, 5, 2], [1, 8, 2, 7, 3, 6, 4, 5]])
    settings = GatherScatterSettings(banks=2, density=0.5)
    found = estimate_gathers(scores, choose_balanced(scores, settings), settings)
    assert (found.dense_steps, found.steps, found.unbalanced_steps) == (8, 4, 8)
    # With bundles of both outputs the same weights are balanced.
    both = replace(settings, rows=2)
    found = estimate_gathers(scores, choose_balanced(scores, both), both)
    assert (found.dense_steps, found.steps, found.unbalanced_steps) == (8, 4, 4)
    assert found.saliency == found.unbalanced_saliency == pytest.approx(52 / 68)


def test_steps_of_a_network_are_weighed_by_its_positions_and_a_tpu_gains_nothing():
    model = network()
    before = inference_fingerprint(model)
    pattern = find_pattern(model, GatherScatterSettings(banks=8, density=0.25))
    steps = sum_steps(pattern, flops_per_layer(model))
    parts = pattern.estimates
    assert steps["pattern"] == 144 * (parts["conv1"].steps + parts["conv2"].steps) + parts["hidden"].steps
    # 72 columns are 9 reads, of which 2 stay; 144 are 18 and 4 or 5 (4.5); 12 are 2 and 1.
    assert steps["dense"] == 144 * (16 * 9 + 12 * 18) + 10 * 2
    assert steps["pattern"] == 144 * (16 * 2 + 12 * 4) + 10 * 1
    assert steps["pattern"] < steps["unbalanced"] < steps["dense"]
    for path, mask in pattern.masks.items():
        kernel = model.get_layer(path).kernel
        kernel.assign(np.where(mask, kernel.numpy(), 0))
    assert inference_fingerprint(model) == before  # The same program: the TPU multiplies what is zero.
    caption = pattern_table(pattern, unread_channels(model, pattern), flops_per_layer(model)).caption
    assert "TPUs gain no latency from these patterns" in caption
    assert f"for an image {steps['pattern'] / steps['dense']:.1%} of the dense kernels'" in caption


def test_kernels_with_fewer_columns_than_banks_are_left_dense_and_told_of():
    model = network()
    pattern = find_pattern(model, GatherScatterSettings(banks=16))
    assert set(pattern.masks) == {"conv1", "conv2"}
    assert pattern.left_dense == {"hidden": "12 columns, fewer than 16 banks"}
    caption = pattern_table(pattern, unread_channels(model, pattern)).caption
    assert "Left dense: hidden (12 columns, fewer than 16 banks)." in caption
    with pytest.raises(PlanError, match="No kernel of 'network' .* Received: banks=256. Ask for fewer"):
        find_pattern(model, GatherScatterSettings(banks=256))


def test_the_command_tells_and_keeps_it(tmp_path, capsys):
    model = network()
    show_sparsity(model, MeasureSettings(sparsity="gs8x2", density=0.5), tmp_path)
    told = read_json(tmp_path / "sparsity.json")
    assert told["pattern"] == "gs8x2, 0.5 of the weights kept"
    assert "TPUs gain no latency" in told["note"]
    assert told["left_dense"] == {}
    assert told["steps_per_image"]["pattern"] < 0.55 * told["steps_per_image"]["dense"]
    bundles = load_bundles(tmp_path / "bundles.safetensors")
    for path, layer in told["layers"].items():
        kernel = as_matrix(model.get_layer(path).kernel.numpy())
        matrix, mask = from_bundles(bundles[path])
        np.testing.assert_array_equal(matrix, np.where(mask, kernel, 0))
        assert layer["steps"] == len(bundles[path].values)
        assert layer["density"] == mask.mean()
        assert layer["pattern_bytes"] == bundles[path].nbytes
        assert layer["block_saliency"] < layer["saliency"] <= layer["unbalanced_saliency"]
    assert "TPUs gain no latency" in capsys.readouterr().out
    show_sparsity(model, MeasureSettings(sparsity="gs4"), tmp_path)
    assert read_json(tmp_path / "sparsity.json")["pattern"] == "gs4, 0.25 of the weights kept"


VALUES = np.ones((2, 2), "float32")
COLUMNS = np.array([[0, 3], [2, 1]], "int16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": COLUMNS[:, ::-1]}, "a weight of each bank, in their order"),
        ({"columns": COLUMNS - 2}, "columns of the kernel"),
        ({"columns": COLUMNS + 2}, "columns of the kernel"),
        ({"columns": COLUMNS.astype("float32")}, "whole columns of all weights"),
        ({"columns": COLUMNS[:1]}, "whole columns of all weights"),
        ({"columns": np.array([[0, 3], [0, 1]], "int16"), "per_group": 2, "shape": [1, 4]}, "every weight once"),
        ({"values": VALUES[0]}, r"values \(bundles, banks\)"),
        ({"shape": [3, 4]}, "as many bundles as are of all outputs"),
        ({"shape": [2, 10**30]}, "a shape of outputs and columns"),
        ({"shape": [2, 4, 1]}, "a shape of outputs and columns"),
        ({"shape": [2, 4.0]}, "kernels"),
        ({"per_group": 0}, "from 1 to as many rows as banks"),
        ({"rows": 3}, "from 1 to as many rows as banks"),
        ({"rows": 2, "per_group": 2}, "offsets, unless every output has its own bundles"),
        ({"rows": 2, "per_group": 2, "offsets": np.full((2, 2), 2, "uint8")}, "offsets below rows"),
        ({"rows": 2, "per_group": 1, "shape": [3, 4], "offsets": np.ones((2, 2), "uint8")}, "outputs of the kernel"),
        ({"values": None}, "the values or columns of 'a' are missing"),
        ({"more": VALUES}, "'a.more' belongs to no kernel"),
    ],
)
def test_bundles_that_cannot_be_are_refused_though_their_checksum_is_right(change, message, tmp_path):
    parts = {"shape": [2, 4], "rows": 1, "per_group": 1, "values": VALUES, "columns": COLUMNS} | change
    kernel = {name: parts.pop(name) for name in ("shape", "rows", "per_group")}
    tensors = {f"a.{name}": array for name, array in parts.items() if array is not None}
    description = {"format": FORMAT, "version": VERSION, "kernels": {"a": kernel}}
    write_tensors(tmp_path / "x.safetensors", description, tensors)
    with pytest.raises(PlanError, match=f"cannot be used: .*{message}"):
        load_bundles(tmp_path / "x.safetensors")


def test_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(PlanError, match="x.safetensors"):
        load_bundles(path)
    write_tensors(path, {"format": FORMAT, "version": 99, "kernels": {}}, {"a": VALUES})
    with pytest.raises(PlanError, match=f"'{FORMAT}' of version {VERSION}. Received: '{FORMAT}' 99. Write"):
        load_bundles(path)
    write_tensors(path, {"format": FORMAT, "version": VERSION, "kernels": json.loads("[1]")}, {"a": VALUES})
    with pytest.raises(PlanError, match="cannot be used: kernels must be"):
        load_bundles(path)


def test_what_has_no_such_pattern_is_refused():
    model = network()
    with pytest.raises(PlanError, match="Bundles are of gather-scatter patterns. Received: one of N:M"):
        bundle_kernels(model, find_pattern(model, PatternSettings()))
    with pytest.raises(PlanError, match="from 2 to 256. Received: 1"):
        GatherScatterSettings(banks=1)
    with pytest.raises(PlanError, match="from 1 to banks=8 outputs. Received: 9"):
        GatherScatterSettings(banks=8, rows=9)
    with pytest.raises(PlanError, match="above 0 and below 1. Received: nan"):
        GatherScatterSettings(density=float("nan"))
    matrix, mask = np.ones((2, 4)), np.array([[1, 1, 0, 0], [1, 0, 1, 0]], bool)
    with pytest.raises(PlanError, match="keeps from 0 to 2 weights in the 2 banks of the outputs from 1 on"):
        to_bundles(matrix, mask, banks=2)
    with pytest.raises(PlanError, match="Bundles need as many weights of every 1 outputs"):
        to_bundles(matrix, np.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool), banks=2)
    with pytest.raises(PlanError, match="a matrix and a mask of its shape"):
        to_bundles(matrix, mask[:1], banks=2)
    bundles = Bundles(shape=(2, 4), rows=1, per_group=1, values=VALUES, columns=COLUMNS)
    with pytest.raises(PlanError, match="vectors of 4 inputs. Received: shape"):
        bundles.multiply(np.ones((4, 3)))
    model.get_layer("conv1").kernel.assign(np.full((3, 3, 8, 16), np.nan))
    with pytest.raises(PlanError, match="of 'conv1' that are none"):
        find_pattern(model, GatherScatterSettings(banks=8))
