"""scikit-learn's two moons: points of the plane in two classes, drawn with a fixed seed."""

import numpy as np
from sklearn.datasets import make_moons
from sklearn.model_selection import train_test_split

from autoprune.data.splits import DATASETS, Labelled, RawData
from autoprune.settings import DataSettings


@DATASETS.add("moons")
def load(settings: DataSettings) -> RawData:
    """1,600 training and 400 test points (2,), with noise of standard deviation 0.1.

    Each coordinate is standardised by the training points. The points, and which are for the test, are the same
    whatever `data.seed`.
    """
    points, classes = make_moons(2000, noise=0.1, random_state=0)
    train, test, train_classes, test_classes = train_test_split(
        points.astype(np.float32), classes.astype(np.int64), test_size=0.2, random_state=0, stratify=classes
    )
    mean, deviation = train.mean(0), train.std(0)
    train, test = ((some - mean) / deviation for some in (train, test))
    return RawData(Labelled(train, train_classes), Labelled(test, test_classes), classes=2)
