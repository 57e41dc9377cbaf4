"""One trace serves every set of dropped branches, with whatever widths, and does what running eagerly does."""

import dataclasses
from functools import partial

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.data import Split
from autoprune.errors import PlanError
from autoprune.evaluation.evaluator import plan_key
from autoprune.evaluation.recovery import ShortTuning, recalibrate
from autoprune.evaluation.scoring import Passes
from autoprune.evaluation.traced import TracedNetwork
from autoprune.models import zoo
from autoprune.surgery import Surgeon
from helpers.branching import squeezed, squeezed_by_convolutions
from helpers.plans import dropping, uneven_plan
from helpers.topologies import images_for, randomise, transformer_block

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="others compile for each plan anew")
CLASSES = 5


def conv(x, name, filters=8, **options):
    x = layers.Conv2D(filters, 3, padding="same", name=name, **options)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def classified(inputs, x):
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


def inception():
    """All four branches of a block can go, but one; the second block's merge is followed by a batch norm."""
    image = keras.Input((8, 8, 2))
    x = conv(image, "stem")
    for number in (1, 2):
        pooled = layers.MaxPooling2D(3, strides=1, padding="same")(x)
        paths = [conv(x, f"mixed{number}_a", 4), conv(conv(x, f"mixed{number}_b", 6), f"mixed{number}_bb", 5)]
        paths += [conv(x, f"mixed{number}_c", 3), conv(pooled, f"mixed{number}_pool", 4)]
        x = layers.BatchNormalization()(layers.Concatenate(name=f"mixed{number}")(paths))
    return classified(image, layers.Conv2D(6, 3, name="last")(x))


def branches_within_branches():
    """The residual function of a block has one of its own, beside dropout and a loss for its activations."""
    image = keras.Input((8, 8, 2))
    x = conv(image, "stem")
    for block in ("first", "second"):
        y = conv(x, f"{block}_outer", activity_regularizer="l2")
        z = layers.Dropout(0.3)(conv(y, f"{block}_inner", 4))
        y = layers.Add(name=f"{block}_inner_add")([layers.Conv2D(8, 1, name=f"{block}_inner_out")(z), y])
        y = layers.SpatialDropout2D(0.2)(y)
        x = layers.add([conv(y, f"{block}_end", kernel_regularizer="l2"), x], name=f"{block}_add")
    return classified(image, x)


def nested_and_shared():
    """A nested model with branches is a branch itself, and another is called twice; a layer is shared by two blocks."""
    image = keras.Input((8, 8, 2))
    x = conv(image, "stem")

    def block(name):
        features = keras.Input((8, 8, 8))
        y = layers.Add()([features, conv(conv(features, f"{name}_a", 4), f"{name}_b")])
        return keras.Model(features, layers.Conv2D(8, 1, name=f"{name}_end")(y), name=name)

    x = x + block("branch")(x)
    twice = block("twice")
    x = twice(layers.ReLU()(twice(x)))
    shared = layers.Conv2D(8, 3, padding="same", name="shared")
    for number in (1, 2):
        x = layers.Add()([x, conv(shared(x), f"after_shared{number}")])
    return classified(image, x)


def three_operands():
    """A sum of three branches of which one has to stay, and one of four operands, one of them for every channel."""
    image = keras.Input((8, 8, 2))
    x = conv(image, "stem")
    x = layers.Add()([conv(x, "a"), conv(x, "b"), conv(x, "c")])
    each = layers.Conv2D(1, 1, name="map")(x)
    x = layers.Add()([conv(x, "d"), each, x, conv(x, "e")])
    return classified(image, x)


def transformer():
    image = keras.Input((8, 8, 2))
    x = layers.Conv2D(8, 4, strides=4, name="patches")(image)
    x = layers.Reshape((4, 8))(x)
    for number in (1, 2):
        x = transformer_block(x, 8, f"block{number}", dropout=0.1)
    return keras.Model(image, layers.Dense(CLASSES, activation="softmax")(layers.GlobalAveragePooling1D()(x)))


