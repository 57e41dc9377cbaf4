"""What a pruned model must equal: the original with the removed channels set to zero wherever they flow.

The oracle runs the original graph call by call, and beside every tensor a mask of the same shape. Layers that make
channels get their mask from the plan; every other operation passes masks on by its own arithmetic: structural ones
are run on the mask itself, merges must find equal masks. It shares no code with the tracer.
"""

import keras
import numpy as np
from keras import layers

PRODUCERS = (
    *(layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Conv1DTranspose, layers.Conv2DTranspose),
    *(layers.Conv3DTranspose, layers.Dense, layers.SeparableConv1D, layers.SeparableConv2D),
)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
MERGES = (layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum)
RAW_MERGES = ("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Power")


def zeroed_outputs(model, kept_by_layer, inputs):
    """Outputs of the original with removed channels zeroed.

    kept_by_layer: for each producing layer's name the indices of its output channels that stay.
    """
    return _Interpreter(kept_by_layer).run(model, [np.asarray(x) for x in _as_list(inputs)])


def kept_by_layer(groups, plan):
    """The plan in terms of producing layers: which output channels of each stay."""
    kept = {}
    for group in groups:
        if group.name not in plan.kept:
            continue
        alive = np.isin(np.arange(group.size), plan.kept[group.name])
        for member in group.members:
            if member.role != "produces":
                continue
            mask = np.array([c < 0 or alive[c] for c in member.channels])
            name = member.layer.split("/")[-1]
            kept[name] = kept.get(name, np.ones(len(mask), bool)) & mask
    return kept


def outputs_of(model, inputs):
    """The model's outputs as arrays, always in a list."""
    return [keras.ops.convert_to_numpy(output) for output in _as_list(model(inputs, training=False))]


class _Interpreter:
    def __init__(self, kept):
        self.kept = kept
        self.masks = {}  # id of a tensor -> (the tensor, to keep it alive; its mask)

    def run(self, model, inputs):
        tensors = [keras.ops.convert_to_tensor(x, "float32") for x in inputs]
        for tensor in tensors:
            self._remember(tensor, np.ones(tuple(tensor.shape), "float32"))
        return [keras.ops.convert_to_numpy(t) for t in self._graph(model, tensors)]

    def _graph(self, model, tensors):
        graph = model._functional if isinstance(model, keras.Sequential) else model
        outputs = graph._run_through_graph(tensors, operation_fn=self._wrapped)
        return _as_list(outputs)

    def _wrapped(self, operation):
        def call(*args, **kwargs):
            flat = [x for x in keras.tree.flatten((args, kwargs)) if id(x) in self.masks]
            if isinstance(operation, keras.Model):
                outputs = self._graph(operation, flat)
                return outputs[0] if len(outputs) == 1 else outputs
            masks = [self.masks[id(x)][1] for x in flat]
            output = operation(*args, **kwargs)
            mask = self._mask(operation, masks, args, tuple(output.shape))
            # A constant where the channel was must not survive either (sigmoid(0), a bias): zero is zero.
            output = output * keras.ops.convert_to_tensor(mask)
            self._remember(output, mask)
            return output

        return call

    def _mask(self, operation, masks, args, shape):
        if isinstance(operation, PRODUCERS):
            alive = self.kept.get(operation.name, np.ones(self._channels(operation), bool)).astype("float32")
            return np.broadcast_to(self._along(operation, alive, len(shape)), shape).copy()
        if isinstance(operation, DEPTHWISE):
            axis = 1 if operation.data_format == "channels_first" else -1
            alive = np.moveaxis(masks[0], axis, -1).reshape(-1, masks[0].shape[axis])[0]
            alive = np.repeat(alive, operation.depth_multiplier)
            return np.broadcast_to(self._along(operation, alive, len(shape)), shape).copy()
        if isinstance(operation, layers.Concatenate) or type(operation).__name__ == "Concatenate":
            return np.concatenate(masks, operation.axis)
        if isinstance(operation, MERGES) or type(operation).__name__ in RAW_MERGES:
            spread = [np.broadcast_to(mask, shape) for mask in masks]
            spanning = [s for s, mask in zip(spread, masks, strict=True) if mask.shape[-1] == shape[-1]]
            for mask in spanning[1:]:
                assert np.array_equal(mask, spanning[0]), f"{operation.name} merges different channels"
            return np.prod(spread, axis=0)
        if tuple(masks[0].shape) == shape:
            return masks[0]
        structural = operation(keras.ops.convert_to_tensor(masks[0]))
        return (keras.ops.convert_to_numpy(structural) > 0).astype("float32")

    @staticmethod
    def _channels(layer):
        return layer.units if isinstance(layer, layers.Dense) else layer.filters

    @staticmethod
    def _along(layer, alive, rank):
        axis = 1 if getattr(layer, "data_format", "channels_last") == "channels_first" else rank - 1
        shape = [1] * rank
        shape[axis] = -1
        return alive.reshape(shape)

    def _remember(self, tensor, mask):
        self.masks[id(tensor)] = (tensor, mask)


def _as_list(value):
    return list(value) if isinstance(value, (list, tuple)) else [value]
