"""Optimisers that train a plain network as if each of its 3x3 convolutions were a block of several branches.

RepOptimizers (Ding et al., 2022, arXiv 2205.15242). A constant-scale linear addition gives, of an input x,

    s * conv3x3(x) + t * conv1x1(x) + a * x,

with constant scales s and t for each output channel and a trained factor a, which begins with 1; the last branch is
there where the input has as many channels, and positions, as the output. Trained by SGD it stays, step by step, equal
to one 3x3 convolution whose gradient is multiplied, element by element, by

    s_c^2 + t_c^2 + 1   at the centre, where an output channel c reads itself by an identity branch,
    s_c^2 + t_c^2       at the centre elsewhere,
    s_c^2               beside the centre.

The knowledge that is in the architecture of such blocks is in the optimiser then, and the network stays plain. What is
computed for a kernel follows its channels: pruned by surgery, slots of multipliers are cut as the kernels are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from autoprune.errors import ModelError
from autoprune.surgery.cutting import Slices

REPARAMETERIZED = ("rep_sgd", "rep_adamw")
_CENTRE = (1, 1)


@dataclass(frozen=True, eq=False)
class KernelScales:
    """What the branches behind one 3x3 kernel are multiplied by.

    Attributes:
        conv3x3: (outputs,) s.
        conv1x1: (outputs,) t.
        identity: (outputs,) the input channel that an output channel adds as it is; -1 for none.
        inputs: number of input channels.
    """

    conv3x3: np.ndarray
    conv1x1: np.ndarray
    identity: np.ndarray
    inputs: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the kernel."""
        return (3, 3, self.inputs, len(self.conv3x3))

    def multiplier(self, power: int) -> np.ndarray:
        """(3, 3, inputs, outputs) float32: the sum over the branches that reach an element of scales, to a power.

        Args:
            power: 2 for a gradient. 1 for an update that does not depend on the gradient's scale, as Adam's: there each
                branch moves by as much, whatever its scale.
        """
        beside, centre = np.abs(self.conv3x3) ** power, np.abs(self.conv1x1) ** power
        return self._place(np.broadcast_to(beside, self.shape), centre)

    def merge(self, conv3x3: np.ndarray, conv1x1: np.ndarray) -> np.ndarray:
        """(3, 3, inputs, outputs) float32: the kernel that gives what the branches give, with a = 1.

        Args:
            conv3x3: (3, 3, inputs, outputs) of the 3x3 branch.
            conv1x1: (1, 1, inputs, outputs) of the 1x1 branch.
        """
        return self._place(self.conv3x3 * conv3x3, self.conv1x1 * conv1x1[0, 0])

    def _place(self, whole: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """A kernel plus what belongs to its centre and the ones of the identity."""
        found = np.array(whole, np.float32)
        found[_CENTRE] += centre
        (outputs,) = np.nonzero(self.identity >= 0)
        found[(*_CENTRE, self.identity[outputs], outputs)] += 1
        return found

    def keep(self, inputs: np.ndarray, outputs: np.ndarray) -> "KernelScales":
        """Those of the kernel that is left.

        Args:
            inputs: (inputs,) bool, the input channels that stay.
            outputs: (outputs,) bool, the output channels that stay.
        """
        # One more entry, for outputs without an identity branch: index -1 finds it.
        places = np.append(np.where(inputs, np.cumsum(inputs) - 1, -1), -1)
        identity = places[self.identity[outputs]]
        return KernelScales(self.conv3x3[outputs], self.conv1x1[outputs], identity, int(inputs.sum()))


Scales = dict[str, KernelScales]  # By name of a layer.


def scales_to_json(scales: Scales) -> dict[str, Any]:
    """As plain data."""
    arrays = ("conv3x3", "conv1x1", "identity")
    return {
        name: {**{part: getattr(found, part).tolist() for part in arrays}, "inputs": found.inputs}
        for name, found in scales.items()
    }


def scales_from_json(data: Mapping[str, Any]) -> Scales:
    """The inverse of `scales_to_json`."""
    scales = {}
    for name, found in data.items():
        conv3x3, conv1x1 = (np.asarray(found[part], np.float32) for part in ("conv3x3", "conv1x1"))
        scales[name] = KernelScales(conv3x3, conv1x1, np.asarray(found["identity"], int), int(found["inputs"]))
    return scales


def is_scaled(layer: Any) -> bool:
    """Whether a layer is a 3x3 convolution, of any stride, whose filters read all channels."""
    return isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3) and layer.groups == 1


