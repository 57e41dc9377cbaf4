"""The search of the scales by which branches are added, see `reparameterization.py`, and kernels to begin with.

The same network is trained with its branches and with scales that are trained too; of what it has learnt, only the
scales are kept (Hyper-Search; Ding et al., 2022, arXiv 2205.15242).
"""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from autoprune.cost.cache import cache_key
from autoprune.data import Dataset
from autoprune.models import keras_internals
from autoprune.models.fingerprint import architecture_fingerprint
from autoprune.records.plain import read_json, write_json
from autoprune.settings import TrainingSettings
from autoprune.settings.places import user_cache_folder
from autoprune.training.course import TrainingError
from autoprune.training.fit import train
from autoprune.training.reparameterization import (
    REPARAMETERIZED,
    KernelScales,
    Scales,
    constant_scales,
    has_identity,
    is_scaled,
    scales_from_json,
    scales_to_json,
)

logger = logging.getLogger(__name__)


@keras.saving.register_keras_serializable("autoprune")
class HyperSearchConv2D(keras.layers.Conv2D):
    """A 3x3 convolution, a 1x1 convolution and, where shapes allow, the input itself, added with trained scales.

    The three are merged into one kernel in each call, so that the 1x1 convolution reads the centre of what the 3x3 one
    reads whatever the stride and the padding are, and the cost is that of one convolution. Arguments are those of
    `keras.layers.Conv2D`, all but:

    Args:
        depth: l of the scales' first value, sqrt(2 / l).
    """

    def __init__(self, *arguments: Any, depth: float = 1.0, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.depth = depth

    def build(self, input_shape: Any) -> None:
        """Make the weights of the branches and their scales."""
        super().build(input_shape)
        inputs, outputs = self.kernel.shape[2:]
        first = keras.initializers.Constant((2 / self.depth) ** 0.5)
        self.conv1x1 = self.add_weight(
            shape=(1, 1, inputs, outputs),
            initializer=self.kernel_initializer.clone(),
            regularizer=self.kernel_regularizer,
            name="conv1x1",
        )
        self.scale3x3 = self.add_weight(shape=(outputs,), initializer=first, name="scale3x3")
        self.scale1x1 = self.add_weight(shape=(outputs,), initializer=first, name="scale1x1")
        self.identity = None
        if has_identity(self):
            self.identity = self.add_weight(shape=(outputs,), initializer="ones", name="identity")

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """The branches' sum, of one convolution."""
        centre = self.conv1x1 * self.scale1x1
        if self.identity is not None:
            centre = centre + keras.ops.diag(keras.ops.convert_to_tensor(self.identity))
        around = [(1, 1), (1, 1), (0, 0), (0, 0)]
        return super().convolution_op(inputs, kernel * self.scale3x3 + keras.ops.pad(centre, around))

    def get_config(self) -> dict[str, Any]:
        """What it is made of."""
        return {**super().get_config(), "depth": self.depth}


def find_scales(model: Any, data: Dataset, settings: TrainingSettings, seed: int) -> Scales | None:
    """The scales that `training.optimizer` needs; None where it needs none.

    With `training.hyper_search_epochs` they are searched on a network of the same architecture with new weights, by the
    recipe that trains the dense model, and with the plain optimiser that the one of the settings is made of. They are
    kept in the user's cache folder by all that they depend on, so that who trains the model and who fine-tunes what is
    left of it have the same. A search that diverges gives the constant scales, with a warning.

    Args:
        model: built; its weights do not count, and stay as they are.
        data: searched on its training split, the best epoch by its reward split.
        settings: the recipe.
        seed: of the new weights and the training.

    Raises:
        ModelError: the model has no 3x3 convolution.
    """
    if settings.optimizer not in REPARAMETERIZED:
        return None
    constant = constant_scales(model)
    if settings.hyper_search_epochs == 0:
        return constant
    path = _cache_path(model, data, settings, seed)
    if path.exists():
        try:
            return scales_from_json(read_json(path))
        except (OSError, ValueError, KeyError) as error:
            logger.warning("the kept scales cannot be used (%s); searching them anew", error)
    logger.info("the scales of %d convolutions are searched first", len(constant))
    network = _add_branches(model, constant, seed)
    recipe = replace(settings, optimizer=settings.optimizer.removeprefix("rep_"), hyper_search_epochs=0)
    epochs, rate = settings.hyper_search_epochs, settings.learning_rate
    scales = dict(constant)
    try:
        train(network, data, recipe, epochs=epochs, learning_rate=rate, seed=seed)
    except TrainingError as error:
        logger.warning("scales are constant ones: the search of them diverged. %s", error)
    else:
        for name, before in constant.items():
            layer = network.get_layer(name)
            conv3x3, conv1x1 = (keras.ops.convert_to_numpy(scale) for scale in (layer.scale3x3, layer.scale1x1))
            scales[name] = KernelScales(conv3x3, conv1x1, before.identity, before.inputs)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, scales_to_json(scales))
    except OSError as error:
        logger.warning("the scales could not be kept for the next time: %s", error)
    return scales


def _add_branches(model: Any, constant: Scales, seed: int) -> Any:
    """A network with new weights that has the branches."""

    def clone(layer: Any) -> Any:
        if not is_scaled(layer):
            return type(layer).from_config(layer.get_config())
        depth = 2 / float(constant[layer.name].conv3x3[0]) ** 2
        config = {name: value for name, value in layer.get_config().items() if name in _CONV2D}
        return HyperSearchConv2D.from_config({**config, "depth": depth})

    keras.utils.set_random_seed(seed)
    with keras_internals.running_own_code():
        return keras.models.clone_model(model, clone_function=clone)


# What a Conv2D is made of: a class of a user's own may have more, which only it understands.
_CONV2D = frozenset(keras.layers.Conv2D(1, 3).get_config())


def reparameterize(model: Any, scales: Scales, seed: int) -> None:
    """Give 3x3 kernels that begin from scratch the values that merge those of the branches.

    The kernels as they are become those of the 3x3 branches; the 1x1 ones are drawn by the layers' initialisers.

    Args:
        model: built, with new weights.
        scales: by the names of its layers.
        seed: of the kernels of the 1x1 branches.
    """
    # Another seed than that of the 3x3 kernels, which these would be copies of.
    keras.utils.set_random_seed(int(np.random.default_rng([seed, 1]).integers(2**31)))
    for name, of_kernel in scales.items():
        layer = model.get_layer(name)
        conv1x1 = layer.kernel_initializer.clone()((1, 1, *of_kernel.shape[2:]), dtype="float32")
        conv3x3 = keras.ops.convert_to_numpy(layer.kernel)
        layer.kernel.assign(of_kernel.merge(conv3x3, keras.ops.convert_to_numpy(conv1x1)))


def _cache_path(model: Any, data: Dataset, settings: TrainingSettings, seed: int) -> Path:
    """Where scales are kept."""
    names = ("batch_size", "learning_rate", "weight_decay", "warm_up", "augmentation", "augmentation_layers")
    recipe = {name: getattr(settings, name) for name in (*names, "label_smoothing", "early_stop", "optimizer")}
    key = cache_key(
        model=architecture_fingerprint(model),
        # Names, initialisers and penalties are none of the fingerprint's.
        config=json.dumps(model.get_config(), sort_keys=True, default=str),
        data=data.fingerprint(),
        task=data.task.describe(),
        epochs=settings.hyper_search_epochs,
        training=recipe,
        seed=seed,
        keras=keras.version(),
        backend=keras.backend.backend(),
    )
    return user_cache_folder() / "scales" / f"{key[:16]}.json"
