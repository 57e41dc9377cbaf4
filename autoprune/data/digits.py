"""scikit-learn's digits: 1,797 grey images of 8x8 pixels in 10 classes, shipped with the library."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from autoprune.data.splits import DATASETS, Labelled, RawData
from autoprune.settings import DataSettings

# The data set has no test split of its own: the same fifth is set aside for everyone, whatever `data.seed`.
_TEST_SHARE = 0.2


@DATASETS.add("digits")
def load(settings: DataSettings) -> RawData:
    """1,437 training and 360 test images, (8, 8, 1), scaled from 0..16 to 0..1."""
    bunch = load_digits()
    images = (bunch.images[..., np.newaxis] / 16).astype(np.float32)
    parts = train_test_split(
        images, bunch.target.astype(np.int64), test_size=_TEST_SHARE, random_state=0, stratify=bunch.target
    )
    train_images, test_images, train_labels, test_labels = parts
    return RawData(Labelled(train_images, train_labels), Labelled(test_images, test_labels), white=1.0, classes=10)
