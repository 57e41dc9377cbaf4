"""What commands that search share: a model opened for searches, problems built and searchers run on the terminal."""

import copy
import dataclasses
import functools
import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from autoprune.cost import CostModel
from autoprune.cost.layers import LayerDependence, layer_dependences
from autoprune.cost.multi_target import describe_target, open_targets, resolve_targets
from autoprune.cost.surrogate import Surrogate
from autoprune.data import Dataset
from autoprune.evaluation import Evaluator, Journal
from autoprune.evaluation.accuracy import accuracy, check_fit, check_quality
from autoprune.evaluation.cautions import chance_caution, data_cautions
from autoprune.evaluation.scoring_pool import open_workers
from autoprune.evaluation.staircase import staircase_steps, staircase_widths
from autoprune.models.files import load_model, save_model
from autoprune.models.fingerprint import weights_fingerprint
from autoprune.planning import Planner
from autoprune.planning.calibration import sample_calibration
from autoprune.planning.importance import IMPORTANCES
from autoprune.records import CostReport, Evaluation
from autoprune.reporting.console import BestSoFar, stage, training_stage
from autoprune.reporting.curves import Curves
from autoprune.reporting.pages.saved import flat
from autoprune.reporting.run_folder import RunFolder
from autoprune.reporting.tables import opening_words, shares
from autoprune.reporting.tracking import Trackers
from autoprune.searchers import REWARDS, SEARCHERS, BudgetedEvaluator, Problem, Searcher, Trial, build_problem
from autoprune.searchers.constant_rewards import ConstantRewardGuard
from autoprune.searchers.problem import absolute
from autoprune.searchers.searcher import Log
from autoprune.settings import BudgetSettings, SearchSettings
from autoprune.settings.commands import ScoringSettings
from autoprune.training.base_model import base_model
from autoprune.training.training import check_recipe
from autoprune.workers.ray_worker import check_cluster

logger = logging.getLogger(__name__)

# Images of the reward split that tell beforehand whether the dense model is worth a search.
_GLANCE = 512


@dataclass(frozen=True, eq=False, kw_only=True)
class Session:
    """A model opened for searches: whoever searches in it shares scores and compilations.

    Attributes:
        model: the dense model.
        data: its data.
        planner: makes its plans.
        cost_model: costs them.
        evaluator: scores them, and keeps what it has scored in the run folder.
        surrogate: what has been learnt of costs before any search; each begins with a copy.
        trackers: who are told of its searches.
        cautions: what the data say against any result.
        told: warnings that were given when it was opened, these and what was seen of the dense model at a glance.
    """

    model: Any
    data: Dataset
    planner: Planner
    cost_model: CostModel
    evaluator: Evaluator
    surrogate: Surrogate
    trackers: Trackers
    cautions: tuple[str, ...] = ()
    told: tuple[str, ...] = ()


def validate_choices(settings: SearchSettings) -> None:
    """Refuse at once what would be refused after minutes of training.

    Raises:
        SettingsError: an option of the agent is unknown, a library that searcher, agent or workers need is missing, or
            the cluster that is asked for does not answer.
        TargetError: the target cannot be used here.
        UnknownNameError: a searcher, agent, reward or importance measure does not exist.
    """
    resolve_targets(settings.target)
    REWARDS.get(settings.reward.name)
    IMPORTANCES.get(settings.importance.name)
    SEARCHERS.get(settings.searcher.name).check(settings.agent)
    if settings.workers == "ray":
        check_cluster(settings.ray)


def load_or_train_dense(settings: SearchSettings, data: Dataset, folder: RunFolder, name: str = "base model") -> Any:
    """The model of the run folder; in a new one, the model that the settings ask for, which is trained if need be.

    Args:
        settings: settings of the search.
        data: its data.
        folder: the run folder.
        name: what the training is called.
    """
    if folder.dense.exists():
        return load_model(folder.dense, settings.model)
    curves = Curves(folder.trackers, "training", name)
    with training_stage("base model", settings.training.epochs, curves, data.task.measure) as show:
        model = base_model(settings, data, show)
    check_fit(model, data)
    save_model(model, folder.dense)
    return model


