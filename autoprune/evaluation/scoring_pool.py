"""Workers that score plans side by side, each with a model of its own; `scoring_worker.py` runs in them.

They are processes of this machine or, with `workers=ray`, actors on a cluster. What they load, the model and the
images, goes by files; images that are read as they are needed are read by each from where they are. Processes of this
machine share the compilers of this one; actors compile where they are, or measure on the chip that is theirs.
"""

import dataclasses
import importlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager
from functools import cached_property
from typing import Any

import keras
import numpy as np

from autoprune.data import Dataset, LazyImages
from autoprune.errors import CostError, ScoringError, WorkerError
from autoprune.evaluation.accuracy import Signals
from autoprune.evaluation.scoring_worker import find_versions
from autoprune.models.config import layer_modules
from autoprune.models.files import save_model
from autoprune.planning import Planner
from autoprune.planning.plan_file import plan_to_json
from autoprune.records import CostReport, Plan
from autoprune.records.plain import from_plain
from autoprune.settings.commands import ScoringSettings
from autoprune.workers import ChildProcess, WorkerPool, resources
from autoprune.workers.pool import Worker
from autoprune.workers.process import make_scratch
from autoprune.workers.ray_worker import RayWorker, connect

logger = logging.getLogger(__name__)

# Of a process with TensorFlow and a small network, in bytes, besides the variables and activations of a large one.
BYTES_PER_PROCESS = 1.2 * 2**30
# Of a GPU: the libraries' own share, a small network and its activations.
GPU_BYTES_PER_PROCESS = 2 * 2**30
MOST_PROCESSES = 16
MODULE, NAME, TASK = "autoprune.evaluation.scoring_worker", "scoring process", "score the plan"


@dataclasses.dataclass(frozen=True)
class Scored:
    """What a worker says of a plan.

    Attributes:
        signals: what its model's outputs say.
        cost: of its model, or why it has none; None where the worker is not asked for it.
    """

    signals: Signals
    cost: CostReport | CostError | None = None

    @classmethod
    def of(cls, answer: dict[str, Any]) -> "Scored":
        """What an answer says.

        Raises:
            ScoringError: the plan could not be scored.
        """
        if "scoring_error" in answer:
            raise ScoringError(answer["scoring_error"])
        cost: CostReport | CostError | None = None
        if "cost" in answer:
            cost = from_plain(CostReport, answer["cost"])
        elif "cost_error" in answer:
            cost = CostError(answer["cost_error"])
        return cls(Signals(**answer["signals"]), cost)


def automatic_workers() -> int:
    """How many processes suit this machine: one for every two cores, as many as fit in memory, 1 to 16.

    With a GPU, as many as fit in what is free of its memory, which `autoprune` lets processes take as they need it.
    """
    count = resources.fitting_processes(BYTES_PER_PROCESS, MOST_PROCESSES)
    return max(1, min(count, int(resources.gpu_memory() // GPU_BYTES_PER_PROCESS))) if resources.has_gpu() else count


@contextmanager
def open_workers(
    model: Any, planner: Planner, data: Dataset, settings: ScoringSettings
) -> Iterator["ScoringPool | None"]:
    """The workers that settings ask for, within the block; None where this process does it all.

    Args:
        model: the dense model.
        planner: made for it.
        data: plans recover with its training split and are scored by its reward split.
        settings: how many workers and where, how plans are scored, and the data and the target for workers elsewhere.

    Raises:
        SettingsError: Ray is asked for and not installed, or there is no cluster.
    """
    if settings.workers == "ray":
        with connect(settings.ray) as count, closing(ScoringPool(count, model, planner, data, settings)) as pool:
            logger.info("%d actors on Ray score plans", count)
            yield pool
        return
    count = automatic_workers() if settings.workers == "auto" else settings.workers
    if count == 1:
        yield None
        return
    logger.info("%d processes score plans", count)
    with closing(ScoringPool(count, model, planner, data, settings)) as pool:
        yield pool


class ScoringPool:
    """Scores plans of one model in workers. Close it when done.

    Args:
        count: how many may run at once, 1 or more.
        model, planner, data, settings: as for `open_workers`.

    Attributes:
        costs: whether workers say what plans cost, too.
    """

    def __init__(self, count: int, model: Any, planner: Planner, data: Dataset, settings: ScoringSettings) -> None:
        self.costs = settings.workers == "ray"
        self._model = model
        self._planner = planner
        self._data = data
        self._settings = settings
        self._folder = make_scratch()
        self._pool = WorkerPool(
            self._make_worker,
            count,
            bytes_each=0 if self.costs else BYTES_PER_PROCESS,
            task=TASK,
            error=lambda message, task: ScoringError(message) if task == TASK else WorkerError(message),
            read=Scored.of,
        )

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The processes that run."""
        return self._pool.process_ids

    def submit(self, plan: Plan, draw: int) -> Future[Scored]:
        """Ask for the signals of a plan, see `Scorer.score`, and where workers say that for its cost.

        The future raises a `ScoringError` where the plan's model ends every worker that tries, and a `WorkerError`
        where none can get ready.
        """
        return self._pool.submit({"plan": plan_to_json(plan), "draw": draw})

    def close(self) -> None:
        """End the workers at once, and remove their files."""
        self._pool.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make_worker(self) -> Worker:
        # Variables that a worker must have as they are here.
        environment = {"KERAS_BACKEND": keras.backend.backend(), "TF_CPP_MIN_LOG_LEVEL": "3"}
        if self.costs:
            target = dataclasses.replace(self._settings.target, processes=1)
            return RayWorker(
                MODULE,
                name=NAME,
                opening={**self._opening, "target": dataclasses.asdict(target), "versions": find_versions()},
                files=self._stored,
                resources=self._settings.ray.resources,
                environment=environment,
            )
        return ChildProcess(
            MODULE,
            name=NAME,
            environment=lambda scratch: {**os.environ, **environment, "TMPDIR": scratch},
            opening={**self._opening, "folder": str(self._folder)},
        )

    @cached_property
    def _opening(self) -> dict[str, Any]:
        """What a fresh worker is told to load; the files are in the folder then."""
        folder, task = self._folder, self._data.task
        if task.settings is None:
            raise WorkerError(
                "A metric or a loss that is given from Python is not known to other processes: score plans in one "
                "process (workers=1), or name one of Keras's."
            )
        save_model(self._model, folder / "dense.keras")
        request = {
            "modules": layer_modules(self._model),
            "fingerprint": self._planner.fingerprint,
            "branches": [branch.name for branch in self._planner.branches],
            "settings": dataclasses.asdict(self._settings.evaluation),
            "task": dataclasses.asdict(task.settings),
            "labels": task.label_facts(),
        }
        splits = {"train": self._data.train, "reward": self._data.reward}
        if any(isinstance(split.images, LazyImages) for split in splits.values()):
            of_images, of_model = self._settings.data, self._settings.model
            sources = {"data": dataclasses.asdict(of_images), "data_of": dataclasses.asdict(of_model)}
            return {**request, **sources, "data_fingerprint": self._data.fingerprint()}
        for name, split in splits.items():
            np.save(folder / f"{name}_images.npy", split.images)
            np.save(folder / f"{name}_labels.npy", split.labels)
        return request

    @cached_property
    def _stored(self) -> Mapping[str, Any]:
        """References to the files in Ray's object store, by name."""
        put: Callable[[np.ndarray], Any] = importlib.import_module("ray").put
        _ = self._opening  # which makes them
        return {path.name: put(np.fromfile(path, np.uint8)) for path in sorted(self._folder.iterdir())}
