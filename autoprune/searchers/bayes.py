"""Bayesian optimisation over the index of each group's legal width, with Optuna.

Optuna's Gaussian process with expected improvement, not its tree-structured Parzen estimator (Bergstra et al., 2011):
on the toy of `tests/helpers/toy.py` mean regret after 60 evaluations is 0.0000 against 0.0016. A proposal takes some
tenths of a second at 60 evaluations, an evaluation of a network takes seconds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np

from autoprune.planning.widths import ratio_around
from autoprune.searchers.choices import Choices, Indices, Scores
from autoprune.searchers.extras import EXTRA, NeedsExtra
from autoprune.searchers.problem import Problem
from autoprune.searchers.scorer import Scorer
from autoprune.searchers.searcher import SEARCHERS
from autoprune.settings.extras import extra

FIRST = 10  # Plans before the model has a say: the anchor, and draws around it as `random` makes them.


def bayes(problem: Problem, scorer: Scorer, seed: int) -> None:
    """Score the plan of the highest expected improvement, after the anchor and draws around it.

    Plans over the budget need no other care than the reward's penalty. A proposal that has been scored before, or is
    guessed to miss the budget where guesses screen, gives way to one a few widths from it.
    """
    choices = Choices(problem)
    scores = Scores(problem, scorer, choices)
    if not choices.names:
        return
    generator = np.random.default_rng(seed)
    with _calm(extra("optuna", "searcher=bayes", EXTRA)) as optuna:
        study = _Study(optuna, choices, seed)
        study.add(choices.anchor, scores.of(choices.anchor))
        while scorer.left > 0 and not scores.complete:
            first = len(scores) < FIRST
            wanted = _around_anchor(problem, choices, generator) if first else study.proposal()
            indices = scores.new_near(wanted, generator)
            study.add(indices, scores.of(indices))


SEARCHERS.add("bayes")(NeedsExtra("bayes", "optuna", bayes))


class _Study:
    """An Optuna study over plans."""

    def __init__(self, optuna: ModuleType, choices: Choices, seed: int) -> None:
        self._optuna = optuna
        self._names = choices.names
        integers = optuna.distributions.IntDistribution
        self._space = {name: integers(0, int(last)) for name, last in zip(choices.names, choices.last, strict=True)}
        sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=FIRST)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)

    def proposal(self) -> Indices:
        """The plan of the highest expected improvement."""
        trial = self._study.ask(self._space)
        # What is scored in the end may be another plan and is added as such: this trial counts as none.
        self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        return tuple(trial.params[name] for name in self._names)

    def add(self, indices: Indices, reward: float) -> None:
        """Learn what a plan is paid."""
        values = dict(zip(self._names, indices, strict=True))
        trial = self._optuna.trial.create_trial(params=values, distributions=self._space, value=reward)
        self._study.add_trial(trial)


def _around_anchor(problem: Problem, choices: Choices, generator: np.random.Generator) -> Indices:
    """A plan as `random` draws it."""
    offsets = generator.uniform(-1, 1, len(choices.names))
    return choices.nearest([ratio_around(problem.anchor, offset, problem.legal.minimum) for offset in offsets])


@contextmanager
def _calm(optuna: ModuleType) -> Iterator[ModuleType]:
    """Optuna without a line per trial, and torch on one thread, which makes the course the same on every machine."""
    import torch  # Takes seconds: only when it is needed.

    verbosity, threads = optuna.logging.get_verbosity(), torch.get_num_threads()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    try:
        yield optuna
    finally:
        optuna.logging.set_verbosity(verbosity)
        torch.set_num_threads(threads)
