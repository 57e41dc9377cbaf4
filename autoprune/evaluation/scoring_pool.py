"""Processes that score plans side by side, each with a model of its own; `scoring_worker.py` runs in them.

What they load, the model and the images, goes by files in a scratch folder: arrays are mapped into memory, so that all
processes share one copy. Images that are read as they are needed are read by each from where they are.
"""

import dataclasses
import os
import shutil
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from autoprune.data import Dataset, LazyImages
from autoprune.errors import AutopruneError, ScoringError, WorkerError
from autoprune.evaluation.accuracy import Signals
from autoprune.models.config import layer_modules
from autoprune.models.files import save_model
from autoprune.planning import Planner
from autoprune.planning.plan_file import plan_to_json
from autoprune.records import Plan
from autoprune.settings import DataSettings, EvaluationSettings, ModelSettings
from autoprune.workers import ChildProcess, WorkerPool, resources
from autoprune.workers.process import make_scratch

# Of a process with TensorFlow and a small network, in bytes, besides the variables and activations of a large one.
BYTES_PER_PROCESS = 1.2 * 2**30
MOST_PROCESSES = 16
TASK = "score the plan"


def automatic_workers() -> int:
    """How many processes suit this machine: one for every two cores, as many as fit in memory, 1 to 16; 1 with a GPU.

    A GPU serves one process well, and its memory would have to be shared out.
    """
    return 1 if resources.has_gpu() else resources.fitting_processes(BYTES_PER_PROCESS, MOST_PROCESSES)


class ScoringPool:
    """Scores plans of one model in processes of their own. Close it when done.

    Args:
        count: how many may run at once, 1 or more.
        model: the dense model.
        planner: made for it.
        data: plans recover with its training split and are scored by its reward split.
        settings: how plans are scored.
        sources: where images that are read as they are needed come from, and the model that they are prepared for.
    """

    def __init__(
        self,
        count: int,
        model: Any,
        planner: Planner,
        data: Dataset,
        *,
        settings: EvaluationSettings,
        sources: tuple[DataSettings, ModelSettings],
    ) -> None:
        self._model = model
        self._planner = planner
        self._data = data
        self._settings = settings
        self._sources = sources
        self._folder: Path | None = None
        self._pool = WorkerPool(
            lambda: ChildProcess(
                "autoprune.evaluation.scoring_worker",
                name="scoring process",
                environment=lambda scratch: {**os.environ, "KERAS_BACKEND": keras.backend.backend(), "TMPDIR": scratch},
                opening=self._opening,
            ),
            count,
            bytes_each=BYTES_PER_PROCESS,
            name="scoring process",
            task=TASK,
            error=_error,
            read=lambda answer: Signals(**answer),
        )

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The processes that run."""
        return self._pool.process_ids

    def submit(self, plan: Plan, draw: int) -> Future[Signals]:
        """Ask for the signals of a plan; see `Scorer.score`.

        The future raises a `ScoringError` where the plan's model ends every process that tries, and a `WorkerError`
        where none can get ready.
        """
        return self._pool.submit({"plan": plan_to_json(plan), "draw": draw})

    def close(self) -> None:
        """End the processes at once, and remove their files."""
        self._pool.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @cached_property
    def _opening(self) -> dict[str, Any]:
        """What a fresh process is told to load."""
        self._folder = folder = make_scratch()
        save_model(self._model, folder / "dense.keras")
        request = {
            "model": str(folder / "dense.keras"),
            "modules": layer_modules(self._model),
            "fingerprint": self._planner.fingerprint,
            "branches": [branch.name for branch in self._planner.branches],
            "settings": dataclasses.asdict(self._settings),
        }
        splits = {"train": self._data.train, "reward": self._data.reward}
        if any(isinstance(split.images, LazyImages) for split in splits.values()):
            of_images, of_model = self._sources
            sources = {"data": dataclasses.asdict(of_images), "data_of": dataclasses.asdict(of_model)}
            return {**request, **sources, "data_fingerprint": self._data.fingerprint()}
        for name, split in splits.items():
            np.save(folder / f"{name}_images.npy", split.images)
            np.save(folder / f"{name}_labels.npy", split.labels)
        return {**request, "arrays": str(folder)}


def _error(message: str, task: str) -> AutopruneError:
    return ScoringError(message) if task == TASK else WorkerError(message)
