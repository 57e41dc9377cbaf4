"""Backbones and classifiers of keras_hub, small and with random weights: pruned, saved, costed, trained, or refused."""

import subprocess
import sys
from contextlib import closing

import keras
import numpy as np
import pytest
from keras_hub import models as hub

from autoprune.cost import open_cost_model
from autoprune.errors import ModelError
from autoprune.graph import find_groups
from autoprune.models import keras_internals
from autoprune.models.safe_convolutions import safe_convolutions
from autoprune.planning import make_plan
from autoprune.records import Target
from autoprune.surgery import Surgeon
from helpers.oracle import kept_by_layer, zeroed_outputs
from helpers.topologies import randomise

SHAPE = (32, 32, 3)
IMAGES = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")


def resnet():
    return hub.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=SHAPE,
    )


def efficientnet(kinds, ratios):
    return hub.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0, 1.0],
        stackwise_depth_coefficients=[1.0, 1.0],
        stackwise_kernel_sizes=[3, 3],
        stackwise_num_repeats=[1, 2],
        stackwise_input_filters=[32, 16],
        stackwise_output_filters=[16, 24],
        stackwise_expansion_ratios=[1, 4],
        stackwise_strides=[1, 2],
        stackwise_squeeze_and_excite_ratios=ratios,
        stackwise_block_types=kinds,
        min_depth=8,
        input_shape=SHAPE,
    )


