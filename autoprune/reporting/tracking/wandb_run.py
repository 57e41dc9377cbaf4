"""A run of Weights & Biases, apart from one that a program around it has opened."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.errors import SettingsError, words_of
from autoprune.reporting.tracking.event_files import BINS
from autoprune.reporting.tracking.tracker import Curve, Outcome
from autoprune.settings import TrackingSettings
from autoprune.settings.extras import extra

NAME = "wandb"
_EXIT_CODES = {"finished": 0, "failed": 1, "killed": 130}


class WandbRun:
    """A run of Weights & Biases, in which every curve has an axis of its own.

    W&B counts the calls that log something, one number for the whole run; so each curve logs its own steps too.
    `WandbMetricsLogger` would log all trainings of the run as the same `epoch/loss`, and `WandbCallback` for agents of
    Stable-Baselines3 logs figures by taking over whatever writes files of TensorBoard.

    Args:
        settings: the project, and whether it is online.
        folder: of the run, where W&B's files are.
        name: what a new run is called.
        parameters: settings of the run by dotted name.
        known: identifier of a run to go on with. Offline it goes on in files of its own, which `wandb sync` joins.

    Raises:
        SettingsError: wandb is missing, or refuses to begin.
    """

    @staticmethod
    def load_library() -> Any:
        """The library, which reports no errors of its own to its makers, unless told to.

        Raises:
            SettingsError: it is not installed.
        """
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        return extra(NAME, f"tracking.trackers=[{NAME}]", NAME)

    def __init__(
        self, settings: TrackingSettings, folder: Path, name: str, parameters: Mapping[str, Any], known: str | None
    ) -> None:
        self._wandb = self.load_library()
        mode = settings.wandb_mode or os.environ.get("WANDB_MODE") or "offline"
        try:
            self._run = self._wandb.init(
                project=settings.experiment or os.environ.get("WANDB_PROJECT") or "autoprune",
                name=name,
                id=known,
                resume="allow" if known and mode == "online" else None,
                dir=str(folder),
                mode=mode,
                config={
                    key: value if isinstance(value, int | float) else str(value) for key, value in parameters.items()
                },
                reinit="create_new",
                # Tables and bars are autoprune's own; code and repository are not asked for.
                settings=self._wandb.Settings(silent=True, console="off", save_code=False, disable_git=True),
            )
        except Exception as error:
            raise SettingsError(f"Weights & Biases cannot keep the run: {words_of(error, 400)}") from error
        self.run_id: str = self._run.id
        self._axes: set[str] = set()

    def add(
        self, curve: Curve, step: int, figures: Mapping[str, float], distributions: Mapping[str, Sequence[float]]
    ) -> None:
        """Log figures, and histograms of shares."""
        place = str(curve).replace(".", "_")  # A dot would be a level of its own.
        if place not in self._axes:
            self._axes.add(place)
            self._run.define_metric(f"{place}/step", hidden=True)
            self._run.define_metric(f"{place}/*", step_metric=f"{place}/step")
        told: dict[str, Any] = {f"{place}/{name}": value for name, value in figures.items()}
        for name, shares in distributions.items():
            told[f"{place}/{name}"] = self._wandb.Histogram(np_histogram=np.histogram(shares, BINS, (0, 1)))
        self._run.log({**told, f"{place}/step": step})

    def conclude(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Summarise the run, and keep files as an artifact."""
        self._run.summary.update(dict(figures))
        artifact = self._wandb.Artifact(f"run-{self.run_id}-results", "results")
        for path in files:
            # Not copied to the user's folder for such files: what is uploaded later is that of the run folder.
            artifact.add_file(str(path), policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact)

    def close(self, outcome: Outcome) -> None:
        """End the run."""
        self._run.finish(exit_code=_EXIT_CODES[outcome])
