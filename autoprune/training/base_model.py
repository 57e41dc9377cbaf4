"""The dense model that a search starts from: a user's file, or an architecture trained once and kept."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import keras

from autoprune.cost.cache import cache_key
from autoprune.data import Dataset
from autoprune.errors import ModelError
from autoprune.evaluation.accuracy import accuracy, check_fit
from autoprune.evaluation.recovery import recalibrate
from autoprune.models import zoo
from autoprune.models.building import build_model, is_ready
from autoprune.models.files import load_model, save_model
from autoprune.settings import FinetuneSettings, SearchSettings, TaskSettings
from autoprune.settings.places import user_cache_folder
from autoprune.training.course import OnProgress
from autoprune.training.fit import carry_out
from autoprune.training.hyper_search import find_scales, reparameterize
from autoprune.training.training import Training

logger = logging.getLogger(__name__)

# Raised when the same settings train another model; part of what a kept model is kept under.
RECIPE = 3
# What only says how files are loaded.
_OF_FILES = ("modules", "modules_from", "safe_mode")
_OPTIONAL: tuple[tuple[str, Any], ...] = (
    *(("augmentation_layers", []), ("label_smoothing", 0.0), ("early_stop", None)),
    *(("optimizer", "adamw"), ("hyper_search_epochs", 0)),
)


def base_model(settings: SearchSettings, data: Dataset, on_progress: OnProgress | None = None) -> Any:
    """The model to prune.

    `model=file` loads it, and a network of `keras.applications` that comes with weights for these classes is used as it
    is. Any other is built for the data and trained; the result is kept in the user's cache folder, by everything it
    depends on, and loaded the next time.

    Raises:
        DataError: the data do not fit the architecture as it was asked for.
        ModelError: a file is missing or cannot be read, or weights cannot be downloaded.
        UnknownNameError: there is no such architecture.
    """
    chosen = settings.model
    if chosen.name == "file":
        if not chosen.path:
            raise ModelError("model=file needs model.path=FILE.keras.")
        return load_model(chosen.path, chosen)
    # Networks of `keras.applications` are all classifiers.
    task = zoo.ARCHITECTURES.get(chosen.name).task if chosen.name in zoo.ARCHITECTURES else "classification"
    if data.task.name != task:
        raise ModelError(
            f"model={chosen.name} is for task={task}. Received: task={data.task.name}. Set task={task}, or give a "
            "network of your own: model=file model.path=FILE.keras."
        )
    shape, classes = tuple(chosen.input_shape or data.input_shape), chosen.classes or data.classes
    if is_ready(chosen, classes):
        return build_model(chosen, shape, classes)
    path = _cache_path(settings, data)
    if path.exists():
        try:
            model = load_model(path)
        except ModelError as error:
            logger.warning("the kept base model cannot be used (%s); training it anew", error)
        else:
            logger.info("base model %s: loaded, as trained before (%s)", chosen.name, path)
            return model
    keras.utils.set_random_seed(settings.seed)
    model = build_model(chosen, shape, classes)
    check_fit(model, data)
    training = settings.training
    scales = find_scales(model, data, training, settings.seed)
    if scales is not None:
        reparameterize(model, scales, settings.seed)
    course = Training(
        model=model,
        data=data,
        settings=training,
        epochs=training.epochs,
        learning_rate=training.learning_rate,
        seed=settings.seed,
        scales=scales,
    )
    carry_out(course, on_progress)
    settle(model, data, settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(model, path)
    except OSError as error:
        logger.warning("the base model could not be kept for the next time: %s", error)
    return model


def settle(model: Any, data: Dataset, settings: SearchSettings | FinetuneSettings) -> None:
    """Estimate batch-norm statistics anew where that is better: after few steps the moving ones are far behind."""
    moving, score = model.get_weights(), accuracy(model, data.reward, settings.evaluation.batch_size)
    images = data.train.images[: settings.evaluation.recalibration_images]
    recalibrate(model, images, settings.evaluation.batch_size)
    if accuracy(model, data.reward, settings.evaluation.batch_size) <= score:
        model.set_weights(moving)


def _cache_path(settings: SearchSettings, data: Dataset) -> Path:
    """Where a trained architecture is kept."""
    evaluation = {name: getattr(settings.evaluation, name) for name in ("batch_size", "recalibration_images")}
    training = dataclasses.asdict(settings.training)
    of_fine_tuning = ("fine_tune_epochs", "fine_tune_learning_rate", "schedule", "removal")
    for name in (*of_fine_tuning, "distillation", "temperature", "feature_distillation"):
        training.pop(name)
    # What came later counts where it is used only: models that were kept before stay known.
    for name, unused in (("augmentation", "none"), *_OPTIONAL):
        if training[name] == unused:
            training.pop(name)
    if data.task.settings != TaskSettings():
        training["task"] = data.task.describe()
    key = cache_key(
        recipe=RECIPE,
        evaluation=evaluation,
        model={name: value for name, value in dataclasses.asdict(settings.model).items() if name not in _OF_FILES},
        data=data.fingerprint(),
        training=training,
        seed=settings.seed,
        keras=keras.version(),
        backend=keras.backend.backend(),
    )
    return user_cache_folder() / "models" / f"{settings.model.name}-{key[:16]}.keras"
