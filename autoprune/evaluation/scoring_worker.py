"""Runs in a process that scores plans: loads the model and the images, then scores, as `scoring_pool.py` asks.

It computes as the process that started it would: the same backend, the same threads, so that its signals are the same.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.data import Split, load_data
from autoprune.errors import AutopruneError, DataError, ModelError
from autoprune.evaluation.scoring import Scorer
from autoprune.models.files import load_model
from autoprune.models.own_modules import import_modules
from autoprune.planning.plan_file import plan_from_json
from autoprune.settings import DataSettings, EvaluationSettings, ModelSettings
from autoprune.surgery import Surgeon


def open_scorer(request: dict[str, Any]) -> Scorer:
    """The scorer that a request describes.

    Args:
        request: `model` (a `.keras` file), `modules` (that its layers come from), `fingerprint` (of its architecture),
            `branches` (names of those that may go), `settings` (of evaluations), and `arrays` (a folder with images and
            labels), or `data` and `data_of` (settings of data, and of the model that they are prepared for) and
            `data_fingerprint`.

    Raises:
        DataError: other data are there by now.
        ModelError: the model is another one once it is loaded, or cannot be.
    """
    import_modules(request["modules"])
    # The parent has written the file from a model that runs there.
    surgeon = Surgeon(load_model(request["model"], ModelSettings(safe_mode=False)))
    if surgeon.fingerprint != request["fingerprint"]:
        raise ModelError(
            f"'{surgeon.model.name}' is another network once it is saved and loaded, so that it cannot be scored in "
            "processes of its own. Score it in this one: workers=1."
        )
    if folder := request.get("arrays"):
        train, reward = (
            Split(*(np.load(Path(folder, f"{name}_{what}.npy"), mmap_mode="r") for what in ("images", "labels")))
            for name in ("train", "reward")
        )
    else:
        data = load_data(DataSettings(**request["data"]), ModelSettings(**request["data_of"]))
        if data.fingerprint() != request["data_fingerprint"]:
            raise DataError(
                f"'{data.name}' has other images where it is loaded again. Score plans in one process: workers=1."
            )
        train, reward = data.train, data.reward
    names = set(request["branches"])
    branches = [branch for branch in surgeon.branches if branch.name in names]
    return Scorer(surgeon, branches, train, reward, EvaluationSettings(**request["settings"]))


def make_handler() -> Callable[[dict[str, Any], Callable[[dict[str, Any]], None]], dict[str, Any]]:
    """What answers requests in this process: first what to load, then plans."""
    scorer: Scorer | None = None

    def handle(request: dict[str, Any], _: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        nonlocal scorer
        if scorer is None:
            try:
                scorer = open_scorer(request)
            except AutopruneError as error:
                return {"error": str(error)}
            return {}
        return dataclasses.asdict(scorer.score(plan_from_json(request["plan"]), request["draw"]))

    return handle