@contextmanager
def open_session(
    model: Any, data: Dataset, settings: SearchSettings, folder: RunFolder, shared: CostModel | None = None
) -> Iterator[Session]:
    """A model opened for searches within the block, with the widths that the settings allow.

    Args:
        model: the dense model.
        data: its data.
        settings: settings that all its searches share.
        folder: where the journal is.
        shared: costs several models; it stays open. None opens one for the settings' targets.

    Raises:
        DataError: the data do not fit the model, or no result with them says anything.
        JournalError: the run folder belongs to another search.
        ModelError: features are to be distilled, and the model has none that can be found; or `training.optimizer` is
            for 3x3 convolutions, and it has none.
        TargetError: the target cannot be used here.
    """
    check_fit(model, data)
    check_recipe(model, data, settings.training)
    # Before anything is compiled.
    cautions = data_cautions(model, data)
    part = data.reward.head(_GLANCE)
    quality = accuracy(model, part, settings.evaluation.batch_size)
    check_quality(quality, data)
    told = (*cautions, *chance_caution(quality, part, data.classes))
    for caution in told:
        logger.warning(caution)
    importance = settings.importance
    sample = sample_calibration(data.train, importance.images, settings.seed)
    planner = Planner(model, importance=importance, constraints=settings.constraints, seed=settings.seed, data=sample)
    costing = nullcontext(shared) if shared else closing(open_targets(settings.target, measured=folder.measured))
    with costing as cost_model:
        # Everything that an evaluation depends on besides the plan. The first cost of a search shows by which route all
        # its models go; it is the dense model's, needed anyway.
        identity = {
            "model": planner.fingerprint,
            "route": cost_model.submit(model).result().provenance.get("route", ""),
            "weights": weights_fingerprint(model),
            "data": data.fingerprint(),
            "target": describe_target(cost_model),
            "importance": importance.name,
            "evaluation": dataclasses.asdict(settings.evaluation),
        }
        if not data.task.classifies:
            identity["task"] = data.task.describe()
        with (
            closing(Journal(folder.journal, identity)) as journal,
            open_workers(model, planner, data, settings) as workers,
        ):
            evaluator = Evaluator(
                model,
                planner,
                data,
                cost_model=cost_model,
                journal=journal,
                settings=settings.evaluation,
                workers=workers,
            )
            layers = layer_dependences(model, planner.parts)
            surrogate = Surrogate(planner.space.sizes, layers)
            if settings.constraints.widths == "staircase":
                _learn_widths(evaluator, layers, surrogate, settings)
            yield Session(
                model=model,
                data=data,
                planner=planner,
                cost_model=cost_model,
                evaluator=evaluator,
                surrogate=surrogate,
                trackers=folder.trackers,
                cautions=tuple(cautions),
                told=told,
            )


def _learn_widths(
    evaluator: Evaluator, layers: Sequence[LayerDependence], surrogate: Surrogate, settings: SearchSettings
) -> None:
    """Restrict the planner to widths that the target makes worth having."""
    planner = evaluator.planner
    steps = staircase_steps(planner.space, planner.parts, layers, settings.constraints.staircase_points)
    memory = settings.budget.memory is not None
    with stage("widths", len(steps), "plans compiled") as shown:
        widths = staircase_widths(
            evaluator, steps, surrogate, memory=memory, observe=lambda done: shown.advance(done, "")
        )
    planner.restrict(widths)
    logger.info("widths worth having: %s", "; ".join(f"{name} {list(found)}" for name, found in widths.items()))


def announce(session: Session, settings: ScoringSettings, budgets: Iterable[BudgetSettings]) -> None:
    """Say what searches start from, what they may spend, and what a score is; not what `pose_problem` will refuse.

    Raises:
        BudgetError: memory is limited on a target that cannot tell it.
    """
    dense = session.evaluator.evaluate(session.evaluator.space.full)
    if not dense.failed and dense.cost is not None:
        limits = [absolute(budget, dense.cost) for budget in budgets]
        score, images = settings.evaluation.score or "likelihood", len(session.data.reward)
        logger.info(opening_words(session.model.name, dense, limits, score, images, session.data.task))


