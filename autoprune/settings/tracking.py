"""Who is told of a run's figures besides TensorBoard: the options under `tracking`."""

import re
from dataclasses import dataclass, field

from autoprune.settings.checking import check, check_list

TRACKERS = ("mlflow", "wandb")


@dataclass(frozen=True)
class TrackingSettings:
    """Where the figures of a run go besides the files of TensorBoard, which are always written.

    Attributes:
        trackers: `mlflow`, `wandb` (Weights & Biases) or both, in a list.
        experiment: of MLflow, or project of W&B, that the run belongs to; null is what MLFLOW_EXPERIMENT_NAME and
            WANDB_PROJECT say, or else `autoprune`.
        run_name: what the run is called there; null is the command and the end of its folder's path.
        mlflow_uri: server or database of MLflow, such as `http://host:5000`; null is what MLFLOW_TRACKING_URI says, or
            else a database in the run folder.
        wandb_mode: `online`, or `offline` for files in the run folder that `wandb sync` uploads; null is what
            WANDB_MODE says, or else `offline`.
    """

    trackers: list[str] = field(default_factory=list)
    experiment: str | None = None
    run_name: str | None = None
    mlflow_uri: str | None = None
    wandb_mode: str | None = None

    def __post_init__(self) -> None:
        check_list("tracking.trackers", self.trackers, self.trackers, empty=True)
        for name in self.trackers:
            check(name in TRACKERS, "tracking.trackers", f"a list of {' and '.join(TRACKERS)}", name)
        # Settings stand in the report, which is there to be shown around.
        secret = re.search(r"://[^/@]*:[^/@]*@", self.mlflow_uri or "") is not None
        wanted = "without a password, which belongs into MLFLOW_TRACKING_PASSWORD, or with the URI into "
        check(not secret, "tracking.mlflow_uri", f"{wanted}MLFLOW_TRACKING_URI", "one with a password")
        wanted = "online, offline or null"
        check(self.wandb_mode in (None, "online", "offline"), "tracking.wandb_mode", wanted, self.wandb_mode)
