"""Losses, scores and divergences of each kind of output, beside the formulas in NumPy and Keras's own."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.errors import DataError
from autoprune.settings import TaskSettings
from autoprune.tasks import Judge, add_teacher, make_task
from autoprune.tasks.heads import Classes, Labels, Pixels, Values


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(size=(6, 4, 5, 3)).astype("float32")
TEACHER = GENERATOR.normal(size=(6, 4, 5, 3)).astype("float32")
MASKS = GENERATOR.integers(0, 3, (6, 4, 5))


def tensor(array):
    """As training has it."""
    array = np.asarray(array)
    return keras.ops.convert_to_tensor(array.astype("float32" if array.dtype.kind == "f" else "int32"))


def told_by(head, outputs, *, raw):
    return np.asarray(head.tell(tensor(outputs), raw=raw)).astype(np.float64)


# ------------------------------------------------------------------ what an output tells


@pytest.mark.parametrize("raw", [True, False])
def test_pixels_are_scored_as_classes_of_pixels(raw):
    head = Pixels().fit_to(MASKS)
    told = told_by(head, LOGITS if raw else softmax(LOGITS), raw=raw)
    probabilities = softmax(LOGITS)
    np.testing.assert_allclose(np.exp(told), probabilities, rtol=1e-4)
    right = np.take_along_axis(probabilities, MASKS[..., None], -1)[..., 0]
    np.testing.assert_allclose(head.surprise(MASKS, told), -np.log(right).mean((1, 2)), rtol=1e-4)
    was = softmax(TEACHER)
    expected = (was * (np.log(was) - np.log(probabilities))).sum(-1).mean((1, 2))
    np.testing.assert_allclose(head.divergence(np.log(was), told), expected, rtol=1e-3)
    losses = np.asarray(head.own_losses(tensor(MASKS), tensor(told)))
    np.testing.assert_allclose(losses, -np.log(right), rtol=1e-4)


# Keras counts in whole numbers of 64 bits, which JAX has none of.
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64")
def test_pixels_that_do_not_count_are_left_out_everywhere():
    given = np.where(GENERATOR.random(MASKS.shape) < 0.3, 255, MASKS)
    counted = given != 255
    task, masks = make_task(TaskSettings("segmentation", ignored_class=255)).read_labels(given)
    head = task.heads[0]
    told = np.log(softmax(LOGITS)).astype(np.float64)
    right = np.take_along_axis(told, MASKS[..., None], -1)[..., 0]
    expected = [-right[i][counted[i]].mean() for i in range(6)]
    np.testing.assert_allclose(head.surprise(masks, told), expected, rtol=1e-5)
    inputs = keras.Input((4, 5, 3))
    judge = Judge(task, keras.Model(inputs, keras.layers.Identity()(inputs)))
    losses = judge.losses(tensor(masks), tensor(LOGITS), [tensor(told)])
    np.testing.assert_allclose(np.asarray(losses), expected, rtol=1e-4)
    metric = judge.make_metric()
    judge.update_metric(metric, tensor(masks), tensor(LOGITS))
    named = LOGITS.argmax(-1)
    shares = [
        (counted & (named == c) & (c == MASKS)).sum() / (counted & ((named == c) | (c == MASKS))).sum()
        for c in range(3)
    ]
    assert float(metric.result()) == pytest.approx(np.mean(shares), rel=1e-5)


@pytest.mark.parametrize("raw", [True, False])
def test_labels_are_scored_one_by_one(raw):
    logits, labels = LOGITS[:, 0, 0], (MASKS[:, 0, :3] > 0).astype("float32")
    head = Labels().fit_to(labels)
    told = told_by(head, logits if raw else sigmoid(logits), raw=raw)
    np.testing.assert_allclose(told, logits, rtol=1e-3, atol=1e-4)
    yes = sigmoid(logits.astype(np.float64))
    expected = -(labels * np.log(yes) + (1 - labels) * np.log(1 - yes)).mean(1)
    np.testing.assert_allclose(head.surprise(labels, told), expected, rtol=1e-3)
    np.testing.assert_allclose(np.asarray(head.own_losses(tensor(labels), tensor(told))).mean(1), expected, rtol=1e-3)
    was = sigmoid(TEACHER[:, 0, 0].astype(np.float64))
    apart = was * np.log(was / yes) + (1 - was) * np.log((1 - was) / (1 - yes))
    np.testing.assert_allclose(head.divergence(TEACHER[:, 0, 0], told), apart.mean(1), rtol=1e-3, atol=1e-6)


def test_numbers_are_scored_beside_their_spread():
    labels = GENERATOR.normal(5, 3, (50, 2)).astype("float32")
    head = Values().fit_to(labels)
    assert head.variance == pytest.approx(labels.var(0).mean(), rel=1e-5)
    means = np.broadcast_to(labels.mean(0), labels.shape)
    assert head.surprise(labels, means).mean() == pytest.approx(1, rel=1e-4)
    assert (head.divergence(labels, labels) == 0).all()


# ------------------------------------------------------------------ teaching


@pytest.mark.parametrize("kind", ["segmentation", "multi_label", "regression"])
def test_a_teacher_that_tells_the_truth_and_labels_are_weighed(kind):
    labels = {"segmentation": MASKS, "multi_label": (MASKS[:, 0, :3] > 0) * 1, "regression": TEACHER[:, 0, 0]}[kind]
    outputs = LOGITS if kind == "segmentation" else LOGITS[:, 0, 0]
    task, read = make_task(TaskSettings(kind)).read_labels(labels)
    inputs = keras.Input(outputs.shape[1:])
    judge = Judge(task, keras.Model(inputs, keras.layers.Identity()(inputs)))
    teacher = judge.ask(TEACHER if kind == "segmentation" else TEACHER[:, 1, 1])

    def loss(weight, told):
        made = judge.loss(teacher=weight, temperature=2.0)
        return float(made(tensor(add_teacher(read, told)), tensor(outputs)))

    alone = float(judge.loss()(tensor(read), tensor(outputs)))
    by_weight = [loss(weight, teacher) for weight in (0, 0.25, 1)]
    assert by_weight[0] == pytest.approx(alone, rel=1e-5)
    assert by_weight[1] == pytest.approx(0.75 * by_weight[0] + 0.25 * by_weight[2], rel=1e-5)
    assert loss(1, judge.ask(outputs)) < by_weight[2], "nobody is nearer to a network than itself"


# ------------------------------------------------------------------ labels


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        ("segmentation", np.zeros(5, int), r"shape \(n, height, width\)"),
        ("segmentation", np.full((5, 3, 3), 0.5), "Masks are class numbers"),
        ("segmentation", np.full((5, 3, 3), -1), "from 0. Received: -1"),
        ("segmentation", np.where(np.eye(3), 255, 1)[None], "task.ignored_class=255"),
        ("multi_label", np.full((5, 3), 2), "zeros and ones"),
        ("multi_label", np.zeros(5), "zeros and ones"),
        ("regression", np.array(["a"]), "finite numbers"),
        ("regression", np.array([np.nan]), "finite numbers"),
    ],
)
def test_labels_of_another_kind_are_refused(kind, labels, message):
    with pytest.raises(DataError, match=message):
        make_task(TaskSettings(kind)).read_labels(labels)


@pytest.mark.parametrize("given", [MASKS, MASKS[..., None], MASKS.astype("uint8"), MASKS * 1.0, np.eye(3)[MASKS]])
def test_masks_come_in_several_forms(given):
    _, read = make_task(TaskSettings("segmentation")).read_labels(given)
    np.testing.assert_array_equal(read, MASKS)
    assert read.dtype == np.int64


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["classification", "segmentation", "multi_label", "regression"]), min_size=2, max_size=4),
    st.integers(0, 2**31),
)
def test_labels_of_several_outputs_come_back_from_one_array(kinds, seed):
    generator = np.random.default_rng(seed)
    make = {
        "classification": lambda: generator.integers(0, 4, 6),
        "segmentation": lambda: generator.integers(0, 4, (6, 3, 2)),
        "multi_label": lambda: generator.integers(0, 2, (6, 5)),
        "regression": lambda: generator.normal(size=(6, 2, 2)).astype("float32"),
    }
    labels = {f"{number} {kind}": make[kind]() for number, kind in enumerate(kinds)}
    task = make_task(TaskSettings("outputs", outputs={name: name.split()[1] for name in labels}))
    fitted, packed = task.read_labels(labels)
    again = task.refit(fitted.label_facts())
    order = generator.permutation(6)[:3]
    for parts in (fitted.unpack(packed[order]), again.unpack(keras.ops.convert_to_tensor(packed[order]))):
        for part, given_labels in zip(parts, labels.values(), strict=True):
            np.testing.assert_array_equal(np.asarray(part), given_labels[order])


def test_of_two_equal_classes_the_second_counts():
    head = Classes()
    assert head.right(np.array([1, 0]), np.log(np.full((2, 2), 0.5))).tolist() == [True, False]