def mobilenet():
    return hub.MobileNetBackbone(
        stackwise_expansion=[[16, 24], [40]],
        stackwise_num_blocks=[2, 1],
        stackwise_num_filters=[[16, 16], [24]],
        stackwise_kernel_size=[[3, 3], [5]],
        stackwise_num_strides=[[2, 1], [1]],
        stackwise_se_ratio=[[None, None], [0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish"]],
        stackwise_padding=[[1, 1], [2]],
        output_num_filters=64,
        depthwise_filters=8,
        depthwise_stride=1,
        depthwise_residual=False,
        squeeze_and_excite=0.5,
        last_layer_filter=64,
        input_num_filters=16,
        image_shape=SHAPE,
    )


def deeplab():
    backbone = hub.DeepLabV3Backbone(
        image_encoder=resnet(),
        spatial_pyramid_pooling_key="P3",
        low_level_feature_key="P2",
        upsampling_size=2,
        dilation_rates=[2, 4],
        projection_filters=16,
        image_shape=SHAPE,
    )
    return hub.DeepLabV3ImageSegmenter(backbone=backbone, num_classes=4)


PRUNED = {
    "resnet": lambda: hub.ResNetImageClassifier(backbone=resnet(), num_classes=4),
    "densenet": lambda: hub.DenseNetBackbone([2, 2], growth_rate=8, compression_ratio=0.5, image_shape=SHAPE),
    "vgg": lambda: hub.VGGBackbone([1, 2], [16, 32], image_shape=SHAPE),
    "cspnet": lambda: hub.CSPNetBackbone(
        stem_filters=16,
        stem_kernel_size=3,
        stem_strides=1,
        stackwise_depth=[1, 1],
        stackwise_strides=[1, 2],
        stackwise_num_filters=[16, 32],
        block_type="dark_block",
        stage_type="dark",
        image_shape=SHAPE,
    ),
    "xception": lambda: hub.XceptionBackbone([[16, 16], [16, 16]], [True, False], image_shape=SHAPE),
    "efficientnet": lambda: hub.EfficientNetImageClassifier(
        backbone=efficientnet(["v1", "v1"], [0.25, 0.25]), num_classes=4
    ),
    # Its pyramid pooling has no rule, and cannot be built from what a file says of its shapes.
    "deeplab": deeplab,
}
# What is left whole, and the layers that are the reason: each makes channels in sublayers of its own.
REFUSED = {
    "efficientnet_v2": (
        lambda: efficientnet(["fused", "unfused"], [0, 0.25]),
        {"block1a_": "FusedMBConvBlock", "block2a_": "MBConvBlock", "block2b_": "MBConvBlock"},
    ),
    "mobilenet": (
        mobilenet,
        {"block_0_0": "DepthwiseConvBlock", "block_1_0": "InvertedResidualBlock", "block_3_0": "ConvBnActBlock"},
    ),
    "mit": (
        lambda: hub.MiTBackbone(
            [1, 1], 2, [1, 2], [2, 1], 0.1, [7, 3], [4, 2], image_shape=SHAPE, hidden_dims=[16, 32]
        ),
        {"patch_and_embed_0": "OverlappingPatchingAndEmbedding", "hierarchical_encoder_0_0": "HierarchicalTransformer"},
    ),
    "vit": (
        lambda: hub.ViTBackbone(SHAPE, (8, 8), 2, 4, 32, 64),
        {"vit_patching_and_embedding": "ViTPatchingAndEmbedding", "vit_encoder": "ViTEncoder"},
    ),
    "deit": (
        lambda: hub.DeiTBackbone(SHAPE, (8, 8), 2, 4, 32, 64),
        {"deit_patching_and_embedding": "DeiTEmbeddings", "deit_encoder": "DeiTEncoder"},
    ),
    "swin": (
        lambda: hub.SwinTransformerBackbone(
            image_shape=SHAPE, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=4
        ),
        {"patch_embedding": "PatchEmbedding", "stage_0": "SwinTransformerStage"},
    ),
    "hgnetv2": (
        lambda: hub.HGNetV2Backbone(
            depths=[1, 1],
            embedding_size=16,
            hidden_sizes=[32, 64],
            stem_channels=[3, 8, 16],
            hidden_act="relu",
            use_learnable_affine_block=True,
            stackwise_stage_filters=[[16, 8, 32, 1, 3, 3], [32, 16, 64, 1, 3, 3]],
            apply_downsample=[False, True],
            use_lightweight_conv_block=[False, True],
            image_shape=SHAPE,
        ),
        {"embedder": "HGNetV2Embeddings", "encoder": "HGNetV2Encoder"},
    ),
}

# In another process, where autoprune cannot be imported.
READER = """
import sys
sys.modules["autoprune"] = None
import keras, keras_hub, numpy as np
folder, *names = sys.argv[1:]
for name in names:
    stored = np.load(f"{folder}/{name}.npz")
    model = keras.models.load_model(f"{folder}/{name}.keras", compile=False)
    outputs = keras.tree.flatten(model(stored["images"], training=False))
    for number, output in enumerate(outputs):
        assert np.array_equal(np.asarray(output), stored[f"output{number}"]), name
    print(name, model.count_params())
"""


def flat(outputs):
    return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]


def outputs_with_norms_zeroed(model, groups, plan, images):
    """Outputs when whatever normalises channels that go gives zeros for them: all of DeepLab's are normalised."""
    layers, before = keras_internals.layers_by_path(model), model.get_weights()
    for group in (group for group in groups if group.name in plan.kept):
        for member in (member for member in group.members if member.name in ("gamma", "beta")):
            variable = getattr(layers[member.layer], member.name)
            variable.assign(variable.numpy() * np.isin(member.channels, plan.kept[group.name]))
    outputs = flat(model(images, training=False))
    model.set_weights(before)
    return outputs


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """Every model of PRUNED with half of every group removed, by name; its file and its outputs are in the folder."""
    folder, models = tmp_path_factory.mktemp("keras_hub"), {}
    for name, build in PRUNED.items():
        keras.utils.set_random_seed(0)
        model = build()
        randomise(model)
        groups = find_groups(model)
        plan = make_plan(model, 0.5, importance="l2", multiple_of=1)
        if name == "deeplab":  # On its dense network the oracle differs from Keras already.
            expected = outputs_with_norms_zeroed(model, groups, plan, IMAGES)
        else:
            expected = zeroed_outputs(model, kept_by_layer(groups, plan), IMAGES)
        report = Surgeon(model, groups).apply(plan)
        outputs = flat(model(IMAGES, training=False))
        model.save(folder / f"{name}.keras")
        np.savez(folder / f"{name}.npz", images=IMAGES, **{f"output{n}": y for n, y in enumerate(outputs)})
        models[name] = model, report, outputs, expected
    return folder, models


@pytest.mark.slow
@pytest.mark.parametrize("name", PRUNED)
def test_pruned_it_is_the_zeroed_original(pruned, name):
    model, report, outputs, expected = pruned[1][name]
    assert report.parameters_after == model.count_params() < 0.9 * report.parameters_before
    for output, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.slow
def test_files_are_read_without_autoprune_and_give_the_same(pruned):
    folder, models = pruned
    reader = subprocess.run([sys.executable, "-c", READER, folder, *models], capture_output=True, text=True)
    assert reader.returncode == 0, reader.stderr[-2000:]
    assert reader.stdout.split("\n")[:-1] == [f"{name} {models[name][0].count_params()}" for name in models]


@pytest.mark.slow
def test_each_is_costed_as_it_is(pruned):
    """By the TPU compiler, with the parameters and operations that are left."""
    models = {name: entry[0] for name, entry in pruned[1].items()}
    with closing(open_cost_model(Target("tpu_v5e", 2))) as cost_model:
        pending = {name: cost_model.submit(model) for name, model in models.items()}
        for name, answer in pending.items():
            cost = answer.result()
            assert cost.parameters == models[name].count_params()
            assert cost.latency > 0
            assert cost.flops > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", PRUNED)
def test_each_trains(pruned, name):
    model, _, outputs, _ = pruned[1][name]
    targets = keras.tree.map_structure(lambda tensor: np.zeros((2, *tensor.shape[1:]), "float32"), model.output)
    losses = keras.tree.map_structure(lambda _: "mse", model.output)
    model.compile(keras.optimizers.SGD(1e-3), losses, metrics=[], run_eagerly=True)
    with safe_convolutions(model):
        model.fit(IMAGES, targets, batch_size=2, shuffle=False, verbose=0)
    after = flat(model(IMAGES, training=False))
    assert all(np.isfinite(output).all() for output in after)
    assert any(not np.array_equal(output, before) for output, before in zip(after, outputs, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_left_whole_and_named(name):
    build, holders = REFUSED[name]
    model = build()
    reasons = " ".join(f"'{group.name}' {group.reason}" for group in find_groups(model) if not group.prunable)
    for layer, kind in holders.items():
        assert f"'{layer}' is a layer ({kind}" in reasons
    with pytest.raises(ModelError) as refused:
        make_plan(model, 0.5)
    assert next(iter(holders.values())) in str(refused.value)
