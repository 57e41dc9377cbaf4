"""How a model reaches the compiler, and what is said when it does not."""

import keras
import pytest
import tensorflow as tf

from autoprune.cost import open_cost_model
from autoprune.cost.compiler.compiler_errors import find_failing_layer
from autoprune.cost.compiler.cost_model import ROUTES
from autoprune.errors import CostError, DoesNotFitError, RouteError
from autoprune.models import zoo
from autoprune.planning import make_plan
from autoprune.records import Target
from autoprune.surgery import apply_plan
from helpers.topologies import made


@pytest.fixture
def opened(compiler):
    def opened(route="auto", name="tpu_v5e", batch_size=8, cache=None):
        return open_cost_model(Target(name, batch_size), cache=cache, client=compiler, route=route)

    return opened


@keras.saving.register_keras_serializable("routes")
class OnlyInTensorFlow(keras.layers.Layer):
    """Neither importable by the compiler's process nor made of what Keras on JAX knows."""

    def call(self, inputs):
        return tf.nn.depth_to_space(tf.nn.space_to_depth(inputs, 2), 2)


def with_layer(layer, shape=(8, 8, 3)):
    image = keras.Input(shape)
    x = keras.layers.Conv2D(16, 3, padding="same", name="first")(image)
    x = layer(x)
    x = keras.layers.Conv2D(16, 3, name="last")(keras.layers.Dropout(0.2)(x))
    return keras.Model(image, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)))


def test_layers_of_tensorflow_take_the_other_route_and_all_models_follow(opened):
    cost_model = opened()
    model = with_layer(OnlyInTensorFlow())
    first = cost_model.submit(model).result(timeout=300)
    plain = cost_model.submit(made("plain")).result(timeout=300)
    assert first.provenance["route"] == plain.provenance["route"] == ROUTES["tensorflow"]
    assert first.provenance["tensorflow"] == tf.__version__
    assert first.latency > 0
    assert first.memory.weights >= 2 * first.parameters


def test_plain_models_go_by_keras(opened):
    cost_model = opened()
    assert cost_model.submit(made("plain")).result(timeout=300).provenance["route"] == ROUTES["keras"]
    with pytest.raises(RouteError, match="other route|Keras on JAX|could not rebuild"):
        cost_model.submit(with_layer(OnlyInTensorFlow())).result(timeout=300)


@pytest.mark.parametrize("name", ["residual", "nested", "squeeze_excite"])
def test_the_routes_agree_on_memory_and_nearly_on_time(opened, name):
    keras_report, tf_report = (opened(route).submit(made(name)).result(timeout=300) for route in ROUTES)
    # Random states of dropout layers are arguments of their own on one route: a tile each.
    assert tf_report.memory.weights == pytest.approx(keras_report.memory.weights, abs=4096)
    assert tf_report.latency == pytest.approx(keras_report.latency, rel=0.35)
    assert (tf_report.flops, tf_report.parameters) == (keras_report.flops, keras_report.parameters)


def test_routes_do_not_share_what_is_remembered(opened, tmp_path):
    reports = [
        opened(route, cache=tmp_path / "costs.sqlite").submit(made("plain")).result(timeout=300) for route in ROUTES
    ]
    again = [
        opened(route, cache=tmp_path / "costs.sqlite").submit(made("plain")).result(timeout=300) for route in ROUTES
    ]
    assert again == reports
    assert [report.provenance["route"] for report in again] == list(ROUTES.values())


def test_pruning_is_seen_by_the_other_route(opened):
    cost_model = opened("tensorflow", batch_size=128)
    model = zoo.build("small_resnet", None, None)
    before = cost_model.submit(model).result(timeout=300)
    apply_plan(model, make_plan(model, 0.25))
    after = cost_model.submit(model).result(timeout=300)
    assert after.latency < 0.7 * before.latency
    assert after.memory.weights < 0.2 * before.memory.weights


def test_refused_model_names_the_layer(opened):
    """No TPU computes eigenvalues of a matrix that is not symmetric."""
    image = keras.Input((6, 6))
    x = keras.layers.Dense(6, name="before")(image)
    x = keras.ops.real(keras.ops.eig(x)[0])
    model = keras.Model(image, keras.layers.Dense(3, name="after")(x))
    with pytest.raises(CostError, match=r"not found for platform tpu.*first layer that is refused: 'eig") as caught:
        opened("keras").submit(model).result(timeout=300)
    assert "simplicity" not in str(caught.value)
    with pytest.raises(CostError, match="refused: 'eig.*By another route: TensorFlow cannot hand the model"):
        opened("auto").submit(model).result(timeout=300)


def test_the_first_refused_layer_is_found_in_nested_models():
    inner_image = keras.Input((4,))
    inner = keras.Model(inner_image, keras.layers.ReLU(name="bad")(keras.layers.Dense(4)(inner_image)), name="inner")
    image = keras.Input((4,))
    model = keras.Model(image, keras.layers.Dense(2)(inner(keras.layers.Dense(4)(image))))

    def works(part):
        names = {layer.name for layer in part.layers} | {
            layer.name for nested in part.layers if isinstance(nested, keras.Model) for layer in nested.layers
        }
        return "bad" not in names

    assert find_failing_layer(model, works) == "inner/bad"


def test_a_model_that_does_not_fit_is_an_answer(opened):
    """A million images at once do not fit in 16 GB; the next model is costed as if nothing had been."""
    with pytest.raises(DoesNotFitError, match=r"needs \d+\.\d+ GiB of the device's 15\.75 GiB") as caught:
        opened(batch_size=1_000_000).submit(zoo.build("small_resnet", (32, 32, 3), None)).result(timeout=300)
    assert caught.value.needed > 10 * caught.value.available > 0
    assert opened().submit(made("plain")).result(timeout=300).latency > 0
