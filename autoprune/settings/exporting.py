"""Everything that `python -m autoprune.export` reads."""

import math
from dataclasses import dataclass, field

from autoprune.settings.checking import check
from autoprune.settings.model import ModelSettings


@dataclass(frozen=True)
class ExportSettings:
    """What is exported, and how it is checked.

    Attributes:
        run (folder): of a search, a replay or a fine-tuning whose result is exported; null: `model.path` names a file.
        formats: `keras`, `saved_model`, `litert`, `onnx` (needs `pip install ".[onnx]"`).
        tolerance (share): of the largest output, by which a format's outputs may differ from the model's.
        input_shape (pixels): shape of one example to compare outputs on, for a model that leaves its input size open.
    """

    model: ModelSettings = field(default_factory=lambda: ModelSettings("file"))
    run: str | None = None
    formats: list[str] = field(default_factory=lambda: ["keras", "saved_model", "litert"])
    tolerance: float = 1e-4
    input_shape: list[int] | None = None

    def __post_init__(self) -> None:
        named = self.model.name == "file" and (self.model.path is None or isinstance(self.model.path, str))
        check(named, "model", "one file: model.path=FILE.keras", self.model.path or self.model.name)
        one = (self.run is None) != (self.model.path is None)
        wanted = "given, or model.path=FILE.keras: one of the two"
        check(one, "run", wanted, "neither" if self.run is None else "both")
        check(len(self.formats) > 0, "formats", "one or more, such as [litert,onnx]", self.formats)
        check(0 < self.tolerance < math.inf, "tolerance", "above 0 and finite", self.tolerance)