def has_identity(layer: Any) -> bool:
    """Whether a built convolution gives as many channels and positions as it reads."""
    same = layer.padding == "same" and tuple(layer.strides) == (1, 1)
    return same and layer.kernel.shape[-2] == layer.kernel.shape[-1]


def constant_scales(model: Any) -> Scales:
    """The scales that a search of them begins with: sqrt(2 / l) for both branches of the l-th convolution of its stage.

    A stage begins with the network, and where outputs have another height or width than those before.

    Args:
        model: built; of nested models, no layers are looked at.

    Raises:
        ModelError: it has no 3x3 convolution.
    """
    scales: Scales = {}
    size, depth = None, 0
    for layer in filter(is_scaled, model.layers):
        _, *positions = layer.output.shape
        positions.pop(-1 if layer.data_format == "channels_last" else 0)
        size, depth = positions, depth + 1 if positions == size else 1
        inputs, outputs = layer.kernel.shape[2:]
        each = np.full(outputs, np.sqrt(2 / depth), np.float32)
        identity = np.arange(outputs) if has_identity(layer) else np.full(outputs, -1)
        scales[layer.name] = KernelScales(each, each, identity, inputs)
    if not scales:
        raise ModelError(
            f"'{model.name}' has no 3x3 convolution: training.optimizer=rep_sgd and rep_adamw are for networks that "
            "have some, such as VGG. Choose adamw or sgd."
        )
    return scales


def keep_channels(scales: Scales, slices: Slices) -> Scales:
    """The scales of a model that has been pruned.

    Args:
        scales: by the names of the dense model's layers.
        slices: what stays, as `Surgeon.slices` gives it.
    """
    kept = {}
    for name, of_kernel in scales.items():
        masks = slices.variables.get((name, "kernel"), {})
        stays = (masks.get(axis, np.ones(size, bool)) for axis, size in enumerate(of_kernel.shape))
        _, _, inputs, outputs = stays
        kept[name] = of_kernel.keep(inputs, outputs)
    return kept