def masked_words():
    sentence = keras.Input((7,), dtype="int32")
    x = layers.Embedding(CLASSES, 8, mask_zero=True)(sentence)
    x = transformer_block(x, 8, "block")
    return keras.Model(sentence, layers.Dense(CLASSES, activation="softmax")(layers.GlobalAveragePooling1D()(x)))


def separate_words():
    """Tables within branches: their gradients come in slices."""
    sentence = keras.Input((7,), dtype="int32")
    x = layers.Add()([layers.Embedding(5, 8, name=f"table_{name}")(sentence) for name in "abc"])
    x = layers.Dense(6, activation="relu")(layers.LayerNormalization()(x))
    return keras.Model(sentence, layers.Dense(CLASSES, activation="softmax")(layers.GlobalMaxPooling1D()(x)))


def of_zoo(name):
    return zoo.build(name, (16, 16, 1), CLASSES, width=0.25)


def gated():
    """Gates whose products convolutions read, and one before a sum; the gate comes first in one product."""
    image = keras.Input((8, 8, 2))
    x = layers.Conv2D(6, 3, padding="same", name="stem")(image)
    y = layers.Conv2D(6, 3, padding="same", name="conv")(x)
    x = layers.Add(name="add")([x, layers.Multiply()([y, squeezed(y, 6, "se1")])])
    x = layers.Activation("swish")(x)
    return classified(image, layers.Conv2D(8, 3, name="last")(squeezed_by_convolutions(x, 6, "se2") * x))


NETWORKS = {
    **{name: partial(of_zoo, name) for name in ("small_mobilenet", "small_densenet", "small_resnet")},
    "resnet20": partial(of_zoo, "resnet20"),
    **{made.__name__: made for made in (inception, branches_within_branches, nested_and_shared, three_operands)},
    **{made.__name__: made for made in (transformer, masked_words, separate_words, gated)},
}
# A sum, a concatenation, attention.
QUICK = ("small_resnet", "inception", "transformer")


def random_plan(surgeon, seed):
    """Widths all different, and half of the branches that can go together."""
    plan = uneven_plan(surgeon.model, seed)
    generator = np.random.default_rng(seed)
    removable = [branch.name for branch in surgeon.branches if branch.removable]
    assert removable
    while True:
        half = tuple(name for name in removable if generator.random() < 0.5)
        plan = dropping(surgeon.model, surgeon.branches, plan, half)
        try:
            surgeon.check(plan)
            surgeon.slices(plan)
        except PlanError:
            continue
        if half:
            return plan


def scored(model, images, tuning, traced=None):
    """Outputs at first, the weights after tuning, and after recalibration."""
    outputs = np.asarray(model(images, training=False) if traced is None else traced(images))
    tuning(model, traced and traced.tune)
    tuned = model.get_weights()
    recalibrate(model, images, 16, traced and traced.collect)
    return outputs, tuned, model.get_weights()


def network(name):
    keras.utils.set_random_seed(0)
    model = NETWORKS[name]()
    randomise(model)
    # So that no activation is out of all proportion.
    for weight in model.trainable_variables:
        if len(weight.shape) > 1:
            weight.assign(weight * (0.5 * float(np.prod(weight.shape[:-1])) ** -0.5 / 0.25))
    return model


