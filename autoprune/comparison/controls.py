"""The control that asks what pruning is for: is it the weights that were kept, or only the widths that were found?

Liu et al., 2019 (arXiv 1810.05270): a pruned network that is trained from new weights often ends where the fine-tuned
one does.
"""

import logging
from typing import Any

import keras

from autoprune.comparison.record import FROM_SCRATCH, PlanResult
from autoprune.evaluation.accuracy import accuracy
from autoprune.models import keras_internals
from autoprune.records import Evaluation
from autoprune.training.base_model import settle
from autoprune.training.course import OnProgress, TrainingError
from autoprune.training.finishing import PlanTrainer
from autoprune.training.fit import carry_out
from autoprune.training.hyper_search import reparameterize
from autoprune.training.training import Training

logger = logging.getLogger(__name__)


class ScratchTrainer(PlanTrainer):
    """Trains the networks of plans from new weights, as long as base model and fine-tuning took together.

    The pruned network is built anew from its own config, which draws every weight from the layer's initialiser under
    the seed. It is trained by the base model's schedule (`training.learning_rate`, which suits new weights) for
    `training.epochs` and the epochs of fine-tuning, with the same batches, weight decay, augmentation and choice of the
    best epoch, and with the dense model as its teacher throughout, as the fine-tuned network has it.

    The model is dense again whenever a method returns. Arguments are those of `PlanTrainer`.
    """

    @property
    def epochs(self) -> int:
        """Of the training."""
        training = self._settings.training
        return training.epochs + self._settings.search.count_epochs(training.after_pruning)

    def finish(self, name: str, evaluation: Evaluation, seed: int, on_progress: OnProgress | None = None) -> PlanResult:
        """Train the network of a plan, and test it.

        When the training diverges, the network is tested with the best weights that it had, with a warning.

        Args:
            name: whose plan it is, for messages.
            evaluation: the plan, as it was evaluated.
            seed: of the new weights and the training.
            on_progress: called as the training goes on.

        Raises:
            CostError: the network cannot be costed.
            PlanError: the plan was scored with other legal widths than the planner's.
        """
        settings, data = self._settings, self._data
        batch_size = settings.evaluation.batch_size
        teacher = self.ask_teacher()
        self.find_scales()
        plan = self._planner.space.plan(self._planner.space.find(evaluation.values))
        with self._surgeon.pruning(plan, self._snapshot):
            pending = self._cost_model.submit(self._model)
            network = reinitialise(self._model, seed)
        scales = self.scales_of(plan)
        if scales is not None:
            reparameterize(network, scales, seed)
        epochs = 0
        try:
            training = Training(
                model=network,
                data=data,
                settings=settings.training,
                epochs=self.epochs,
                learning_rate=settings.training.learning_rate,
                seed=seed,
                teacher=teacher,
                scales=scales,
            )
            epochs = carry_out(training, on_progress).epochs
        except TrainingError as error:
            logger.warning("%s: training from scratch diverged. %s", name, error)
        settle(network, data, settings)
        cost = pending.result()
        return PlanResult(
            key=evaluation.key,
            recipe=FROM_SCRATCH,
            seed=seed,
            test_accuracy=accuracy(network, data.test, batch_size),
            reward_accuracy=accuracy(network, data.reward, batch_size),
            latency=cost.latency,
            memory=cost.memory.total,
            flops=cost.flops,
            parameters=cost.parameters,
            epochs=epochs,
        )


def reinitialise(model: Any, seed: int) -> Any:
    """A model of the same config with new weights, as its initialisers draw them under a seed.

    An initialiser that was given a seed of its own draws the same weights under every seed, as everywhere in Keras.
    """
    keras.utils.set_random_seed(seed)
    with keras_internals.running_own_code():
        return type(model).from_config(model.get_config())
