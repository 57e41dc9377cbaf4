"""Which data: the config group `data`."""

from dataclasses import dataclass, field

from autoprune.settings.checking import check, check_seed
from autoprune.settings.fields import read_by

_KNOWN_DATA = ("digits", "fashion_mnist", "cifar10", "cifar100", "moons", "npz", "image_folder", "tfds")
# Which data sets read an option.
_READERS = {
    "path": ("npz",),
    "dir": ("fashion_mnist", "cifar10", "cifar100", "image_folder", "tfds"),
    "dataset": ("tfds",),
}


@dataclass(frozen=True)
class DataSettings:
    """Which data, and how they are split.

    Attributes:
        name: a registered data set: `digits`, `fashion_mnist`, `cifar10`, `cifar100`, `moons`, `npz`, `image_folder`,
            `tfds`.
        dir (folder): with the files of the data set: the four gzipped IDX files of `fashion_mnist`, the binary version
            of `cifar10` and `cifar100` (`cifar-10-batches-bin`, `cifar-100-binary`), the images of `image_folder`, the
            data sets of `tfds`. Null: Keras finds or downloads them, `tfds` looks in its own folder.
        path (file): of `npz`, with `x_train, y_train, x_test, y_test`, or `x, y`.
        dataset: its name in TensorFlow Datasets.
        train_split: split of TensorFlow Datasets for training images and rewards.
        test_split: split of TensorFlow Datasets for the final report.
        image_size (pixels): height and width that images are resized to, optionally with channels; null is what the
            model takes, where it says that, and otherwise leaves images as they are.
        crop_to_aspect_ratio (true or false): cut images around the middle before they are resized, instead of
            distorting them.
        preprocessing: pixel values: `none` (0 to 255), `unit` (0 to 1), `tf` (-1 to 1), `caffe`, `torch`, or the name
            of a network of `keras.applications` for its own; `auto` is that of the model, if it is one of these, and
            otherwise 0 to 1. An `npz` is left as it is by `auto`.
        reward_size (images or share): size of the reward split, which scores plans; a number below 1 is a share of the
            training images.
        train_size (images): training images used, drawn from those that the reward split leaves; null is all.
        seed (seed): of the splits.
        classes (class numbers): that the network is for, such as `[0,1,2]`: images of others leave all splits, so that
            importance, training, rewards and the test are of these alone, and the network keeps its outputs. Null is
            all. With `task=classification`.
    """

    name: str = "digits"
    dir: str | None = field(default=None, metadata=read_by(*_READERS["dir"]))
    path: str | None = field(default=None, metadata=read_by(*_READERS["path"]))
    reward_size: float = 0.2
    train_size: int | None = None
    seed: int = 0
    dataset: str | None = field(default=None, metadata=read_by(*_READERS["dataset"]))
    train_split: str = field(default="train", metadata=read_by("tfds"))
    test_split: str = field(default="test", metadata=read_by("tfds"))
    image_size: list[int] | None = None
    crop_to_aspect_ratio: bool = False
    preprocessing: str = "auto"
    classes: list[int] | None = None

    def __post_init__(self) -> None:
        enough = self.train_size is None or self.train_size >= 1
        check(enough, "data.train_size", "1 or more, or null", self.train_size)
        check_seed("data.seed", self.seed)
        for name, readers in _READERS.items():
            value = getattr(self, name)
            read = value is None or self.name in readers or self.name not in _KNOWN_DATA
            wanted = f"given with data={' or '.join(readers)}; data={self.name} does not read it"
            check(read, f"data.{name}", wanted, value)
        chosen = self.classes
        proper = chosen is None or (len(chosen) > 0 and len(set(chosen)) == len(chosen) and min(chosen) >= 0)
        check(proper, "data.classes", "different class numbers from 0, such as [0,1,2], or null", chosen)
        size = self.image_size
        fits = size is None or (len(size) in (2, 3) and min(size) >= 1)
        check(fits, "data.image_size", "[height,width], or with channels [height,width,3], or null", size)
