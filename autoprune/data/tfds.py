"""TensorFlow Datasets, such as ImageNet: records are read at random from array_record files, when they are needed."""

import hashlib
import io
import logging
import os
from types import ModuleType
from typing import Any

import numpy as np

from autoprune.data.image_folder import decode_image
from autoprune.data.splits import DATASETS, Labelled, RawData
from autoprune.data.streaming import DECODING_THREADS
from autoprune.errors import DataError
from autoprune.settings import DataSettings
from autoprune.settings.extras import extra
from autoprune.settings.places import user_cache_folder

logger = logging.getLogger(__name__)

# Records in memory at a time while the labels are read.
_CHUNK = 256


class RecordSource:
    """Images of one split by number.

    Args:
        records: a data source of TFDS whose images are left encoded.
        image: key of the image in a record.
        identity: data set, version, split, and the sizes of its parts.
    """

    threads = DECODING_THREADS

    def __init__(self, records: Any, image: str, identity: str) -> None:
        self._records = records
        self._image = image
        self.identity = identity

    def __len__(self) -> int:
        return len(self._records)

    def pixels(self, number: int) -> np.ndarray:
        """(height, width, 1 or 3) of one image."""
        try:
            content = self._records[number][self._image]
        except Exception as error:
            raise DataError(f"Record {number} of {self.identity[:80]} cannot be read: {error}") from error
        return decode_image(io.BytesIO(content), f"number {number} of {self.identity[:80]}")


@DATASETS.add("tfds")
def load(settings: DataSettings) -> RawData:
    """Open two splits of a data set of images and classes, which TFDS prepares in `data.dir` if it is not there.

    To know the labels, all records are read once, without decoding their images.

    Raises:
        DataError: TFDS has no such data set or split, cannot prepare it, or it is not one of images and classes.
        SettingsError: TFDS is not installed.
    """
    if not settings.dataset:
        raise DataError("data=tfds needs data.dataset=NAME, such as data.dataset=imagenet2012.")
    tfds = extra("tensorflow_datasets", "data=tfds", "tfds")
    parts, classes = [], []
    for split in (settings.train_split, settings.test_split):
        # Prepared by the first call, which tells the keys; the second leaves images encoded.
        info = _open(tfds, settings, split).dataset_info
        keys = info.supervised_keys if info.supervised_keys and len(info.supervised_keys) == 2 else ("image", "label")
        features = dict(info.features.items())
        kinds = [features.get(key) if isinstance(key, str) else None for key in keys]
        if not isinstance(kinds[0], tfds.features.Image) or not isinstance(kinds[1], tfds.features.ClassLabel):
            raise DataError(
                f"'{info.full_name}' is not a data set of images and classes. Its records hold {', '.join(features)}."
            )
        if kinds[0].dtype != np.uint8:
            raise DataError(
                f"The images of '{info.full_name}' are to be of 8 bits per channel. Received: {kinds[0].dtype}"
            )
        image, label = keys
        records = _open(tfds, settings, split, {image: tfds.decode.SkipDecoding()})
        sizes = {name: (list(part.shard_lengths), part.num_bytes) for name, part in sorted(info.splits.items())}
        identity = f"{info.full_name} {split} of {sizes}"
        parts.append(Labelled(RecordSource(records, image, identity), _labels(records, label, identity)))
        classes.append(info.features[label].num_classes)
    train, test = parts
    return RawData(train, test, classes=classes[0])


def _open(tfds: ModuleType, settings: DataSettings, split: str, decoders: dict[str, Any] | None = None) -> Any:
    """The records of a split.

    Raises:
        DataError: TFDS cannot give them.
    """
    try:
        return tfds.data_source(settings.dataset, split=split, data_dir=settings.dir, decoders=decoders)
    except Exception as error:
        raise DataError(
            f"TensorFlow Datasets cannot give the split '{split}' of '{settings.dataset}' (data.dir={settings.dir}): "
            f"{str(error).strip()[:600]}. data.train_split and data.test_split name the splits. What was prepared in "
            "another format than array_record has to be prepared again, in another data.dir."
        ) from error


def _labels(records: Any, label: str, identity: str) -> np.ndarray:
    """(n,) class numbers of all records, kept in the user's cache folder: to read them is to read the whole split."""
    kept = user_cache_folder() / "labels" / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npy"
    try:
        found = np.load(kept, allow_pickle=False)
        if found.shape == (len(records),) and found.dtype == np.int64:
            return found
    except (OSError, ValueError, EOFError):
        pass  # Not there, or not whole: it is written anew.
    logger.info("reading the labels of %d images: %s", len(records), identity)
    found = np.empty(len(records), np.int64)
    for start in range(0, len(records), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(records)))
        found[start : rows.stop] = [record[label] for record in records.__getitems__(list(rows))]
    partial = kept.with_name(f".{os.getpid()}.{kept.name}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(partial, found)
        partial.replace(kept)
    except OSError as error:
        logger.warning("the labels could not be kept for the next time: %s", error)
    return found
