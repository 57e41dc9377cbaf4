"""Features that are distilled: where a model has them, how they are compared, and that nothing stays behind."""

import gc
import weakref

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.errors import ModelError
from autoprune.models import zoo
from autoprune.models.feature_distilling import (
    FeatureDistillationLoss,
    WithFeatures,
    similarities,
    similarity_loss,
    teachings,
)
from autoprune.models.outputs import classifier_input
from helpers.featured_network import featured, gram, summed, traces
from helpers.telling import log_probabilities, loss_of

# ------------------------------------------------------------------ the formula


def test_similarities_are_the_formula_of_the_paper():
    generator = np.random.default_rng(0)
    student, teacher = (generator.normal(size=(6, count)).astype("float32") for count in (3, 5))
    expected = np.linalg.norm(gram(student) - gram(teacher), "fro") ** 2 / 6**2
    losses = keras.ops.convert_to_numpy(similarity_loss(student, teacher))
    assert losses.shape == (6,)
    assert losses.mean() == pytest.approx(expected, rel=1e-5)
    rotated = teacher @ np.linalg.qr(generator.normal(size=(5, 5)))[0].astype("float32")
    for alike in (teacher, rotated, 7 * teacher):
        assert float(keras.ops.sum(similarity_loss(alike, teacher))) < 1e-10


def test_images_without_features_are_alike_to_none():
    """A network whose last ReLU lets nothing through has a loss and a gradient that are numbers."""
    import tensorflow as tf

    student = tf.Variable(np.zeros((4, 3), "float32"))
    with tf.GradientTape() as tape:
        loss = keras.ops.mean(similarity_loss(student, np.eye(4, dtype="float32")))
    assert float(loss) == pytest.approx(4 / 4**2)
    assert (np.asarray(tape.gradient(loss, student)) == 0).all()
    assert (np.asarray(similarities(np.zeros((2, 3), "float32"))) == 0).all()


@pytest.mark.parametrize(("outputs", "classes"), [(4, 4), (1, 2)])
def test_the_loss_is_that_of_the_outputs_and_a_weight_times_that_of_the_features(outputs, classes):
    generator = np.random.default_rng(0)
    student, teacher = (generator.random((5, count)).astype("float32") for count in (3, 2))
    given = np.full((5, outputs), 0.3, "float32")
    said = np.log(np.full((5, classes), 1 / classes, "float32"))
    labels = np.array([[0], [1], [1], [0], [1]], "float32")
    inner = loss_of(outputs, weight=0.4, temperature=2.0, from_logits=False)
    loss = FeatureDistillationLoss(inner, 30.0, outputs)
    rows = np.concatenate([labels, said, teacher], axis=1)
    expected = float(inner(np.concatenate([labels, said], axis=1), given))
    expected += 30 * np.linalg.norm(gram(student) - gram(teacher)) ** 2 / 25
    assert float(loss(rows, np.concatenate([given, student], axis=1))) == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------ the network that is trained


def nested():
    """A whole classifier behind another layer, twice."""
    model = featured()
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Rescaling(0.5), keras.Sequential([model])])


def convolutional():
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, activation="relu")(image)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(10, 1)(x))
    return keras.Model(image, layers.Softmax()(x))


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (featured, 8),
        (nested, 8),
        (convolutional, 6 * 6 * 4),
        (lambda: zoo.build("small_resnet", (8, 8, 1), 10, width=0.25), 64),
    ],
)
def test_it_is_the_model_with_its_features_and_leaves_no_trace(build, size):
    model = build()
    images = np.random.default_rng(0).random((3, *model.inputs[0].shape[1:])).astype("float32")
    before = traces(model)
    view = WithFeatures(model)
    for name in ("variables", "trainable_variables", "weights"):
        assert [id(v) for v in getattr(view, name)] == [id(v) for v in getattr(model, name)]
    given = np.asarray(view(images))
    np.testing.assert_array_equal(given[:, :10], model(images))
    assert given.shape == (3, 10 + size)
    assert traces(model) == before
    gone = weakref.ref(view)
    del view
    gc.collect()
    assert gone() is None


def test_features_are_those_before_dropout():
    model = featured()
    images = np.random.default_rng(0).random((4, 8, 8, 1)).astype("float32")
    pooling = model.layers[-3]
    assert isinstance(pooling, layers.GlobalAveragePooling2D)
    wanted = keras.Model(model.input, pooling.output)
    view = WithFeatures(model)
    np.testing.assert_array_equal(np.asarray(view(images))[:, 10:], wanted(images))
    model.layers[-4].kernel.assign(np.zeros((3, 3, 8, 8)))
    model.layers[-4].bias.assign(np.ones(8))
    assert (np.asarray(view(images, training=True))[:, 10:] == 1).all()


def test_a_teacher_says_probabilities_and_features():
    model, images = featured(), np.random.default_rng(0).random((7, 8, 8, 1)).astype("float32")
    said = teachings(model, images, batch_size=3)
    assert (said.shape, said.dtype) == ((7, 18), np.float32)
    np.testing.assert_allclose(said[:, :10], log_probabilities(model, images), rtol=1e-5)


# ------------------------------------------------------------------ what goes wrong


def hidden():
    """The nested classifier gives logits; the softmax is outside."""
    image = keras.Input((8, 8, 1))
    inner = keras.Model(image, layers.Dense(10)(layers.Flatten()(image)))
    outer = keras.Input((8, 8, 1))
    return keras.Model(outer, layers.Softmax()(inner(outer)))


def of_any_size():
    image = keras.Input((None, None, 1))
    return keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(10, 3)(image)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (hidden, r"\(Functional\) was met, behind which it cannot be found. Set training.feature_distillation=0"),
        (summed, r"\(Add\) was met"),
        (of_any_size, r"has shape \(None, None, None, 1\). Give the model's input a fixed size"),
    ],
)
def test_models_without_features_are_refused(build, message):
    with pytest.raises(ModelError, match=message):
        WithFeatures(build())


def test_classifiers_of_keras_applications_have_features():
    for name, size in (("MobileNet", 1024), ("MobileNetV3Small", 1024), ("VGG16", 4096)):
        with keras.StatelessScope(initialize_variables=False):
            model = getattr(keras.applications, name)(weights=None)
        assert np.prod(classifier_input(model).shape[1:]) == size
