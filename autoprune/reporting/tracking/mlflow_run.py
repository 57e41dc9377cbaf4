"""A run of MLflow, by its client: what a program around it logs by `mlflow.log_metric` stays apart."""

import contextlib
import getpass
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.errors import SettingsError, words_of
from autoprune.reporting.tracking.tracker import Curve, Outcome
from autoprune.settings import TrackingSettings
from autoprune.settings.extras import extra

NAME = "mlflow"
_AT_A_TIME = 100  # Parameters, or tags, that a server takes in one request.
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


class MlflowRun:
    """A run of MLflow. Every figure is a metric, `KIND/NAME/FIGURE`, with the step of its curve.

    `MlflowCallback` of `mlflow.keras` would log all trainings of the run as the same `loss` by the same epochs, and of
    a training that another process runs it hears nothing.

    Args:
        settings: where the run is.
        folder: of the run, where the database is if no other place is named.
        name: what a new run is called.
        parameters: settings of the run by dotted name.
        known: identifier of a run to go on with.

    Raises:
        SettingsError: MLflow is missing, or cannot keep a run there.
    """

    @staticmethod
    def load_library() -> Any:
        """MLflow, which tells nobody that it is used, unless told to.

        Raises:
            SettingsError: it, or what its databases need, is not installed.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # A new database is told of table by table.
        logging.getLogger("alembic").setLevel(logging.WARNING)
        for module in ("sqlalchemy", "alembic", NAME):
            library = extra(module, f"tracking.trackers=[{NAME}]", NAME)
        return library

    def __init__(
        self, settings: TrackingSettings, folder: Path, name: str, parameters: Mapping[str, Any], known: str | None
    ) -> None:
        self._mlflow = self.load_library()
        uri = settings.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI")
        artifacts = None
        if not uri:
            place = folder.absolute() / NAME
            place.mkdir(exist_ok=True)
            uri, artifacts = f"sqlite:///{place}/mlflow.db", (place / "artifacts").as_uri()
        try:
            from mlflow.entities import Param, RunTag

            self._client = self._mlflow.MlflowClient(tracking_uri=uri)
            self.run_id = self._open(known, settings, artifacts, name)
            self._client.update_run(self.run_id, status="RUNNING")
            # Settings that are given anew to a run that goes on become tags: a parameter keeps its value.
            told = {_key(name): str(value) for name, value in parameters.items()}
            there = self._client.get_run(self.run_id).data.params
            for names in _portions([name for name in told if name not in there]):
                self._client.log_batch(self.run_id, params=[Param(name, told[name]) for name in names])
            for names in _portions([name for name in told if there.get(name, told[name]) != told[name]]):
                self._client.log_batch(self.run_id, tags=[RunTag(name, told[name]) for name in names])
        except Exception as error:
            raise SettingsError(f"MLflow cannot keep the run: {words_of(error, 400)}") from error

    def _open(self, known: str | None, settings: TrackingSettings, artifacts: str | None, name: str) -> str:
        """The run to go on with; another if it is gone, or is in another place than MLflow is told to look."""
        try:
            if known and self._client.get_run(known).info.lifecycle_stage == "active":
                return known
        except self._mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        wanted = settings.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "autoprune"
        found = self._client.get_experiment_by_name(wanted)
        try:
            experiment = found.experiment_id if found else self._client.create_experiment(wanted, artifacts)
        except self._mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # Another run was quicker.
                raise
            experiment = self._client.get_experiment_by_name(wanted).experiment_id
        tags = {"mlflow.source.name": "autoprune"}
        with contextlib.suppress(KeyError, OSError):  # In a container a user may have no name.
            tags["mlflow.user"] = getpass.getuser()
        identifier: str = self._client.create_run(experiment, run_name=name, tags=tags).info.run_id
        return identifier

    def add(
        self, curve: Curve, step: int, figures: Mapping[str, float], distributions: Mapping[str, Sequence[float]]
    ) -> None:
        """Log metrics; of shares MLflow has no histograms."""
        self._log({f"{curve}/{name}": value for name, value in figures.items()}, step)

    def conclude(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log metrics, and files as artifacts."""
        self._log(figures, 0)
        for path in files:
            self._client.log_artifact(self.run_id, str(path))

    def close(self, outcome: Outcome) -> None:
        """End the run."""
        self._client.set_terminated(self.run_id, _STATUS[outcome])

    def _log(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for names in _portions(list(figures)):
            self._client.log_batch(self.run_id, [Metric(_key(name), figures[name], now, step) for name in names])


def _key(name: str) -> str:
    """A name with the signs that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "-", name)


def _portions(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _AT_A_TIME):
        yield names[start : start + _AT_A_TIME]
