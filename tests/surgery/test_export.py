"""A pruned model leaves Keras by every door: SavedModel, LiteRT and ONNX give what it gives."""

import dataclasses

import keras
import numpy as np
import pytest

from autoprune.planning import make_plan
from autoprune.surgery import Surgeon
from helpers.branching import made_branching
from helpers.oracle import outputs_of
from helpers.topologies import images_for

# By name, the branches that go besides half of the channels.
WITHOUT_BRANCHES = {
    "inception": ("mixed1[1]", "mixed2[0]"),
    "inverted_residuals": ("sum1[1]",),
    "nested_blocks": ("twice/twice", "sum[1]"),
}
MODELS = (
    *("channel_shuffle", "convnext_block", "growing_concatenation", "slices", "squeeze_excite", "unet"),
    *WITHOUT_BRANCHES,
)

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="converters start from TensorFlow")


@pytest.fixture(params=MODELS)
def pruned(request):
    model = made_branching(request.param)
    images = images_for(model)
    dropped = WITHOUT_BRANCHES.get(request.param, ())
    report = Surgeon(model).apply(dataclasses.replace(make_plan(model, 0.5, multiple_of=1), dropped=dropped))
    assert report.dropped == dropped
    assert report.parameters_after < report.parameters_before
    return model, images, outputs_of(model, images)[0]


def test_saved_model(pruned, tmp_path):
    import tensorflow as tf

    model, images, expected = pruned
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.serve(images).numpy(), expected, rtol=1e-5, atol=1e-6)
    assert sum(int(np.prod(v.shape)) for v in loaded.variables) == sum(int(np.prod(v.shape)) for v in model.variables)


# The interpreter that TensorFlow still ships is the same as that of the package it asks to use instead.
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
def test_lite_rt(pruned, tmp_path):
    import tensorflow as tf

    model, images, expected = pruned
    model.export(tmp_path / "model.tflite", format="litert", verbose=False)
    interpreter = tf.lite.Interpreter(str(tmp_path / "model.tflite"))
    entry = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(entry, images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry, images)
    interpreter.invoke()
    output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")
def test_onnx(pruned, tmp_path):
    import onnxruntime

    model, images, expected = pruned
    if any(getattr(layer, "groups", 1) > 1 for layer in model.layers):
        pytest.skip("the converter knows no grouped convolutions, pruned or not")
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (output,) = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
