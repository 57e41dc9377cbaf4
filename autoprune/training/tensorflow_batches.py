"""Batches as a stream of TensorFlow's, one that is closed at once when it ends."""

import keras
import tensorflow as tf

AHEAD = 2  # batches that are made while the network works


def stream_batches(batches: keras.utils.PyDataset, *, whole: bool = False) -> tf.data.Dataset:
    """The same batches, anew with each pass, as `fit` takes them.

    Keras makes a stream of them by itself, and lets TensorFlow tune it while it runs. The thread that tunes is waited
    for when a pass ends: that can take five seconds, after every epoch, longer than an epoch on little data.

    Args:
        batches: tuples of arrays (n, ...), each alike in all but n.
        whole: n too is the same in all of them, which compiled steps can count on.
    """
    kinds = [tf.TensorSpec((len(part) if whole else None, *part.shape[1:]), part.dtype) for part in batches[0]]
    stream = tf.data.Dataset.from_generator(
        lambda: (batches[number] for number in range(len(batches))), output_signature=tuple(kinds)
    )
    untuned = tf.data.Options()
    untuned.autotune.enabled = False
    # Without a length Keras would not know of the last step that it is the last one.
    return stream.apply(tf.data.experimental.assert_cardinality(len(batches))).prefetch(AHEAD).with_options(untuned)
