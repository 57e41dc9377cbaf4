"""N:M and load-balanced blocks: what stays, what it takes, and what of it a TPU can use."""

import keras
import numpy as np
import pytest
from keras import layers
from safetensors.numpy import load_file

from autoprune.errors import PlanError
from autoprune.planning.patterns import PatternSettings, find_pattern, save_masks, unread_channels
from autoprune.reporting.patterns import pattern_data, pattern_table
from autoprune.surgery import apply_plan
from helpers.topologies import images_for, made


def chain(*widths, seed=0):
    """Dense layers one behind the other, named by their place, with random weights."""
    generator = np.random.default_rng(seed)
    image = x = keras.Input((8,))
    for number, width in enumerate(widths):
        x = layers.Dense(width, activation="relu", name=f"dense{number}")(x)
    model = keras.Model(image, layers.Dense(4, name="logits")(x))
    for variable in model.variables:
        variable.assign(generator.normal(0, 0.5, variable.shape))
    return model


def matrix_of(mask):
    """(outputs, inputs x window), the window of an input together."""
    return np.stack([np.stack([mask[..., i, o].ravel() for i in range(mask.shape[-2])]) for o in range(mask.shape[-1])])


def rows_of(mask):
    matrix = matrix_of(mask)
    return matrix.reshape(len(matrix), -1)


def test_of_every_four_weights_in_a_row_two_stay_and_they_are_the_largest():
    model = made("residual")
    pattern = find_pattern(model, PatternSettings(kept=2, of=4))
    assert len(pattern.masks) >= 3
    for path, mask in pattern.masks.items():
        layer = next(layer for layer in model.layers if layer.name == path)
        rows, sizes = rows_of(mask), np.abs(rows_of(layer.kernel.numpy()))
        whole = rows.shape[1] // 4 * 4
        fours, of_fours = rows[:, :whole].reshape(-1, 4), sizes[:, :whole].reshape(-1, 4)
        assert (fours.sum(1) == 2).all()
        for kept, size in zip(fours, of_fours, strict=True):
            assert size[kept].min() >= size[~kept].max()
        assert (rows[:, whole:].sum(1) <= 2).all()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.6, 0.8])
def test_every_row_of_blocks_keeps_as_many(share):
    model = chain(64, 96, 48, 64)
    pattern = find_pattern(model, PatternSettings(kept=None, block=8, block_share=share))
    shapes = {path: blocks.shape for path, blocks in pattern.blocks.items()}
    assert shapes == {"dense1": (12, 8), "dense2": (6, 12), "dense3": (8, 6)}
    for path, blocks in pattern.blocks.items():
        assert len(set(blocks.sum(1))) == 1
        whole = blocks.repeat(8, axis=0).repeat(8, axis=1)
        np.testing.assert_array_equal(rows_of(pattern.masks[path]), whole)
    total = sum(blocks.size for blocks in pattern.blocks.values())
    lost = total - sum(blocks.sum() for blocks in pattern.blocks.values())
    # Ranks go whole: one for each row of a layer.
    assert abs(lost - share * total) <= 12 / 2


@pytest.mark.parametrize(("share", "kept"), [(0.25, 2), (0.5, 2), (0.5, 1), (0.7, 3)])
def test_density_is_that_of_blocks_times_that_of_weights(share, kept):
    """One row of blocks in each layer: ranks are blocks."""
    model = chain(128, 16, 128, 16)
    pattern = find_pattern(model, PatternSettings(kept=kept, of=4, block=16, block_share=share))
    sizes = {path: mask.size for path, mask in pattern.masks.items()}
    assert set(sizes) == {"dense1", "dense2", "dense3"}
    stays = sum(mask.sum() for mask in pattern.masks.values())
    assert abs(stays - (1 - share) * kept / 4 * sum(sizes.values())) <= 8 * 16 * 16
    one = find_pattern(chain(128, 16), PatternSettings(kept=kept, of=4, block=16, block_share=share))
    assert abs(one.density("dense1") - (1 - share) * kept / 4) <= 16 * 16 / (128 * 16)


@pytest.mark.parametrize("window", [1, 3])
def test_the_block_of_one_huge_weight_stays_wherever_it_is(window):
    """Scores and masks are of the same places, also where a matrix has several blocks both ways."""
    image = keras.Input((8, 8, 2))
    x = image
    for number, width in enumerate((12, 20, 8)):
        x = layers.Conv2D(width, window, padding="same", name=f"conv{number}")(x)
    model = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    kernel = model.get_layer("conv1").kernel
    generator = np.random.default_rng(0)
    settings = PatternSettings(kept=2, of=4, block=4, block_share=0.6)
    for _ in range(12):
        value = generator.normal(0, 0.01, kernel.shape)
        place = tuple(generator.integers(0, size) for size in kernel.shape)
        value[place] = 1000.0
        kernel.assign(value)
        pattern = find_pattern(model, settings)
        assert pattern.masks["conv1"][place]
        row, column = place[3] // 4, (place[2] * window**2 + place[0] * window + place[1]) // 4
        assert pattern.blocks["conv1"][row, column]
        # Weights beside it in its block stay too, though others are larger.
        assert rows_of(pattern.masks["conv1"])[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4].sum() == 8


