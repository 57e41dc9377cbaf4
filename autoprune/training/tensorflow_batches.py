"""Batches as a stream of TensorFlow's, one that is closed at once when it ends."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

AHEAD = 2  # batches that are made while the network works


def streamed(batches: keras.utils.PyDataset) -> tf.data.Dataset:
    """The same batches, anew with each pass, as `fit` takes them.

    Keras makes a stream of them by itself, and lets TensorFlow tune it while it runs. The thread that tunes is waited
    for when a pass ends: that can take five seconds, after every epoch, longer than an epoch on little data.

    Args:
        batches: tuples of arrays (n, ...), each alike in all but n.
    """

    def generated() -> Iterator[tuple[np.ndarray, ...]]:
        for number in range(len(batches)):
            yield batches[number]

    stream = tf.data.Dataset.from_generator(generated, output_signature=tuple(map(_kind, batches[0])))
    untuned = tf.data.Options()
    untuned.autotune.enabled = False
    # Without a length Keras would not know of the last step that it is the last one.
    return stream.apply(tf.data.experimental.assert_cardinality(len(batches))).prefetch(AHEAD).with_options(untuned)


def _kind(array: Any) -> tf.TensorSpec:
    return tf.TensorSpec((None, *array.shape[1:]), array.dtype)
