"""An operation of `keras.ops` that is given a value for each channel is pruned right, or leaves the channels whole."""

import inspect

import keras
import numpy as np
import pytest
from keras import layers, ops

from autoprune.errors import ModelError
from autoprune.graph import find_groups
from autoprune.layers import list_kinds
from autoprune.planning import make_plan
from autoprune.surgery import Surgeon

CHANNELS = 6
EMPTY = inspect.Parameter.empty


def raw_operations():
    """Every class of operation that Keras defines for `keras.ops`."""
    pending, found = [keras.Operation], {}
    while pending:
        for kind in pending.pop().__subclasses__():
            pending.append(kind)
            if kind.__module__.startswith("keras.src.ops.") and not issubclass(kind, keras.Function):
                found[kind.__name__] = kind
    return found


OPERATIONS = raw_operations()
KNOWN = sorted(kind for kind in list_kinds() if isinstance(kind, str))
PER_CHANNEL = {
    "list": [0.1 * number + 0.2 for number in range(CHANNELS)],
    "tuple": tuple(0.9 - 0.1 * number for number in range(CHANNELS)),
    "nested list": [[[[0.1 * number + 0.2 for number in range(CHANNELS)]]]],
    "integers": [1, 2, 1, 2, 1, 2],
    "array": np.linspace(0.1, 0.7, CHANNELS, dtype="float32"),
}
# What an operation needs beside the value for each channel and the tensor.
OTHERS = {
    **{name: 1.0 for name in ("default_value", "threshold", "x_max", "x1", "x2")},
    **{name: -1 for name in ("axis", "axis2", "x_min", "source")},
    **{"axis1": 0, "axes": (0, 1, 2, 3), "condition": True, "destination": -1, "dtype": "float32", "repeats": 1},
    **{"newshape": (-1, 3, 3, CHANNELS), "pad_width": ((0, 0), (1, 1), (0, 0), (0, 0)), "pool_size": 2, "size": (5, 4)},
    **{"indices_or_sections": 2, "constant_values": 0.0, "pad_to_aspect_ratio": True},
}


def parameters_of(kind):
    """Names of what an operation may be given beside its first tensor: when it is made, and when it is called."""
    made = [name for name in inspect.signature(kind.__init__).parameters if name not in ("self", "name", "kwargs")]
    return made, [name for name in inspect.signature(kind.call).parameters if name != "self"]


def calls_with(kind, value):
    """For every parameter of the operation a function that calls it with the value for that, and a tensor."""
    made, called = parameters_of(kind)
    needed = {
        name
        for method in (kind.__init__, kind.call)
        for name, parameter in inspect.signature(method).parameters.items()
        if parameter.default is EMPTY
    } | {"pad_to_aspect_ratio"}
    for name in (*made, *called):
        # Of several tensors each in turn is the one that is pruned.
        for tensor in [other for other in called if other != name][:2]:

            def call(x, name=name, tensor=tensor):
                others = {other: OTHERS[other] for other in (*made, *called) if other in needed and other in OTHERS}
                given = {**others, name: value, tensor: x}
                operation = kind(**{key: given[key] for key in made if key in given})
                return operation(**{key: given[key] for key in called if key in given})

            yield name, call


def accepts(call):
    """Whether Keras takes the value there, together with these other arguments."""
    try:
        call(keras.KerasTensor((None, 3, 3, CHANNELS)))
        call(ops.ones((2, 3, 3, CHANNELS)))
    except Exception:  # noqa: BLE001 - each backend has its own.
        return False
    return True


def model_with(call):
    keras.utils.set_random_seed(0)
    image = keras.Input((3, 3, 2))
    made = call(layers.Conv2D(CHANNELS, 1, name="before")(image))
    made = made[0] if isinstance(made, (list, tuple)) else made
    made = ops.cast(made, "float32")
    return keras.Model(image, layers.Dense(2, name="after")(made) if len(made.shape) > 1 and made.shape[-1] else made)


def outputs_of(model, images):
    return ops.convert_to_numpy(model(images))


def outputs_without(model, kept, images):
    """Outputs of the original when the last layer reads zeros for the channels that go."""
    before, after = model.get_layer("before"), model.layers[-1]
    alive = np.isin(np.arange(CHANNELS), kept)
    readers = [m.channels for g in find_groups(model) for m in g.members if m.layer == "after" and m.role == "consumes"]
    if not readers:  # Such as behind a sum over the channels.
        weights = before.get_weights()
        before.set_weights([weight * alive for weight in weights])
        outputs = outputs_of(model, images)
        before.set_weights(weights)
        return outputs
    features = outputs_of(keras.Model(model.input, after.input), images)
    alive = np.array([channel < 0 or alive[channel] for channel in readers[0]])
    return np.where(alive, features, 0) @ after.kernel.numpy() + after.bias.numpy()


# What certainly takes a value for each channel: these must not only be left whole.
FOLLOWED = {
    "Celu": {"alpha"},
    "Clip": {"x_max", "x_min"},
    "Elu": {"alpha"},
    "Resize": {"fill_value"},
    "Squareplus": {"b"},
    "Threshold": {"default_value", "threshold"},
}


@pytest.mark.parametrize("kind", KNOWN)
def test_value_for_each_channel_follows_them_or_leaves_them_whole(kind):
    images = np.random.default_rng(0).normal(size=(2, 3, 3, 2)).astype("float32")
    compared = set()
    for form, value in PER_CHANNEL.items():
        for name, call in calls_with(OPERATIONS[kind], value):
            if not accepts(call):
                continue
            model = model_with(call)
            before = next(group for group in find_groups(model) if group.name == "before")
            if not before.prunable:
                assert before.reason
                continue
            try:
                plan = make_plan(model, {"before": 0.5}, importance="random", multiple_of=1)
            except ModelError as error:
                if "cannot be saved by Keras" in str(error):
                    continue
                raise
            expected, whole = outputs_without(model, plan.kept["before"], images), outputs_of(model, images)
            surgeon = Surgeon(model)
            snapshot = surgeon.snapshot()
            surgeon.apply(plan)
            told = f"{kind} with {name} as {form}"
            np.testing.assert_allclose(outputs_of(model, images), expected, rtol=1e-4, atol=1e-5, err_msg=told)
            surgeon.restore(snapshot)
            np.testing.assert_array_equal(outputs_of(model, images), whole)
            compared.add(name)
    assert compared >= FOLLOWED.get(kind, set())


def test_operation_without_a_rule_leaves_what_enters_it_whole():
    called = set()
    for name in sorted(set(OPERATIONS) - set(KNOWN)):
        kind = OPERATIONS[name]
        plain = ("", lambda x, kind=kind: kind()(x))
        for _, call in (plain, *calls_with(kind, PER_CHANNEL["list"])):
            if accepts(call):
                called.add(name)
                before = next(group for group in find_groups(model_with(call)) if group.name == "before")
                assert not before.prunable, name
                break
    assert len(called) > 100
