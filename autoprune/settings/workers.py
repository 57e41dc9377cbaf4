"""Where plans are scored besides this process: the options under `ray`."""

from dataclasses import dataclass, field

from autoprune.settings.checking import check


@dataclass(frozen=True)
class RaySettings:
    """The Ray cluster whose actors score plans with `workers=ray`.

    Attributes:
        address: of a cluster that runs, such as `auto` or `ray://head:10001`; null starts one on this machine.
        actors (processes): that score plans, as many of them as the cluster has room for; null is one for the CPUs of
            each, by `ray.resources`.
        resources (amounts): that each actor takes, by Ray's names: `{CPU: 4, GPU: 1}`, or of a name of your own
            `+ray.resources.NAME=1`.
    """

    address: str | None = None
    actors: int | None = None
    resources: dict[str, float] = field(default_factory=lambda: {"CPU": 2.0, "GPU": 0.0, "TPU": 0.0})

    def __post_init__(self) -> None:
        check(self.actors is None or self.actors >= 1, "ray.actors", "1 or more, or null", self.actors)
        amounts = all(amount >= 0 for amount in self.resources.values())
        check(amounts, "ray.resources", "amounts of 0 or more by name, such as {CPU: 2, GPU: 1}", self.resources)
