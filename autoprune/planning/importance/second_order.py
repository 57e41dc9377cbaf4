"""A Hessian times a vector, by backpropagation through gradients: exact, with what each backend has for it.

Differences of gradients would need none of them, but a step that is long enough for float32 crosses kinks of ReLUs,
where gradients jump: on small residual networks that is more than what is to be measured.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from autoprune.errors import PlanError


def multiply_hessian(
    loss: Callable[[], Any], variables: Sequence[Any], vector: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The Hessian of a loss times a vector: the gradient of the product of its gradient and the vector.

    Args:
        loss: computes it, a scalar, from the variables.
        variables: trainable ones, that the Hessian is over.
        vector: an array for each, in its shape.

    Returns:
        In float64 an array for each variable, in its shape; zeros where the loss does not depend on it.

    Raises:
        PlanError: an operation has no second derivative in the backend.
    """
    directions = [keras.ops.cast(part, variable.dtype) for variable, part in zip(variables, vector, strict=True)]
    multiply = {"tensorflow": _on_tensorflow, "jax": _on_jax, "torch": _on_torch}[keras.backend.backend()]
    try:
        found = multiply(loss, variables, directions)
    # TensorFlow looks up what it has not registered; PyTorch and JAX have their own words for it.
    except (LookupError, NotImplementedError) as error:
        raise PlanError(
            f"An operation of the model has no second derivative in {keras.backend.backend()}: {error}. Choose an "
            "importance of first derivatives, such as 'taylor'."
        ) from error
    return [
        np.zeros(part.shape) if product is None else keras.ops.convert_to_numpy(product).astype(np.float64)
        for product, part in zip(found, vector, strict=True)
    ]


def _on_tensorflow(loss: Callable[[], Any], variables: Sequence[Any], directions: Sequence[Any]) -> Sequence[Any]:
    import tensorflow as tf

    values = [variable.value for variable in variables]
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            scalar = loss()
        gradients = inner.gradient(scalar, values)
        parts = [
            tf.reduce_sum(tf.convert_to_tensor(gradient) * direction)
            for gradient, direction in zip(gradients, directions, strict=True)
            if gradient is not None
        ]
        product = tf.add_n(parts) if parts else tf.zeros(())
    # Those of an embedding are sparse.
    return [None if found is None else tf.convert_to_tensor(found) for found in outer.gradient(product, values)]


def _on_jax(loss: Callable[[], Any], variables: Sequence[Any], directions: Sequence[Any]) -> Sequence[Any]:
    import jax

    def loss_at(values: Sequence[Any]) -> Any:
        with keras.StatelessScope(state_mapping=zip(variables, values, strict=True)):
            return loss()

    values = [variable.value for variable in variables]
    return list(jax.jvp(jax.grad(loss_at), (values,), (list(directions),))[1])


def _on_torch(loss: Callable[[], Any], variables: Sequence[Any], directions: Sequence[Any]) -> Sequence[Any]:
    import torch

    values = [variable.value for variable in variables]
    if not values:
        return []
    gradients = torch.autograd.grad(loss(), values, create_graph=True, allow_unused=True)
    parts = [
        (gradient * direction).sum()
        for gradient, direction in zip(gradients, directions, strict=True)
        if gradient is not None and gradient.requires_grad
    ]
    if not parts:
        return [None] * len(values)
    return torch.autograd.grad(sum(parts), values, allow_unused=True)
