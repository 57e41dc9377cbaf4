"""Which model: the config group `model`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoprune.settings.checking import check
from autoprune.settings.fields import read_by, unread_by


@dataclass(frozen=True)
class ModelSettings:
    """Which model.

    Attributes:
        name: an architecture of the zoo (`small_resnet`, `plain_cnn`, `small_mobilenet`, `small_densenet`,
            `small_moe`, `resnet20`, `resnet56`, `vgg16`, `mobilenet_v2`, `mar_scf`, `ode_classifier`, `ffjord`), a
            network of `keras.applications` by its name there (`ResNet50`), or `file`.
        path (file): the `.keras` file, or an HDF5 file of a whole model; `measure` also takes a list of files.
        width (factor): on the number of channels of every layer of an architecture of the zoo.
        input_shape (pixels): height, width and channels of one image; null is the data's, or without data what the
            architecture is known for.
        classes (number): of classes; null is the data's, or without data what the architecture is known for.
        weights: of a network of `keras.applications`: `imagenet` (downloaded by Keras), a `.weights.h5` file for this
            very network, or null for new ones. It is trained unless the weights come with a classifier for these
            classes, such as the 1,000 of ImageNet.
        modules: Python modules that are imported before a file is loaded, for the layers and layer kinds
            that they register.
        modules_from (folder): searched for these modules before the import path; null is the working folder.
        safe_mode (true or false): refuse files that hold code, as those with a Lambda layer do: loading would run it.
    """

    name: str = "small_resnet"
    path: Any = field(default=None, metadata=read_by("file"))
    width: float = field(default=1.0, metadata=unread_by("application", "file"))
    input_shape: list[int] | None = None
    classes: int | None = None
    weights: str | None = field(default=None, metadata=read_by("application"))
    modules: list[str] = field(default_factory=list, metadata=unread_by("application"))
    modules_from: str | None = field(default=None, metadata=unread_by("application"))
    safe_mode: bool = field(default=True, metadata=unread_by("application"))

    def __post_init__(self) -> None:
        if self.modules and self.modules_from is None:
            object.__setattr__(self, "modules_from", str(Path.cwd()))  # A run may be resumed from elsewhere.
        check(self.width > 0, "model.width", "above 0", self.width)
        read = self.path is None or self.name == "file"
        check(read, "model.path", f"given with model=file; model={self.name} does not read it", self.path)
        files = self.path if isinstance(self.path, list) else [self.path] if self.path is not None else []
        named = all(isinstance(file, str) and file for file in files) and self.path != []
        check(named, "model.path", "the name of a file; to measure, also a list of them", self.path)
