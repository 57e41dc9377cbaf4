"""Tells experiment trackers of a run, from its beginning to what came of it."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from autoprune.records.measure import Measure
from autoprune.records.plain import read_json
from autoprune.reporting.pages.saved import flat
from autoprune.reporting.run_folder import RunFolder
from autoprune.reporting.tracking import Outcome
from autoprune.reporting.tracking.mlflow_run import MlflowRun
from autoprune.reporting.tracking.wandb_run import WandbRun
from autoprune.settings import TrackingSettings

TRACKERS: Mapping[str, type[MlflowRun] | type[WandbRun]] = {"mlflow": MlflowRun, "wandb": WandbRun}


@contextmanager
def track(settings: Any, folder: RunFolder, command: str) -> Iterator[None]:
    """Tell the trackers that settings ask for of what is done within the block, and of what came of it.

    Args:
        settings: settings of the command.
        folder: of the run; what goes on there goes on in the run of each tracker.
        command: its name.

    Raises:
        SettingsError: a tracker is not installed, or cannot keep the run.
    """
    tracking: TrackingSettings = settings.tracking
    if getattr(settings, "dry_run", False):  # It trains nothing.
        tracking = TrackingSettings()
    given = flat(dataclasses.asdict(settings))
    parameters = {name: value for name, value in given if not name.startswith(("tracking.", "resume"))}
    place = folder.path.absolute()
    name = tracking.run_name or f"{command} {place.parent.name}/{place.name}"
    for asked in tracking.trackers:  # What is missing is said before any run is begun.
        TRACKERS[asked].load_library()
    outcome: Outcome = "failed"
    trackers = folder.trackers
    try:
        for asked in tracking.trackers:
            trackers.open(asked, functools.partial(TRACKERS[asked], tracking, folder.path, name, parameters))
        yield
        results = (folder.report, folder.comparison_report, folder.plan, folder.metrics, folder.comparison)
        trackers.conclude(_final_figures(folder), [path for path in results if path.exists()])
        outcome = "finished"
    except KeyboardInterrupt:
        outcome = "killed"
        raise
    finally:
        trackers.close(outcome)


def _final_figures(folder: RunFolder) -> dict[str, float]:
    """What came of a run: of every model in its table, or of the one that was fine-tuned."""
    metrics: Mapping[str, Any] = read_json(folder.metrics) if folder.metrics.exists() else {}
    if "measure" not in metrics:  # Of a run that ends with no models of its own.
        return {}
    measure = Measure(**metrics["measure"])
    sign = 1 if measure.is_share else measure.sign
    figures: dict[str, float] = {}
    for row in metrics.get("rows", [{"name": "fine-tuned", **metrics}]):
        cost = row.get("cost") or {}
        found = {
            f"test {measure.name}": sign * row["test_accuracy"],
            f"reward {measure.name}": sign * row["reward_accuracy"],
            "latency": cost.get("latency"),
            "memory": (cost.get("memory") or {}).get("total"),
            "parameters": cost.get("parameters", row.get("parameters")),
        }
        figures |= {f"final/{row['name']}/{name}": float(value) for name, value in found.items() if value is not None}
    return figures
