"""How much the loss would change without the channel, to first order."""

import logging

import numpy as np

from autoprune.planning.importance.combining import MemberScores
from autoprune.planning.importance.context import IMPORTANCES, Criterion, ImportanceContext
from autoprune.planning.importance.gradients import gradients_per_batch
from autoprune.planning.importance.weights import l1
from autoprune.records import Member

logger = logging.getLogger(__name__)


@IMPORTANCES.add("taylor")
def taylor(context: ImportanceContext) -> Criterion:
    """First-order Taylor expansion of the loss (Molchanov et al., 2019, arXiv 1906.10771, equation 8).

    For each batch the square of the sum, over all parameters that make or follow the channel in any layer of the
    group, of gradient times weight; averaged over batches. The parameters of a channel go together, so the members
    are summed before squaring and the setting `reduction` is not used. Frozen layers give no gradients: a group
    without trainable parameters is ranked by `l1`, with a warning.
    """
    data = context.calibration(labels=True)
    members = {group.name: [m for m in group.members if _is_trained(context, m)] for group in context.groups}
    needed = {id(v): v for of_group in members.values() for v in map(context.variable, of_group)}
    weights = {key: variable.numpy().astype(np.float64) for key, variable in needed.items()}
    totals = {group.name: np.zeros(group.size) for group in context.groups}
    batches = 0
    for gradients in gradients_per_batch(context.model, list(needed.values()), data):
        batches += 1
        changes = {key: gradient * weights[key] for key, gradient in zip(needed, gradients, strict=True)}
        for group in context.groups:
            change = np.zeros(group.size)  # Over each channel's parameters.
            for member in members[group.name]:
                products = np.moveaxis(changes[id(context.variable(member))], member.axis, 0)
                held = member.channels >= 0
                np.add.at(change, member.channels[held], products.reshape(len(products), -1).sum(1)[held])
            totals[group.name] += np.square(change)
    frozen = [name for name, of_group in members.items() if not of_group]
    if frozen:
        logger.warning(
            "The importance 'taylor' needs gradients, and all layers of %s are frozen: 'l1' ranks their channels "
            "instead. Set `trainable = True` on the layers to score them.",
            ", ".join(f"'{name}'" for name in frozen),
        )
    fallback = l1(context)
    scores = {name: total / batches for name, total in totals.items()}
    whole = {group.name: MemberScores(np.arange(group.size), scores[group.name]) for group in context.groups}
    return lambda g: fallback(g) if g.name in frozen else context.combine(g, [whole[g.name]])


def _is_trained(context: ImportanceContext, member: Member) -> bool:
    """Whether the member holds parameters of the channels that training would change."""
    if member.role not in ("produces", "follows"):
        return False
    variable = context.variable(member)
    return any(variable is trainable for trainable in context.layers[member.layer].trainable_variables)
