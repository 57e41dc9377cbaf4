"""The door for whoever prunes once."""

import logging
import os
from dataclasses import replace
from typing import Any

from autoprune.errors import PlanError
from autoprune.models import keras_internals
from autoprune.records import Plan, SurgeryReport
from autoprune.surgery.reconstruction import apply_with_reconstruction
from autoprune.surgery.surgeon import Surgeon

logger = logging.getLogger(__name__)


def apply_plan(model: Any, plan: Plan, *, reconstruct_from: Any = None) -> SurgeryReport:
    """Remove, in place, the channels that a plan does not keep, and the branches that it drops.

    The model and its layers stay the same objects; their variables get new, smaller storage. The outputs equal
    those of the original with the removed channels set to zero, where normalisations that average over channels
    average over those that stay; with zeros in the place of branches, and their means in that of gates. To prune and
    restore many times, use `Surgeon`.

    A model of a class of its own that Keras saves by its constructor's arguments gets a class derived from its own, by
    which it is saved as a plain Functional or Sequential model; `SurgeryReport.saved_as_plain` names it.

    A callback may prune while `fit` runs, and the rest of the training is that of the pruned model. Callbacks that hold
    weights of before cannot put them back: give `EarlyStopping(restore_best_weights=True)` a `start_from_epoch` after
    the surgery.

    Other models over the same layers, such as feature extractors, are cut with it: they have new static shapes, and
    what `predict`, `evaluate` or `fit` compiled of them before is compiled anew. Other models that read removed
    channels with weights of their own are lost: a warning names these, and `SurgeryReport.lost_elsewhere`. The means of
    gates scale weights that they share, also where they call these layers otherwise or still have the gate; nothing
    names that.

    Args:
        model: the built Functional or Sequential model that the plan was made for.
        plan: from `make_plan` or `load_plan`.
        reconstruct_from: a few hundred training images, (n, *input shape). Convolutions and dense layers that lose
            inputs are then fitted by least squares to give what they gave before (`apply_with_reconstruction` has
            options and the source).

    Raises:
        ModelError: the model has no graph to follow.
        PlanError: the plan is for another model, or keeps impossible indices.
        DataError: the images do not fit the model.

    Example:
        >>> report = autoprune.apply_plan(model, autoprune.make_plan(model, {"second": 0.5}))
        >>> tuple(model.get_layer("second").kernel.shape), report.parameters_after < report.parameters_before
        ((1, 1, 16, 16), True)
    """
    surgeon = Surgeon(model)
    if not isinstance(plan, Plan):
        of_file = isinstance(plan, (str, os.PathLike))
        raise PlanError(
            f"Expected a plan, from autoprune.make_plan. Received: a path, '{plan}'. Read it first: "
            f"plan = autoprune.load_plan('{plan}')"
            if of_file
            else f"Expected a plan, from autoprune.make_plan or autoprune.load_plan. Received: {type(plan).__name__}"
        )
    if reconstruct_from is None:
        report = surgeon.apply(plan)
    else:
        report = apply_with_reconstruction(surgeon, plan, reconstruct_from)
    others = keras_internals.renew_other_models(model)
    if report.dropped:
        # Layers that are gone here are as wide as before, and other models may still have them.
        lost = (*report.lost_elsewhere, *keras_internals.list_refused_calls(others))
        report = replace(report, lost_elsewhere=tuple(dict.fromkeys(lost)))
    if report.lost_elsewhere:
        logger.warning(
            "Other models share layers with '%s', and no longer fit at: %s. Prune one model over them all instead, "
            "keras.Model(inputs, [output, other_output]).",
            *(model.name, ", ".join(report.lost_elsewhere)),
        )
    return report