def pose_problem(
    session: Session, settings: SearchSettings, name: str = "budget", *, surrogate: Surrogate | None = None
) -> Problem:
    """Find where uniform pruning meets the budget, and show how far that is, under a name on the terminal.

    Args:
        session: where plans are costed.
        settings: budget and reward.
        name: on the terminal.
        surrogate: learns from the costs that are found; None leaves them alone.

    Raises:
        BudgetError: no uniform plan meets the budget.
        ModelError: the dense model has no score.
    """
    evaluator = session.evaluator
    dense = evaluator.evaluate(evaluator.space.full)
    start, costed, count = time.perf_counter(), itertools.count(1), len(evaluator.space.uniform())

    with stage(name, count, "plans known") as shown:

        def observe(ratio: float, cost: CostReport, left: int) -> None:
            whole = dense.required_cost
            number, limits = next(costed), absolute(settings.budget, whole)
            each = (time.perf_counter() - start) / number
            if number == 1 and left:
                logger.info("%s: at most %d uniform plans are compiled, %.1f s each so far", name, left + 1, each)
            much = f"keeping {ratio:.0%} takes {shares(cost, whole, limits)}"
            shown.advance(count - left, f"{number} compiled, at most {left} more, {each:.1f} s each: {much}")

        return build_problem(evaluator, settings.budget, settings.reward, surrogate=surrogate, observe=observe)


class BuildSearcher(Protocol):
    """Builds a search of a problem, whose evaluator is told of its plans and whose log of what an agent learns."""

    def __call__(self, problem: Problem, evaluator: BudgetedEvaluator, *, log: Log | None = None) -> Searcher:
        """The search."""
        ...


def searcher_builder(settings: SearchSettings) -> BuildSearcher:
    """What builds the searcher that was asked for, with its agent and seed."""
    kind = SEARCHERS.get(settings.searcher.name)
    return functools.partial(kind.build, seed=settings.seed, agent=settings.agent)


def run_searcher(
    name: str,
    build: BuildSearcher,
    problem: Problem,
    session: Session,
    settings: SearchSettings,
    guard: ConstantRewardGuard,
    *,
    surrogate: Surrogate | None = None,
    by_hand: Evaluation | None = None,
) -> tuple[Searcher, BudgetedEvaluator]:
    """Let one searcher use its evaluations, and show how it gets on.

    Args:
        name: under which its evaluations are noted; what stands before an `@` is the searcher's own.
        build: builds the searcher.
        problem: what it searches for.
        session: where its plans are evaluated.
        settings: how many evaluations, projection, screening.
        guard: notices when all plans are paid the same.
        surrogate: predicts costs and learns from them; None is a copy of the session's: what one searcher learns of
            costs, no other is told.
        by_hand: the best plan that rules set by hand have found, which is shown beside it.

    Returns:
        The searcher after its run, and its evaluator with the history.
    """
    limits, evaluator = settings.search, session.evaluator
    hyperparameters = dict(flat(dataclasses.asdict(settings)))
    curves = Curves(session.trackers, "search", name, hyperparameters)
    of_agent = Curves(session.trackers, "agent", name, hyperparameters)

    running = stage(
        name,
        limits.evaluations,
        "evaluations",
        lambda: f"{evaluator.costing} at the compiler" if evaluator.costing else "",
    )
    with curves, of_agent, running as shown:
        best_so_far = BestSoFar(shown, problem.objective, curves, by_hand)
        observe_rewards = guard.watch(name.split("@")[0])

        def observe(trial: Trial) -> None:
            best_so_far(trial.evaluation, trial.number)
            observe_rewards(trial)

        budgeted = BudgetedEvaluator(
            evaluator,
            problem,
            name=name,
            limits=limits,
            surrogate=copy.deepcopy(session.surrogate) if surrogate is None else surrogate,
            observe=observe,
        )
        searcher = build(problem, budgeted, log=of_agent.add)
        searcher.run()
    return searcher, budgeted
