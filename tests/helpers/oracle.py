"""What a pruned model must equal: the original with the removed channels set to zero wherever they flow.

The oracle runs the original graph call by call, and beside every tensor a mask of the same shape. Layers that make
channels get their mask from the plan; every other operation passes masks on by its own arithmetic: structural ones
are run on the mask itself, merges must find equal masks. Normalisations that average over channels average over those
whose mask is one, attention sums the heads that stay. An operand that a branch is adds zeros to a sum, whatever its
mask; behind a concatenation its channels are masked like removed ones; in a product a gate is its mean. It shares no
code with the tracer.
"""

import collections
import itertools

import keras
import numpy as np
from keras import layers

PRODUCERS = (
    *(layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Conv1DTranspose, layers.Conv2DTranspose),
    *(layers.Conv3DTranspose, layers.Dense, layers.Embedding, layers.SeparableConv1D, layers.SeparableConv2D),
)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
WRAPPERS = (layers.SpectralNormalization, layers.TimeDistributed)
MERGES = {
    *("Add", "Average", "CustomScaleLayer", "Divide", "Greater", "Less", "Maximum", "Minimum", "Multiply", "Power"),
    *("Subtract", "TrueDivide", "Where"),
}
REDUCTIONS = {"Amax", "Amin", "Max", "Mean", "Min", "Std", "Sum", "Var"}


def zeroed_outputs(model, kept_by_layer, inputs, dropped_operands=(), gate_means=None):
    """Outputs of the original with removed channels zeroed, and the contributions of branches.

    kept_by_layer: for each producing layer's name the indices of its output channels that stay.
    dropped_operands: of merges those that go, as `dropped_operands` gives them.
    gate_means: for those of products what they are replaced by, a number for each channel.
    """
    interpreter = _Interpreter(kept_by_layer, set(dropped_operands), gate_means or {})
    return interpreter.run(model, [np.asarray(x) for x in _as_list(inputs)])


def dropped_operands(branches, plan):
    """The dropped branches as operands of merges: (nested model's name or "", merge's name, call, operand)."""
    found = set()
    for branch in branches:
        if branch.name in plan.dropped:
            *_, owner, name = ("", *branch.merge.split("/"))
            found.add((owner, name, branch.call, branch.operand))
    return found


def means_by_operand(branches, plan):
    """What replaces the gates that a plan drops, by operand."""
    gates = [branch for branch in branches if branch.kind == "gate" and branch.name in plan.dropped]
    named = {gate.name: dropped_operands([gate], plan).pop() for gate in gates}
    return {operand: plan.gate_means[name] for name, operand in named.items()}


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
            *_, owner, name = ("", *member.layer.split("/"))
            # The projections of every attention have the same names.
            name = f"{owner}/{name}" if name in ("query", "attention_output") else name
            kept[name] = kept.get(name, np.ones(len(mask), bool)) & mask
    return kept


def outputs_of(model, inputs):
    """The model's outputs as arrays, always in a list."""
    return [keras.ops.convert_to_numpy(output) for output in _as_list(model(inputs, training=False))]


