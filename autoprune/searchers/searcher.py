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

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import keras

from autoprune.errors import SettingsError
from autoprune.registry import Registry
from autoprune.searchers.budgeted import BudgetedEvaluator, Proposal, Trial
from autoprune.searchers.policy import Policy
from autoprune.searchers.problem import Problem
from autoprune.settings import AgentSettings
from autoprune.settings.extras import extra

EXTRA = "search"  # The optional extra with libraries that only some searchers and agents need.

Proposals = Generator[Sequence[Proposal], Sequence[Trial], None]
ProposalFunction = Callable[[Problem, BudgetedEvaluator, int], Proposals]
# What an agent tells of its learning: a number of steps, and figures by name.
Log = Callable[[int, Mapping[str, float]], None]


class Searcher(Protocol):
    """One search.

    Attributes:
        policy: what was learnt, after `run`; None for a searcher that learns no policy.
    """

    policy: Policy | None

    def run(self) -> None:
        """Search until the evaluations are spent, or nothing is left to propose. The same seed, the same history."""
        ...


class SearcherBuilder(Protocol):
    """Builds a search of a problem."""

    def __call__(
        self,
        problem: Problem,
        evaluator: BudgetedEvaluator,
        *,
        seed: int,
        agent: AgentSettings,
        log: Log | None = None,
    ) -> Searcher:
        """The search.

        Args:
            problem: what is searched for.
            evaluator: evaluates its proposals.
            seed: seed of whatever the searcher draws.
            agent: for those that train one.
            log: what an agent that learns tells of it.
        """
        ...


@dataclass(frozen=True)
class SearcherKind:
    """An entry of the table of searchers.

    Attributes:
        check: refuses at once what could not run: a SettingsError where a library is missing or an option of the agent
            cannot be, an UnknownNameError where there is no such agent.
        build: builds a search.
    """

    check: Callable[[AgentSettings], object]
    build: SearcherBuilder


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


def ask_tell(name: str, library: str = "", backend: str = "") -> Callable[[ProposalFunction], ProposalFunction]:
    """Decorator that enters a generator of proposals among the searchers.

    Args:
        name: name of the searcher, its option on the command line.
        library: library that it imports and that only the optional extra `search` installs; empty for none.
        backend: backend that Keras must run on; empty for any.

    Raises:
        ValueError: the name is taken.
    """

    def check(agent: AgentSettings | None = None) -> None:
        if library:
            extra(library, f"searcher={name}", EXTRA)
        if backend not in ("", keras.backend.backend()):
            raise SettingsError(
                f"searcher={name} needs Keras on {backend} (KERAS_BACKEND={backend}). Received: Keras on "
                f"{keras.backend.backend()}. Choose another searcher."
            )

    def enter(function: ProposalFunction) -> ProposalFunction:
        def build(problem: Problem, evaluator: BudgetedEvaluator, *, seed: int, **of_agents: object) -> AskTellSearcher:
            check()
            return AskTellSearcher(function(problem, evaluator, seed), evaluator)

        SEARCHERS.add(name)(SearcherKind(check, build))
        return function

    return enter


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, which is fastest for small networks, and makes the history the same on every machine."""
    import torch  # Takes seconds: only when it is needed.

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
