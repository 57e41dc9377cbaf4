"""Bayesian optimisation over the index of each group's legal width, with Optuna.

Optuna's Gaussian process with expected improvement, not its tree-structured Parzen estimator (Bergstra et al., 2011):
on the toy of `tests/helpers/toy.py` mean regret after 60 evaluations is 0.0000 against 0.0016. A proposal takes some
tenths of a second at 60 evaluations, an evaluation of a network takes seconds.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from autoprune.planning import Candidate, SearchSpace
from autoprune.searchers.budgeted import BudgetedEvaluator, Proposal
from autoprune.searchers.memory import Memory
from autoprune.searchers.problem import Problem
from autoprune.searchers.searcher import EXTRA, Proposals, ask_tell, one_thread
from autoprune.settings.extras import extra

FIRST = 10  # Plans before the model has a say: the anchor, and draws around it as `random` makes them.


@ask_tell("bayes", library="optuna")
def bayes(problem: Problem, evaluator: BudgetedEvaluator, seed: int) -> Proposals:
    """Propose the plan of the highest expected improvement, after the anchor and draws around it.

    Plans over the budget need no other care than the reward's penalty. A proposal that has been evaluated before, or is
    predicted to miss the budget where predictions screen, gives way to one a few widths from it.
    """
    space, memory = problem.space, Memory(problem.space, evaluator)
    free, generator = list(space.free), np.random.default_rng(seed)
    yield from memory.learn([Proposal(start, "anchor", project=False) for start in problem.starts])
    if memory.complete:
        return
    optuna = extra("optuna", "searcher=bayes", EXTRA)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # Otherwise there is a line per trial.
    try:
        with one_thread():
            study = _Study(optuna, space, seed)
            study.learn(memory)
            while not memory.complete:
                batch: list[Candidate] = []
                for _ in range(int(min(evaluator.batch, space.count - len(memory)))):
                    if len(memory) + len(batch) < FIRST:
                        offsets = np.ones(len(space))
                        offsets[free] = generator.uniform(-1, 1, len(free))
                        wanted = space.around(problem.anchor, offsets)
                    else:
                        wanted = study.propose()
                    batch.append(memory.walk(wanted, generator, batch))
                yield from memory.learn([Proposal(candidate) for candidate in batch])
                study.learn({candidate: memory[candidate] for candidate in batch})
    finally:
        optuna.logging.set_verbosity(verbosity)


class _Study:
    """An Optuna study over the dimensions that have a choice."""

    def __init__(self, optuna: ModuleType, space: SearchSpace, seed: int) -> None:
        self._optuna = optuna
        self._space = space
        integers = optuna.distributions.IntDistribution
        self._distributions = {space.names[position]: integers(0, space.full[position]) for position in space.free}
        sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=FIRST)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._proposed: list[Any] = []  # Trials that are under way.

    def propose(self) -> Candidate:
        """The candidate of the highest expected improvement beside those that are under way."""
        trial = self._study.ask(self._distributions)
        self._proposed.append(trial)
        return tuple(
            trial.params.get(name, last) for name, last in zip(self._space.names, self._space.full, strict=True)
        )

    def learn(self, rewards: Mapping[Candidate, float]) -> None:
        """Learn what candidates are paid; nothing is under way then."""
        # What was evaluated may be others than were proposed: those trials count as none.
        for trial in self._proposed:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        self._proposed.clear()
        for candidate, reward in rewards.items():
            values = {self._space.names[position]: candidate[position] for position in self._space.free}
            trial = self._optuna.trial.create_trial(params=values, distributions=self._distributions, value=reward)
            self._study.add_trial(trial)
