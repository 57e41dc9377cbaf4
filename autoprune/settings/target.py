"""What a model should be fast on, one target or several at once: the config group `target`."""

import math
from dataclasses import dataclass, field

from autoprune.settings.checking import check
from autoprune.settings.fields import unread_by

COMBINATIONS = ("worst", "weighted")


@dataclass(frozen=True)
class TargetSettings:
    """What the model should be fast on.

    Attributes:
        name: `tpu_v2`, `tpu_v3`, `tpu_v4`, `tpu_v5e`, `tpu_v5p`, `tpu_v6e` or `tpu7x`, estimated by the TPU compiler;
            `tpu` (attached to this host) or `cpu` (this host), measured; `auto` is `tpu_v5e` where the TPU compiler is
            installed, otherwise `cpu`; `all`, for `measure`, is every TPU generation.
        batch_size (images): per inference call on one device; it decides which widths are cheap.
        dtype: `bfloat16` or `float32`.
        cache: where compilations are remembered: `auto` is a file in the user's cache folder, `ro` reads that file and
            writes nothing, `off` or null keeps nothing, anything else is the path of a file.
        route: how models reach the TPU compiler: `keras` rebuilds them on JAX, `tensorflow` takes what TensorFlow
            traces, for layers that exist there only; `auto` is `keras` unless the first model cannot go that way.
        processes (compilers): TPU compilers that may run at once; each uses about two cores and 1.5 GB. Null is one for
            every two cores, as many as fit in memory, 1 to 4.
        also: names of further TPU targets that the search is for, such as `[tpu_v3,tpu_v6e]`, with the same batch size
            and dtype.
        combine: what the cost on several targets is: `worst`, the largest share of the dense model's on that target, so
            that a budget holds on each of them; or `weighted`, the weighted mean of the shares.
        weights (factors): for `weighted`, one for each target, `name` first; null weighs all alike.
    """

    name: str = "auto"
    batch_size: int = 128
    dtype: str = "bfloat16"
    cache: str | None = "auto"
    route: str = field(default="auto", metadata=unread_by("cpu", "tpu"))
    processes: int | None = None
    also: list[str] = field(default_factory=list, metadata=unread_by("cpu", "all"))
    combine: str = field(default="worst", metadata=unread_by("cpu", "all"))
    weights: list[float] | None = field(default=None, metadata=unread_by("cpu", "all"))

    def __post_init__(self) -> None:
        known = ("auto", "keras", "tensorflow")
        check(self.route in known, "target.route", f"one of {', '.join(known)}", self.route)
        enough = self.processes is None or self.processes >= 1
        check(enough, "target.processes", "1 or more, or null", self.processes)
        # In YAML, `off` and `on` are truth values, and become text again because the option takes text.
        switches = {"off": "off", "no": "off", "false": "off", "on": "auto", "yes": "auto", "true": "auto"}
        object.__setattr__(self, "cache", switches.get(str(self.cache).lower(), self.cache))
        check(self.combine in COMBINATIONS, "target.combine", f"one of {', '.join(COMBINATIONS)}", self.combine)
        once = len(set(self.names)) == len(self.names)
        check(once, "target.also", "targets other than target.name, each once", self.also)
        # What is measured on this host is disturbed by the compilers of the others.
        alone = not self.also or not {"cpu", "all"} & set(self.names)
        check(alone, "target.also", "TPU targets beside a TPU target", list(self.names))
        if self.weights is not None:
            check(self.combine == "weighted", "target.weights", "given with target.combine=weighted", self.weights)
            positive = all(0 < weight < math.inf for weight in self.weights)
            fits = len(self.weights) == len(self.names) and positive
            check(fits, "target.weights", f"a number above 0 for each of {', '.join(self.names)}", self.weights)

    @property
    def names(self) -> tuple[str, ...]:
        """All targets, the first one first."""
        return (self.name, *self.also)
