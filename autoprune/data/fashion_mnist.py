"""Fashion-MNIST: 60,000 training and 10,000 test images, 28x28 grey, 10 classes (Xiao et al., 2017)."""

import gzip
import zlib
from pathlib import Path

import keras
import numpy as np

from autoprune.data.splits import DATASETS, Labelled, RawData
from autoprune.errors import DataError
from autoprune.settings import DataSettings


@DATASETS.add("fashion_mnist")
def load(settings: DataSettings) -> RawData:
    """Read the four IDX files in `data.dir`, or let Keras find or download them. Pixels are scaled to 0..1."""
    if settings.dir is None:
        try:
            parts = keras.datasets.fashion_mnist.load_data()
        except Exception as error:
            raise DataError(
                f"Fashion-MNIST is not in Keras's cache and could not be downloaded ({error}). Put the four files "
                "train-images-idx3-ubyte.gz, ... in a folder and name it with data.dir=FOLDER."
            ) from error
    else:
        folder = Path(settings.dir)
        parts = [
            (read_idx(folder / f"{prefix}-images-idx3-ubyte.gz"), read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz"))
            for prefix in ("train", "t10k")
        ]
    train, test = (
        Labelled((images[..., np.newaxis] / 255).astype(np.float32), labels.astype(np.int64))
        for images, labels in parts
    )
    return RawData(train, test, white=1.0, classes=10)


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of unsigned bytes (yann.lecun.com/exdb/mnist describes the format).

    Raises:
        DataError: the file is missing, truncated or of another format.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"There is no file '{path}'. data.dir must hold the four gzipped IDX files.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' is not a whole gzip file: {error}") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or len(content) < 4 + 4 * content[3]:
        raise DataError(f"'{path}' is not an IDX file of unsigned bytes.")
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if values.size != shape.prod(dtype=np.int64):
        raise DataError(f"'{path}' should hold {shape.tolist()} bytes, but {values.size} follow its header.")
    return values.reshape(shape)
