"""Pruning of experts (UNCURL-style: Sarkar et al., 2024, arXiv 2409.01483) against what defines it."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from autoprune.cost import open_cost_model
from autoprune.data import Split, load_data
from autoprune.graph import find_branches, find_groups
from autoprune.models import zoo
from autoprune.models.networks.experts import MixtureOfExperts
from autoprune.planning import CalibrationData, Planner, make_plan
from autoprune.records import Target
from autoprune.settings import Constraints, DataSettings
from autoprune.surgery import Surgeon, apply_plan
from autoprune.training.feedback import Feedback
from helpers.brief_training import Trainer, accuracy_on
from helpers.topologies import images_for, randomise

EXPERTS, HIDDEN, UNITS, FEATURES = 8, 6, 5, 4


def mixture(top_k=2):
    """One mixture between a dense layer and the classifier, with random weights."""
    keras.utils.set_random_seed(0)
    image = keras.Input((3, FEATURES))
    x = keras.layers.Dense(FEATURES, name="before")(image)
    x = MixtureOfExperts(EXPERTS, HIDDEN, UNITS, top_k=top_k, name="moe")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax", name="classifier")(x))
    randomise(model)
    return model


def answer(x, router, kernel_in, kernel_out, bias_in, bias_out, top_k=2):
    """What chosen experts answer, one position at a time."""
    rows = []
    for row in x.reshape(-1, x.shape[-1]).astype("float64"):
        logits = row @ router
        chosen = np.argsort(-logits, kind="stable")[:top_k]
        gates = np.exp(logits[chosen] - logits[chosen].max())
        answers = [np.maximum(row @ kernel_in[e] + bias_in[e], 0) @ kernel_out[e] + bias_out[e] for e in chosen]
        rows.append(gates / gates.sum() @ np.array(answers))
    return np.array(rows).reshape(*x.shape[:-1], -1)


def weights_of(layer):
    names = ("router", "kernel_in", "kernel_out", "bias_in", "bias_out")
    return [np.asarray(getattr(layer, name), "float64") for name in names]


@pytest.mark.parametrize("top_k", [1, 2, 9])
def test_the_layer_answers_as_its_chosen_experts_do(top_k):
    layer = mixture(top_k).get_layer("moe")
    x = np.random.default_rng(1).normal(size=(7, 3, FEATURES)).astype("float32")
    np.testing.assert_allclose(np.asarray(layer(x)), answer(x, *weights_of(layer), top_k=top_k), rtol=1e-4, atol=1e-4)
    # Where all are level as many are chosen.
    gates = np.asarray(layer.route(np.zeros((1, FEATURES), "float32")))
    chosen = min(top_k, EXPERTS)
    np.testing.assert_allclose(gates[:, 0], [1 / chosen] * chosen + [0] * (EXPERTS - chosen), atol=1e-6)


def test_experts_widths_and_features_are_groups_of_their_own():
    sizes = {group.name: group.size for group in find_groups(mixture()) if group.prunable}
    assert sizes == {"before": FEATURES, "moe": EXPERTS, "moe#2": HIDDEN, "moe#3": UNITS}


def test_what_is_left_answers_as_if_the_others_had_never_been_there():
    model = mixture()
    images, layer = images_for(model, 9), model.get_layer("moe")
    before = [value.copy() for value in model.get_weights()]
    inner = keras.Model(model.inputs[0], model.get_layer("before").output)
    router, kernel_in, kernel_out, bias_in, bias_out = weights_of(layer)
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    plan = make_plan(model, {"moe": 0.5, "moe#2": 0.5, "moe#3": 0.6}, multiple_of=1)
    surgeon.apply(plan)
    assert (layer.experts, layer.hidden, layer.units) == (4, 3, 3)
    e, h, u = (plan.kept[name] for name in ("moe", "moe#2", "moe#3"))
    left = (
        router[:, e],
        kernel_in[e][:, :, h],
        kernel_out[e][:, h][:, :, u],
        bias_in[e][:, h],
        bias_out[e][:, u],
    )
    found = np.asarray(layer(np.asarray(inner(images))))
    np.testing.assert_allclose(found, answer(np.asarray(inner(images)), *left), rtol=1e-4, atol=1e-4)
    snapshot.restore()
    for value, was in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, was)


def test_experts_that_nothing_chooses_go_without_a_trace(tmp_path):
    model = mixture()
    layer, images = model.get_layer("moe"), images_for(model, 64)
    router = np.asarray(layer.router).copy()
    # Of these two columns one is always below the others, the other is a copy that always comes second.
    router[:, 5] = router[:, 1]
    router[:, 6] = router[:, 1]
    layer.router.assign(router)
    layer.top_k = 1
    usage = Planner(model, importance="expert_usage", data=images).scores["moe"]
    unused = np.flatnonzero(usage == 0)
    assert {5, 6} <= set(unused)
    assert usage.mean() == pytest.approx(1)  # as the scores of other groups
    expected = np.asarray(model(images))
    parameters = layer.count_params()
    size = EXPERTS - len(unused)
    plan = make_plan(model, {"moe": size / EXPERTS}, multiple_of=1, importance="expert_usage", data=images)
    apply_plan(model, plan)
    assert layer.experts == size
    assert layer.count_params() * EXPERTS == parameters * size
    np.testing.assert_array_equal(np.asarray(model(images)), expected)
    model.save(tmp_path / "left.keras")
    again = keras.models.load_model(tmp_path / "left.keras")
    np.testing.assert_array_equal(np.asarray(again(images)), expected)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images, np.arange(64) % 3, verbose=0)


def test_feedback_keeps_the_experts_whose_answers_weigh_most():
    model = mixture()
    planner = Planner(model, constraints=Constraints(multiple_of=1))
    feedback = Feedback(model, planner.groups, planner.plan({"moe": 0.5}))
    network = feedback.make_network(model, steps=1)
    network.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    layer = model.get_layer("moe")
    for name in ("kernel_out", "bias_out"):
        value = np.asarray(getattr(layer, name)).copy()
        value[[0, 2, 5, 7]] *= 0.01
        getattr(layer, name).assign(value)
    network.fit(images_for(model, 8), np.arange(8) % 3, epochs=2, batch_size=8, verbose=0)
    np.testing.assert_array_equal(feedback.plan.kept["moe"], [1, 3, 4, 6])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="gates are trained by TensorFlow")
def test_the_loss_falls_and_rises_with_the_gates_of_experts():
    from autoprune.evaluation.gated import GatedNetwork

    model = mixture()
    planner = Planner(model, constraints=Constraints(multiple_of=1, depth=False))
    split = Split(images_for(model, 32), np.arange(32) % 3)
    counts = dict(zip(planner.space.names, planner.space.full, strict=True))
    slopes = GatedNetwork(model, planner, split, split, seed=0).slope(np.ones(sum(counts.values()), "float32"))
    before = sum(counts[name] for name in list(counts)[: list(counts).index("moe")])
    assert np.abs(slopes[before : before + counts["moe"]]).min() > 0


def test_the_experts_of_the_small_network_are_dimensions():
    model = zoo.build("small_moe", (8, 8, 1), 10)
    options = {
        d.name: list(d.options) for d in Planner(model, constraints=Constraints(multiple_of=None)).space.dimensions
    }
    assert options["block1_experts"] == options["block2_experts"] == [2, 4, 6, 8]


def test_a_pruned_mixture_is_faster_on_a_tpu(compiler):
    model = zoo.build("small_moe", (8, 8, 1), 10)
    assert {"block1_experts", "block2_experts"} <= {branch.layers[-1] for branch in find_branches(model)}
    images = np.random.default_rng(0).random((16, 8, 8, 1)).astype("float32")
    costs = open_cost_model(Target("tpu_v5e"), cache=None, client=compiler)
    dense = costs.submit(model).result()
    ratios = {"block1_experts": 0.25, "block2_experts": 0.25}
    apply_plan(model, make_plan(model, ratios, multiple_of=1, importance="expert_usage", data=images))
    pruned = costs.submit(model).result()
    assert pruned.latency < 0.8 * dense.latency
    assert pruned.memory.total < dense.memory.total


def small_network():
    """All that it tells of an image passes its experts."""
    image = keras.Input((8, 8, 1))
    x = keras.layers.Dense(32, activation="relu", name="before")(keras.layers.Flatten()(image))
    x = keras.layers.ReLU()(MixtureOfExperts(EXPERTS, 16, 32, name="moe")(x))
    return keras.Model(image, keras.layers.Dense(10, activation="softmax", name="classifier")(x))


@pytest.mark.slow
def test_experts_that_a_task_uses_least_are_those_it_can_do_without():
    """A network of ten digits, for five of them: half of its experts go, by use or by the opposite."""
    ten, five = (load_data(DataSettings(reward_size=0.25, classes=c)) for c in (None, [0, 1, 2, 3, 4]))
    found = {"dense": [], "least": [], "most": []}
    for seed in range(3):
        keras.utils.set_random_seed(seed)
        model = small_network()
        trainer, weights = Trainer(model), model.get_weights()
        for _ in range(15):
            weights = trainer.train(weights, ten.train)
        found["dense"].append((accuracy_on(model, five.test),) * 2)
        data = CalibrationData(five.train.images)
        usage = Planner(model, importance="expert_usage", data=data).scores["moe"]
        for name, sign in (("least", 1), ("most", -1)):
            twin = small_network()
            twin.set_weights(weights)
            plan = make_plan(twin, {"moe": 0.5}, multiple_of=1)
            apply_plan(twin, replace(plan, kept={**plan.kept, "moe": np.sort(np.argsort(-sign * usage)[:4])}))
            at_once, trainer, left = accuracy_on(twin, five.test), Trainer(twin), twin.get_weights()
            for _ in range(5):
                left = trainer.train(left, five.train)
            found[name].append((at_once, accuracy_on(twin, five.test)))
    (dense, _), (least, least_trained), (most, most_trained) = (np.mean(found[name], axis=0) for name in found)
    print(f"dense {dense:.1%}; at once and trained without the least used {least:.1%}, {least_trained:.1%},")
    print(f"without the most used {most:.1%}, {most_trained:.1%}")
    assert least > most
    assert least_trained >= dense - 0.02
