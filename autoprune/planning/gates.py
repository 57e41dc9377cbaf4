"""What replaces gates that go: their means over calibration images."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from autoprune.errors import PlanError
from autoprune.graph.branches import find_merge
from autoprune.models import keras_internals
from autoprune.planning.calibration import CalibrationData, check_images
from autoprune.records import Branch


def measure_gate_means(model: Any, gates: Sequence[Branch], data: CalibrationData | None) -> dict[str, np.ndarray]:
    """(channels,) The mean of each gate over the images, and over the calls of a model within the model, by name.

    The model runs eagerly, in inference mode, and nothing of it changes.

    Args:
        model: with all of its connections.
        gates: branches of the kind `gate`.
        data: the images; labels are not read.

    Raises:
        PlanError: there are gates and no images.
        DataError: the images do not fit the model.
    """
    if not gates:
        return {}
    if data is None:
        raise PlanError(
            f"In place of the gate '{gates[0].name}' comes its mean over some images: give data=images, about 256 "
            "images of the training split. Received: data=None"
        )
    check_images(model, data)
    graphs = keras_internals.graphs_by_path(model)
    at: dict[int, list[Branch]] = defaultdict(list)
    prefixes = set()
    for gate in gates:
        prefix, product = find_merge(graphs, gate)
        prefixes.add(prefix)
        at[id(product)].append(gate)
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = defaultdict(int)

    def run(graph: Any, values: dict[int, Any], run_call: keras_internals.RunCall) -> None:
        for call in keras_internals.nodes_of(graph):
            if call.is_input:
                continue
            tensors = [values[id(tensor)] for tensor in call.input_tensors]
            values.update(zip(map(id, call.outputs), run_call(call, tensors), strict=True))
            for gate in at.get(id(call), ()):
                found = keras.ops.convert_to_numpy(keras.ops.cast(tensors[gate.operand], "float32"))
                sums[gate.name] = sums.get(gate.name, 0) + found.sum(0, dtype=np.float64).reshape(-1)
                counts[gate.name] += len(found)

    with (
        keras_internals.running({graphs[prefix]: partial(run, graphs[prefix]) for prefix in prefixes}),
        keras_internals.without_gradients(),
    ):
        for images, _ in data.batches():
            keras_internals.run_on(model, images)
    return {gate.name: (sums[gate.name] / counts[gate.name]).astype(np.float32) for gate in gates}