def prepared(model):
    """Images, tuning and passes."""
    images = images_for(model, 32)
    teacher = np.log(np.random.default_rng(0).dirichlet(np.ones(CLASSES), 32)).astype("float32")
    tuning = ShortTuning(Split(images, np.arange(32) % CLASSES), teacher, steps=2, batch_size=16)
    surgeon = Surgeon(model)
    passes = Passes(model, surgeon.groups, *tuning.first(8), tuning.loss_for(model), branches=surgeon.branches)
    return surgeon, images, tuning, passes


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_it_is_what_runs_eagerly_whatever_was_dropped(name):
    model = network(name)
    surgeon, images, tuning, passes = prepared(model)
    snapshot, before = surgeon.snapshot(), model.get_weights()
    for seed in range(4):
        plan = random_plan(surgeon, seed)
        with surgeon.pruning(plan, snapshot):
            eagerly = scored(model, images, tuning)
        with surgeon.pruning(plan, snapshot):
            traced = passes.network_for(plan.pruned)
            assert traced is not None
            compiled = scored(model, images, tuning, traced)
        np.testing.assert_allclose(compiled[0], eagerly[0], rtol=1e-4, atol=1e-5)
        for one, other in zip(compiled[1:], eagerly[1:], strict=True):
            differences = np.concatenate([np.abs(a - b).ravel() for a, b in zip(one, other, strict=True)])
            # Adam divides by gradients, some of which are but rounding.
            assert np.quantile(differences, 0.97) < 1e-4
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


BRANCH = "add[1]"


def residual(*inside):
    """A stem, a block of some layers, a convolution."""
    image = keras.Input((8, 8, 2))
    x = y = layers.Conv2D(8, 3, padding="same", name="stem")(image)
    for layer in inside:
        y = layer(y)
    x = layers.Add(name="add")([x, y])
    return classified(image, layers.Conv2D(8, 3, name="last")(x))


def test_what_changes_its_own_weights_within_a_branch_runs_eagerly_where_branches_go(caplog):
    model = residual(layers.SpectralNormalization(layers.Conv2D(8, 3, padding="same", name="conv"), name="block"))
    with caplog.at_level("INFO"):
        surgeon, *_, passes = prepared(model)
    (message,) = {record.getMessage() for record in caplog.records if "eagerly" in record.getMessage()}
    assert message.startswith("plans that drop branches are scored eagerly: TypeError: ")
    assert "changes its own weights" in message
    plan, snapshot = uneven_plan(model), surgeon.snapshot()
    with surgeon.pruning(plan, snapshot):
        assert passes.network_for(plan.pruned) is not None
    with surgeon.pruning(dataclasses.replace(plan, dropped=(BRANCH,)), snapshot):
        assert passes.network_for({*plan.pruned, BRANCH}) is None


def test_a_branch_is_tried_when_it_is_dropped_for_the_first_time(caplog):
    """Where that fails, other plans still run compiled."""
    *_, passes = prepared(residual(layers.Conv2D(8, 3, padding="same", name="block")))
    passes.network_for(set()).complaint = lambda *_: "no such thing"
    with caplog.at_level("INFO"):
        assert passes.network_for({BRANCH}) is None
    assert "plans that drop branches are scored eagerly: no such thing" in caplog.text
    assert passes.network_for(set()) is not None
    passes.network_for(set()).complaint = lambda *_: ""
    assert passes.network_for({"stem"}) is not None
    assert passes.network_for({"stem", BRANCH}) is None


def test_it_is_traced_with_all_of_its_branches():
    model = residual(layers.Conv2D(8, 3, padding="same", name="block"))
    surgeon = Surgeon(model)
    traced = TracedNetwork(model, surgeon.groups, branches=surgeon.branches)
    plan = dataclasses.replace(uneven_plan(model), dropped=(BRANCH,))
    with surgeon.pruning(plan, surgeon.snapshot()):
        assert "traced with all of its branches" in traced.complaint(images_for(model))


def test_plans_that_differ_by_dropped_branches_have_other_keys():
    model = residual(layers.Conv2D(8, 3, padding="same", name="block"))
    plan = uneven_plan(model)
    dropped = dataclasses.replace(plan, dropped=(BRANCH,))
    assert plan_key(plan) != plan_key(dropped)
    assert dropped.pruned == {*plan.pruned, BRANCH}
