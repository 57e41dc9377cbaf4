"""Data sets -> train, reward and test splits.

`load_data` is the door, `from_arrays` and `from_batches` are those for what is in memory. The reward split is cut from
the training images, with a seed; the test split is what the data set calls test, and nothing but the
final report reads it.
"""

from autoprune.data import cifar, digits, fashion_mnist, image_folder, moons, npz, tfds  # noqa: F401 - importing a loader enters it
from autoprune.data.arrays import from_arrays, from_batches
from autoprune.data.splits import Dataset, Split, load_data
from autoprune.data.streaming import LazyImages

__all__ = ["Dataset", "LazyImages", "Split", "from_arrays", "from_batches", "load_data"]