class _Interpreter:
    def __init__(self, kept, dropped, means):
        self.kept = kept
        self.dropped = dropped
        self.means = means
        self.kept_by_kernel = {}
        self.masks = {}  # id of a tensor -> (the tensor, to keep it alive; its mask)

    def run(self, model, inputs):
        made = [layer for layer in model._flatten_layers() if layer.name in self.kept and hasattr(layer, "kernel")]
        self.kept_by_kernel = {id(layer.kernel): self.kept[layer.name] for layer in made}
        tensors = [keras.ops.convert_to_tensor(x) for x in inputs]
        for tensor in tensors:
            self._remember(tensor, np.ones(tuple(tensor.shape), "float32"))
        return [keras.ops.convert_to_numpy(t) for t in self._graph(model, tensors, "")]

    def _graph(self, model, tensors, owner):
        graph = model._functional if isinstance(model, keras.Sequential) else model
        calls = collections.Counter()
        outputs = graph._run_through_graph(tensors, operation_fn=lambda op: self._wrapped(op, owner, calls))
        return keras.tree.flatten(outputs)

    def _wrapped(self, operation, owner, calls):
        def call(*args, **kwargs):
            flat = [x for x in keras.tree.flatten((args, kwargs)) if id(x) in self.masks]
            if isinstance(operation, keras.Model):
                outputs = self._graph(operation, flat, operation.name)
                return outputs[0] if len(outputs) == 1 else outputs
            masks = [self.masks[id(x)][1] for x in flat]
            here = (owner, operation.name, calls[operation.name])
            gone = {place for *merge, place in self.dropped if tuple(merge) == here}
            calls[operation.name] += 1
            if gone and type(operation).__name__ == "Multiply":
                (place,) = gone
                mean = np.asarray(self.means[*here, place]).reshape((1, *flat[place].shape[1:]))
                masks = [mask for other, mask in enumerate(masks) if other != place]
                places = itertools.count()
                args, kwargs = keras.tree.map_structure(
                    lambda x: keras.ops.zeros_like(x) + mean if id(x) in self.masks and next(places) == place else x,
                    (args, kwargs),
                )
            elif gone and type(operation).__name__ == "Concatenate":
                masks = [mask * (place not in gone) for place, mask in enumerate(masks)]
            elif gone:
                masks = [mask for place, mask in enumerate(masks) if place not in gone]
                places = itertools.count()
                args, kwargs = keras.tree.map_structure(
                    lambda x: keras.ops.zeros_like(x) if id(x) in self.masks and next(places) in gone else x,
                    (args, kwargs),
                )
            if isinstance(operation, layers.MultiHeadAttention):
                outputs, masks = self._attention(operation, *args, **kwargs)
            else:
                outputs = operation(*args, **kwargs)
                several = isinstance(outputs, (list, tuple))
                on_mask = self._on_mask(operation, args, kwargs)
                masks = self._masks(operation, masks, on_mask, [tuple(x.shape) for x in _as_list(outputs)])
                if type(operation).__name__ in NORMALISATIONS:
                    normalised = NORMALISATIONS[type(operation).__name__](operation, flat[0], masks[0])
                    outputs = keras.ops.convert_to_tensor(normalised, outputs.dtype)
                outputs = _as_list(outputs)
            # A constant where the channel was must not survive either (sigmoid(0), a bias): zero is zero.
            cast = keras.ops.cast
            outputs = [x * cast(keras.ops.convert_to_tensor(m), x.dtype) for x, m in zip(outputs, masks, strict=True)]
            for output, mask in zip(outputs, masks, strict=True):
                self._remember(output, mask)
            single = len(outputs) == 1 and not (not isinstance(operation, layers.MultiHeadAttention) and several)
            return outputs[0] if single else outputs

        return call

    def _on_mask(self, operation, args, kwargs):
        """The operation run on the masks of its inputs."""

        def run(of_mask=lambda mask: mask):
            def swap(x):
                return keras.ops.convert_to_tensor(of_mask(self.masks[id(x)][1])) if id(x) in self.masks else x

            swapped = keras.tree.map_structure(swap, (args, kwargs))
            outputs = operation(*swapped[0], **swapped[1])
            return [keras.ops.convert_to_numpy(x) for x in _as_list(outputs)]

        return run

    def _masks(self, operation, masks, on_mask, shapes):
        kind = type(operation).__name__
        inner = operation.layer if isinstance(operation, WRAPPERS) else operation
        if kind in ("Flip", "Split", "Stack"):
            assert all(np.array_equal(mask, masks[0]) for mask in masks)
            return on_mask()
        (shape,) = shapes
        if is_opaque(operation):
            assert all(mask.all() for mask in masks), f"{operation.name} runs code that may need the removed channels"
            return [np.ones(shape, "float32")]
        if isinstance(inner, PRODUCERS) and (inner.name in self.kept or not is_depthwise(inner)):
            alive = self._produced(inner).astype("float32")
            return [np.broadcast_to(self._along(inner, alive, len(shape)), shape).copy()]
        if isinstance(inner, DEPTHWISE) or is_depthwise(inner):
            axis = 1 if inner.data_format == "channels_first" else -1
            alive = np.moveaxis(masks[0], axis, -1).reshape(-1, masks[0].shape[axis])[0]
            alive = np.repeat(alive, shape[axis] // len(alive))
            return [np.broadcast_to(self._along(inner, alive, len(shape)), shape).copy()]
        if kind == "Concatenate":
            return [np.concatenate(masks, operation.axis)]
        if kind in MERGES:
            return [self._merged(operation, masks, shape)]
        if kind in REDUCTIONS:
            axis = None if operation.axis is None else tuple(operation.axis)
            return [masks[0].max(axis, keepdims=operation.keepdims)]
        if kind == "Pad" or kind.startswith("ZeroPadding"):
            return [self._padded(operation, masks[0], on_mask, shape)]
        if tuple(masks[0].shape) == shape and kind not in ("Transpose", "Moveaxis", "Swapaxes", "Permute", "Reshape"):
            return [masks[0]]
        return [(mask > 0).astype("float32") for mask in on_mask()]

    @staticmethod
    def _padded(operation, mask, on_mask, shape):
        """New pixels of a channel are as alive as the others; new channels are there to stay."""
        first = getattr(operation, "data_format", None) == "channels_first"
        pixels = tuple(axis for axis in range(1, len(shape)) if axis != (1 if first else len(shape) - 1))
        alive = np.broadcast_to(on_mask()[0].max(pixels, keepdims=True), shape)
        added = 1 - on_mask(np.ones_like)[0].max(pixels, keepdims=True)
        return np.maximum(alive, added)

    @staticmethod
    def _merged(operation, masks, shape):
        """Where channels meet they must be alive or gone together; a size of 1 is broadcast and constrains nothing."""
        if not masks:  # All operands are gone, within a branch that is.
            return np.zeros(shape, "float32")
        spread = [np.broadcast_to(mask, shape) for mask in masks]
        spanning = [s for s, mask in zip(spread, masks, strict=True) if mask.shape[-1] == shape[-1]]
        for mask in spanning[1:]:
            assert np.array_equal(mask, spanning[0]), f"{operation.name} merges different channels"
        return np.prod(spread, axis=0)

    def _attention(self, layer, query, value, key=None, return_attention_scores=False, **others):
        """Scaled dot-product attention, head by head; the heads that go add nothing."""
        assert not others, "the oracle knows attention without masks"
        numpy = keras.ops.convert_to_numpy
        mask = self.masks[id(query)][1]
        q, v, k = (numpy(x) for x in (query, value, value if key is None else key))

        def project(dense, x, equation):
            bias = numpy(dense.bias) if layer.use_bias else 0
            return np.einsum(equation, x, numpy(dense.kernel)) + bias

        q = project(layer._query_dense, q, "btd,dhk->bthk") / np.sqrt(layer.key_dim)
        k = project(layer._key_dense, k, "bsd,dhk->bshk")
        v = project(layer._value_dense, v, "bsd,dhv->bshv")
        logits = np.einsum("bthk,bshk->bhts", q, k)
        scores = np.exp(logits - logits.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        alive = self.kept.get(f"{layer.name}/query", np.ones(layer.num_heads, bool)).astype(q.dtype)
        summed = np.einsum("bhts,bshv,h->bthv", scores, v, alive)
        output = project(layer._output_dense, summed, "bthv,hvd->btd")
        features = self.kept.get(f"{layer.name}/attention_output", mask[0, 0] > 0).astype("float32")
        outputs = [keras.ops.convert_to_tensor(x.astype(q.dtype)) for x in (output, scores)]
        masks = [
            np.broadcast_to(features, output.shape).copy(),
            np.broadcast_to(alive[:, None, None], scores.shape).copy(),
        ]
        return (outputs, masks) if return_attention_scores else (outputs[:1], masks[:1])

    def _produced(self, layer):
        """Which channels a layer makes, also when the plan says it of another one that holds the same kernel."""
        kept = self.kept.get(layer.name, self.kept_by_kernel.get(id(getattr(layer, "kernel", None))))
        return np.ones(self._channels(layer), bool) if kept is None else kept

    @staticmethod
    def _channels(layer):
        names = {layers.Dense: "units", layers.Embedding: "output_dim"}
        return getattr(layer, names.get(type(layer), "filters"))

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


def is_opaque(operation):
    """Whether an operation runs a user's code, which may mix channels in any way and needs all of them."""
    return isinstance(operation, layers.Lambda) or not type(operation).__module__.startswith("keras.")


def is_depthwise(layer):
    """Whether a grouped convolution has one input channel in each group."""
    grouped = isinstance(layer, PRODUCERS) and getattr(layer, "groups", 1) > 1
    return grouped and tuple(layer.kernel.shape)[-2] == 1


def layer_norm(layer, x, mask):
    """Mean and variance over the normalised axes, counting what is alive."""
    x = keras.ops.convert_to_numpy(x)
    axes = tuple(axis % x.ndim for axis in layer.axis)
    count = np.maximum(mask.sum(axes, keepdims=True), 1)
    shape = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    if isinstance(layer, layers.RMSNormalization):
        scale = np.sqrt((x**2 * mask).sum(axes, keepdims=True) / count + layer.epsilon)
        return x / scale * layer.scale.numpy().reshape(shape)
    mean = (x * mask).sum(axes, keepdims=True) / count
    variance = ((x - mean) ** 2 * mask).sum(axes, keepdims=True) / count
    normal = (x - mean) / np.sqrt(variance + layer.epsilon)
    normal = normal * layer.gamma.numpy().reshape(shape) if layer.gamma is not None else normal
    return normal + layer.beta.numpy().reshape(shape) if layer.beta is not None else normal


def group_norm(layer, x, mask):
    """As layer normalisation within each of the original's groups of channels; the last axis is the channels'."""
    x = keras.ops.convert_to_numpy(x)
    assert layer.axis in (-1, x.ndim - 1)
    split = (*x.shape[:-1], layer.groups, x.shape[-1] // layer.groups)
    values, alive = x.reshape(split), mask.reshape(split)
    axes = (*range(1, x.ndim - 1), x.ndim)
    count = np.maximum(alive.sum(axes, keepdims=True), 1)
    mean = (values * alive).sum(axes, keepdims=True) / count
    variance = ((values - mean) ** 2 * alive).sum(axes, keepdims=True) / count
    normal = ((values - mean) / np.sqrt(variance + layer.epsilon)).reshape(x.shape)
    normal = normal * layer.gamma.numpy() if layer.gamma is not None else normal
    return normal + layer.beta.numpy() if layer.beta is not None else normal


NORMALISATIONS = {
    "GroupNormalization": group_norm,
    "LayerNormalization": layer_norm,
    "RMSNormalization": layer_norm,
}
