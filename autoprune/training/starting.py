"""What a fine-tuning begins with: the pruned model, the plan it was pruned by, and what its teacher says."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.data import Dataset
from autoprune.errors import ModelError, PlanError
from autoprune.evaluation.accuracy import check_fit
from autoprune.evaluation.cautions import data_cautions
from autoprune.evaluation.recovery import recalibrate
from autoprune.models.files import load_model, save_model
from autoprune.models.fingerprint import architecture_fingerprint
from autoprune.planning.plan_file import load_plan, save_plan
from autoprune.records import Plan
from autoprune.records.plain import write_json
from autoprune.settings import FinetuneSettings
from autoprune.surgery import Surgeon, apply_plan
from autoprune.training.hyper_search import find_scales
from autoprune.training.reparameterization import keep_channels, scales_to_json
from autoprune.training.training import ask_teacher, check_recipe

logger = logging.getLogger(__name__)


class StartFiles:
    """Where what a fine-tuning begins with is kept, so that an interrupted one begins with the same.

    Args:
        folder: the run folder.

    Attributes:
        folder: that all of them are in.
        model: the model as it is before the first step; written last.
        teacher: (n, k) float32 what the teacher tells of the training images, see `ask_teacher`; missing without one.
        plan: the plan that the model was pruned by.
        scales: scales of the model's branches, see `find_scales`; missing for an optimiser that needs none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "start.keras"
        self.teacher = folder / "teacher.npy"
        self.plan = folder / "plan.json"
        self.scales = folder / "scales.json"


def load_start(settings: FinetuneSettings, data: Dataset, files: StartFiles) -> Any:
    """The model to fine-tune; what it begins with is in the files then.

    Raises:
        DataError: the data do not fit the model.
        ModelError: a file is missing or cannot be read, the run has no result yet, or features are to be distilled and
            cannot be found.
        PlanError: the plan is for another model.
    """
    if files.model.exists():
        return load_model(files.model, settings.model)
    model, plan, teacher, whole = _load(settings)
    # Before anything is computed: what does not fit is told at once.
    check_fit(model, data)
    for caution in data_cautions(model, data):
        logger.warning(caution)
    check_recipe(model, data, settings.training)
    if teacher is not None:
        check_fit(teacher, data)
        features = settings.training.feature_distillation > 0
        said = ask_teacher(teacher, data, settings.evaluation.batch_size, features=features)
        partial = files.teacher.with_name(f".{files.teacher.name}.partial")
        with open(partial, "wb") as file:
            np.save(file, said, allow_pickle=False)
        os.replace(partial, files.teacher)  # which appears whole or not at all
    elif settings.training.needs_teacher:
        logger.info("there is no teacher: the labels alone are learnt from")
    scales = find_scales(whole, data, settings.training, settings.seed)
    if scales is not None:
        if plan is not None:
            surgeon = Surgeon(whole)
            surgeon.check(plan)
            scales = keep_channels(scales, surgeon.slices(plan))
        write_json(files.scales, scales_to_json(scales))
    if plan is not None:
        if settings.plan:
            apply_plan(model, plan)
            images = data.train.images[: settings.evaluation.recalibration_images]
            recalibrate(model, images, settings.evaluation.batch_size)
        save_plan(plan, files.plan)
    save_model(model, files.model)
    return model


def _load(settings: FinetuneSettings) -> tuple[Any, Plan | None, Any | None, Any]:
    """The model, its plan, what teaches it, if anything does, and the model without the plan.

    The dense model teaches, or another one that is named.
    """
    teaches = settings.training.needs_teacher
    if not settings.run:
        model = load_model(settings.model.path, settings.model)
        if settings.teacher and not teaches:
            logger.warning("the teacher is not asked: training.distillation and training.feature_distillation are 0")
        plan = load_plan(settings.plan) if settings.plan else None
        path = settings.teacher or (settings.model.path if plan is not None else None)
        return model, plan, load_model(path, settings.model) if teaches and path else None, model
    folder = Path(settings.run)
    for name in ("pruned.keras", "dense.keras", "plan.json"):
        if not (folder / name).exists():
            raise ModelError(
                f"The run '{folder}' has no {name}: expected the folder of a search that has ended. An interrupted one "
                f"goes on with python -m autoprune.search resume={folder}"
            )
    plan, dense = load_plan(folder / "plan.json"), load_model(folder / "dense.keras", settings.model)
    if plan.model != architecture_fingerprint(dense):
        raise PlanError(f"The plan of the run '{folder}' is not for its dense.keras: one of them was changed since.")
    return load_model(folder / "pruned.keras", settings.model), plan, dense if teaches else None, dense