@keras.saving.register_keras_serializable("autoprune")
class CoupledSGD(keras.optimizers.SGD):
    """SGD whose weight decay is part of the gradient, as in most papers, and not, as Keras's, a step of its own.

    g + decay * w enters the momentum. Arguments are those of `keras.optimizers.SGD`, but for `weight_decay`.

    Args:
        coupled_decay: factor of a weight that is added to its gradient; `exclude_from_weight_decay` counts here too.
    """

    def __init__(self, learning_rate: Any = 0.01, coupled_decay: float = 0.0, **settings: Any) -> None:
        super().__init__(learning_rate, **settings)
        self.coupled_decay = coupled_decay

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable."""
        gradient = keras.ops.cast(gradient, variable.dtype)
        if self.coupled_decay and self._use_weight_decay(variable):
            gradient = gradient + keras.ops.cast(self.coupled_decay, variable.dtype) * variable
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        """What it is made of."""
        return {**super().get_config(), "coupled_decay": self.coupled_decay}


class _WithMultipliers(keras.optimizers.Optimizer):
    """Gives an optimiser a slot of multipliers for each variable; a file has the slots of a pruned model.

    Args:
        scales: by path of a 3x3 kernel; of other variables, multipliers are 1.
    """

    power: int

    def __init__(self, *settings: Any, scales: Mapping[str, Any] | None = None, **named: Any) -> None:
        super().__init__(*settings, **named)
        given = dict(scales or {})
        plain = {path: found for path, found in given.items() if not isinstance(found, KernelScales)}
        self.scales: Scales = {**given, **scales_from_json(plain)}
        self._awaited: tuple[str, ...] = ()  # Paths of kernels whose multipliers a file has.

    def build(self, variables: Sequence[Any]) -> None:
        """Make the slots.

        Raises:
            ValueError: a path of the scales is that of several variables.
        """
        if self.built:
            return
        super().build(variables)
        paths = [variable.path for variable in variables]
        if twice := [path for path in self.scales if paths.count(path) > 1]:
            raise ValueError(f"Scales are given by path, and several variables have this one: {', '.join(twice)}")
        fits = {v.path: tuple(v.shape) == self.scales[v.path].shape for v in variables if v.path in self.scales}
        self._awaited = tuple(path for path, fit in fits.items() if not fit)

        def initializer(path: str) -> Any:
            if not fits.get(path):
                return "ones"
            value = self.scales[path].multiplier(self.power)
            return lambda shape, dtype=None: keras.ops.convert_to_tensor(value, dtype)

        self.multipliers = [
            self.add_variable_from_reference(variable, "multiplier", initializer(variable.path))
            for variable in variables
        ]

    def load_own_variables(self, store: Any) -> None:
        """Read all slots, those of kernels that were pruned before they were saved among them."""
        super().load_own_variables(store)
        if len(store.keys()) == len(self.variables):
            self._awaited = ()

    def get_config(self) -> dict[str, Any]:
        """What it is made of: the scales as they were given, of the kernels before they were pruned."""
        return {**super().get_config(), "scales": scales_to_json(self.scales)}

    def _multiplier(self, variable: Any) -> Any:
        """That of a variable.

        Raises:
            ValueError: the scales are of a kernel of another shape.
        """
        if self._awaited:
            raise ValueError(
                f"The scales are of other shapes than the kernels {', '.join(self._awaited)}: was the model pruned "
                "since? Give the optimiser scales of what is left: autoprune.training.reparameterization.keep_channels."
            )
        return self.multipliers[self._get_variable_index(variable)]


@keras.saving.register_keras_serializable("autoprune")
class RepSGD(_WithMultipliers, CoupledSGD):
    """SGD of blocks in the place of 3x3 kernels: multiplies the gradient, before weight decay and momentum.

    Exact, with momentum and Nesterov's too, where the blocks' weights have the same weight decay. Arguments are those
    of `CoupledSGD`.

    Args:
        scales: by path of a 3x3 kernel.
    """

    power = 2

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable."""
        gradient = keras.ops.cast(gradient, variable.dtype) * self._multiplier(variable)
        super().update_step(gradient, variable, learning_rate)


@keras.saving.register_keras_serializable("autoprune")
class RepAdamW(_WithMultipliers, keras.optimizers.AdamW):
    """AdamW of blocks in the place of 3x3 kernels: multiplies the update, by scales that are not squared.

    Near what AdamW does with the blocks, not equal to it: there epsilon is added to gradients that are scaled. Weight
    decay is decoupled, as AdamW's. Arguments are those of `keras.optimizers.AdamW`.

    Args:
        scales: by path of a 3x3 kernel.
    """

    power = 1

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable; its learning rate has an element for each of its own."""
        rate = keras.ops.cast(learning_rate, variable.dtype) * self._multiplier(variable)
        super().update_step(gradient, variable, rate)


def make_optimizer(
    name: str, learning_rate: Any, weight_decay: float, scales: Mapping[str, KernelScales] | None = None
) -> keras.optimizers.Optimizer:
    """An optimiser, by its name in the settings.

    Args:
        name: `adamw`, `sgd` (Nesterov momentum of 0.9, coupled weight decay), `rep_sgd` or `rep_adamw`.
        learning_rate: a number or a schedule.
        weight_decay: coupled for `sgd` and `rep_sgd`.
        scales: for `rep_sgd` and `rep_adamw`, by path of a kernel.
    """
    momentum: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "coupled_decay": weight_decay}
    if name == "sgd":
        return CoupledSGD(learning_rate, **momentum)
    if name == "rep_sgd":
        return RepSGD(learning_rate, scales=scales, **momentum)
    if name == "rep_adamw":
        return RepAdamW(learning_rate, weight_decay=weight_decay, scales=scales)
    return keras.optimizers.AdamW(learning_rate, weight_decay=weight_decay)
