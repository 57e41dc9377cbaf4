"""What every searcher promises, how one is written, and the table of them.

A searcher proposes candidates and learns from the trials that come of them. Most are written as generators: they yield
a batch of proposals and are sent the batch's trials.

    @ask_tell("mine")
    def mine(problem, evaluator, seed):
        generator = np.random.default_rng(seed)
        while True:
            trials = yield [Proposal(problem.space.random(generator, problem.anchor))]

A batch holds one proposal or more that do not depend on each other's outcomes: it may be evaluated side by side.
"""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Protocol

from autoprune.registry import Registry
from autoprune.searchers.budgeted import BudgetedEvaluator, Proposal
from autoprune.searchers.history import Trial
from autoprune.searchers.policy import Policy
from autoprune.searchers.problem import Problem
from autoprune.settings import AgentSettings
from autoprune.settings.extras import extra

EXTRA = "search"  # The optional extra with libraries that only some searchers and agents need.

Proposals = Generator[Sequence[Proposal], Sequence[Trial], None]
ProposalFunction = Callable[[Problem, BudgetedEvaluator, int], Proposals]


class Searcher(Protocol):
    """One search.

    Attributes:
        policy: what was learnt, after `run`; None for a searcher that learns no policy.
    """

    policy: Policy | None

    def run(self) -> None:
        """Search until the evaluations are spent, or nothing is left to propose. The same seed, the same history."""
        ...


class SearcherKind(Protocol):
    """An entry of the table of searchers."""

    def check(self, agent: AgentSettings) -> None:
        """Refuse at once what could not run.

        Raises:
            SettingsError: a library is missing, or an option of the agent cannot be.
            UnknownNameError: there is no such agent.
        """
        ...

    def build(
        self,
        problem: Problem,
        evaluator: BudgetedEvaluator,
        *,
        seed: int,
        agent: AgentSettings,
        log_folder: Path | None = None,
    ) -> Searcher:
        """A search of a problem.

        Args:
            problem: what is searched for.
            evaluator: evaluates its proposals.
            seed: seed of whatever the searcher draws.
            agent: for those that train one.
            log_folder: where an agent's TensorBoard files go, or None.
        """
        ...


SEARCHERS: Registry[SearcherKind] = Registry("searcher")


class AskTellSearcher:
    """A search by proposals: `ask` for some, evaluate them, `tell` their trials.

    Args:
        proposals: yields batches, and is sent their trials.
        evaluator: what `run` evaluates them by.
    """

    policy: Policy | None = None

    def __init__(self, proposals: Proposals, evaluator: BudgetedEvaluator) -> None:
        self._proposals = proposals
        self._evaluator = evaluator
        self._batch: list[Proposal] = []  # Not asked for yet.
        self._open = 0  # Asked for, and not told of yet.
        self._trials: list[Trial] = []
        self._begun = False

    def ask(self, count: int) -> list[Proposal]:
        """At most so many proposals.

        None means that there are no more: of this batch, while some of it have not been told, or at all.
        """
        if not self._batch and not self._open:
            try:
                batch = self._proposals.send(self._trials) if self._begun else next(self._proposals)
            except StopIteration:
                return []
            self._begun, self._trials, self._batch = True, [], list(batch)
        asked, self._batch = self._batch[:count], self._batch[count:]
        self._open += len(asked)
        return asked

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take in the trials of proposals, in the order in which they were asked for."""
        self._trials += trials
        self._open -= len(trials)

    def run(self) -> None:
        """Search; see `Searcher.run`."""
        try:
            while self._evaluator.left > 0 and self.step():
                pass
        finally:
            self._proposals.close()

    def step(self) -> bool:
        """Evaluate what remains of a batch; whether there was something."""
        asked = self.ask(self._evaluator.left)
        if asked:
            self.tell(self._evaluator.evaluate_many(asked))
        return bool(asked)


class AskTellKind:
    """A searcher that is written as a generator.

    Args:
        name: name of the searcher, for messages.
        function: makes the proposals.
        library: that it imports, of the optional extra `search`; empty for none.
    """

    def __init__(self, name: str, function: ProposalFunction, library: str = "") -> None:
        self._name = name
        self._function = function
        self._library = library

    def check(self, agent: AgentSettings) -> None:
        """See `SearcherKind.check`."""
        if self._library:
            extra(self._library, f"searcher={self._name}", EXTRA)

    def build(
        self,
        problem: Problem,
        evaluator: BudgetedEvaluator,
        *,
        seed: int,
        agent: AgentSettings,
        log_folder: Path | None = None,
    ) -> AskTellSearcher:
        """See `SearcherKind.build`; no agent is trained."""
        self.check(agent)
        return AskTellSearcher(self._function(problem, evaluator, seed), evaluator)


def ask_tell(name: str, library: str = "") -> Callable[[ProposalFunction], ProposalFunction]:
    """Decorator that enters a generator of proposals among the searchers.

    Args:
        name: name of the searcher, its option on the command line.
        library: that it imports and that only the optional extra `search` installs.

    Raises:
        ValueError: the name is taken.
    """

    def enter(function: ProposalFunction) -> ProposalFunction:
        SEARCHERS.add(name)(AskTellKind(name, function, library))
        return function

    return enter