def test_saliency_is_of_the_classes_of_the_images():
    """What only the second half of the inputs' channels reads is worth nothing to images without these."""
    model = chain(16, 8)
    kernel = np.zeros((8, 16), "float32")
    kernel[:4, :8], kernel[4:, 8:] = 1, 1
    model.get_layer("dense0").set_weights([kernel, np.zeros(16, "float32")])
    model.get_layer("dense1").kernel.assign(np.abs(model.get_layer("dense1").kernel.numpy()) + 0.1)
    first = np.concatenate([np.ones((8, 4)), np.zeros((8, 4))], axis=1).astype("float32")
    settings = PatternSettings(kept=None, block=8, block_share=0.5)
    for images, stays in ((first, [True, False]), (first[:, ::-1], [False, True])):
        pattern = find_pattern(model, settings, data=(np.ascontiguousarray(images), np.arange(8) % 4))
        assert pattern.blocks["dense1"].tolist() == [stays]


def test_channels_that_nothing_reads_are_removed_and_outputs_are_those_of_the_masked_model():
    model = chain(16, 8)
    kernel = model.get_layer("dense1").kernel
    value = kernel.numpy()
    value[4:8] *= 1e-3
    kernel.assign(value)
    pattern = find_pattern(model, PatternSettings(kept=None, block=4, block_share=0.25))
    plan = unread_channels(model, pattern)
    assert plan.kept["dense0"].tolist() == [0, 1, 2, 3, *range(8, 16)]
    assert plan.kept["dense1"].tolist() == list(range(8))
    kernel.assign(np.where(pattern.masks["dense1"], value, 0))
    images = images_for(model, 5)
    expected = keras.ops.convert_to_numpy(model(images))
    apply_plan(model, plan)
    assert model.get_layer("dense1").kernel.shape == (12, 8)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(images)), expected, rtol=1e-5, atol=1e-6)


def test_a_group_that_nothing_reads_keeps_a_channel():
    model = made("residual")
    pattern = find_pattern(model, PatternSettings())
    for mask in pattern.masks.values():
        mask[:] = False
    kept = unread_channels(model, pattern).kept
    assert min(map(len, kept.values())) == 1
    apply_plan(model, unread_channels(model, pattern))


def test_bytes_are_of_weights_and_of_where_they_lie():
    both = find_pattern(chain(32, 16), PatternSettings(kept=2, of=4, block=16, block_share=0.5))
    # One of the two blocks stays, half of its 256 weights: 2 bits for each, and 1 for the block's column.
    assert both.bytes_needed("dense1") == (32 * 16 * 4, 128 * 4 + -(-(128 * 2 + 1) // 8))
    assert both.density("dense1") == 0.25


def test_masks_are_kept_as_safetensors(tmp_path):
    pattern = find_pattern(chain(16, 8, 8), PatternSettings())
    save_masks(pattern, tmp_path / "masks.safetensors")
    read = load_file(tmp_path / "masks.safetensors")
    assert set(read) == {"dense1", "dense2"}
    for path, mask in read.items():
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, pattern.masks[path])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kept": 5}, "N is from 1 to M. Received: 5:4"),
        ({"block": 6}, "multiple of M=4. Received: 6"),
        ({"block": 8, "block_share": 1.0}, "from 0 to below 1. Received: 1.0"),
    ],
)
def test_impossible_patterns_are_refused(options, message):
    with pytest.raises(PlanError, match=message):
        PatternSettings(**options)


def test_a_model_without_a_layer_between_is_refused():
    with pytest.raises(PlanError, match="has 2 convolutions and dense layers. A pattern leaves the first and the last"):
        find_pattern(chain(8), PatternSettings())


def test_the_table_says_what_a_tpu_gains():
    model = chain(16, 8)
    kernel = model.get_layer("dense1").kernel
    value = kernel.numpy()
    value[4:8] *= 1e-3
    kernel.assign(value)
    pattern = find_pattern(model, PatternSettings(block=4, block_share=0.25))
    table = pattern_table(pattern, unread_channels(model, pattern))
    assert "TPUs gain no latency" in table.caption
    assert "4 channels are read by nothing any more" in table.caption
    assert pattern_data(pattern)["layers"]["dense1"]["density"] == pattern.density("dense1") == 0.375
    assert pattern_data(pattern)["pattern"] == "2:4 in blocks of 4, 25% of them gone"
