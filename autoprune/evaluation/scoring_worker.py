"""Runs in a worker that scores plans: loads the model and the images, then scores, as `scoring_pool.py` asks.

It computes as the process that started it would: the same backend, the same threads, so that its signals are the same.
"""

import dataclasses
import importlib.metadata
import math
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.cost import CostModel
from autoprune.cost.multi_target import open_targets
from autoprune.data import Split, load_data
from autoprune.errors import AutopruneError, CostError, DataError, ModelError, ScoringError, WorkerError
from autoprune.evaluation.accuracy import Signals
from autoprune.evaluation.scoring import Scorer
from autoprune.models.config import import_modules
from autoprune.models.files import load_model
from autoprune.planning.plan_file import plan_from_json
from autoprune.records import CostReport
from autoprune.settings import DataSettings, EvaluationSettings, ModelSettings, TargetSettings, TaskSettings
from autoprune.surgery import Surgeon
from autoprune.tasks import make_task

LIBRARIES = ("jax", "keras", "libtpu", "numpy", "tensorflow")


def find_versions() -> dict[str, str]:
    """What scores and costs depend on, as it is installed here."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def open_scorer(request: dict[str, Any]) -> Scorer:
    """The scorer that a request describes.

    Args:
        request: `folder` (with `dense.keras`, and images and labels), `modules` (that the model's layers come from),
            `fingerprint` (of its architecture), `branches` (names of those that may go), `settings` (of evaluations),
            `task` (its settings) and `labels` (see `Task.label_facts`), and for images that are no files there `data`
            and `data_of` (settings of data, and of the model that they are prepared for) and `data_fingerprint`.

    Raises:
        DataError: other data are there by now.
        ModelError: the model is another one once it is loaded, or cannot be.
    """
    import_modules(request["modules"])
    # Whoever asks has written the file from a model that runs there.
    surgeon = Surgeon(load_model(Path(request["folder"], "dense.keras"), ModelSettings(safe_mode=False)))
    if surgeon.fingerprint != request["fingerprint"]:
        raise ModelError(
            f"'{surgeon.model.name}' is another network once it is saved and loaded, so that it cannot be scored in "
            "workers. Score it in one process: workers=1."
        )
    if "data" in request:
        task = TaskSettings(**request["task"])
        data = load_data(DataSettings(**request["data"]), ModelSettings(**request["data_of"]), task)
        if data.fingerprint() != request["data_fingerprint"]:
            raise DataError(
                f"'{data.name}' has other images where it is loaded again. Score plans in one process: workers=1."
            )
        train, reward = data.train, data.reward
    else:
        arrays = [
            [np.load(Path(request["folder"], f"{split}_{what}.npy"), "r") for what in ("images", "labels")]
            for split in ("train", "reward")
        ]
        purpose = make_task(TaskSettings(**request["task"])).refit(request["labels"])
        train, reward = (Split(images, labels, purpose) for images, labels in arrays)
    names = set(request["branches"])
    branches = [branch for branch in surgeon.branches if branch.name in names]
    return Scorer(surgeon, branches, train, reward, EvaluationSettings(**request["settings"]))


def open_costs(request: dict[str, Any], scorer: Scorer) -> CostModel | None:
    """What costs plans here, if a request has the settings of a `target`; it has seen the dense model.

    Raises:
        TargetError: it cannot be used here.
        WorkerError: other `versions` are installed here than the request says.
    """
    if "target" not in request:
        return None
    here, there = find_versions(), request["versions"]
    if others := [f"{name} {there[name]}, not {here[name]}" for name in LIBRARIES if there[name] != here[name]]:
        raise WorkerError(f"All nodes must have the same libraries. The search has {'; '.join(others)}.")
    cost_model = open_targets(TargetSettings(**request["target"]))
    cost_model.submit(scorer.surgeon.model).result()
    return cost_model


def make_handler() -> Callable[[dict[str, Any], Callable[[dict[str, Any]], None]], dict[str, Any]]:
    """What answers requests in this process: first what to load, then plans."""
    scorer: Scorer | None = None
    cost_model: CostModel | None = None

    def handle(request: dict[str, Any], _: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        nonlocal scorer, cost_model
        if scorer is None:
            try:
                opened = open_scorer(request)
                cost_model = open_costs(request, opened)
            except AutopruneError as error:
                return {"error": str(error)}
            scorer = opened
            return {}
        plan, asked = plan_from_json(request["plan"]), list[Future[CostReport]]()
        model, costs = scorer.surgeon.model, cost_model

        def look() -> None:
            if costs is not None:
                asked.append(costs.submit(model))

        signals, told = Signals(math.nan, math.nan, math.nan), dict[str, Any]()
        try:
            signals = scorer.score(plan, request["draw"], look)
            if asked:
                told["cost"] = dataclasses.asdict(asked[0].result())
        except CostError as error:
            told["cost_error"] = str(error)
        except ScoringError as error:
            return {"scoring_error": str(error)}
        return {"signals": dataclasses.asdict(signals), **told}

    return handle
