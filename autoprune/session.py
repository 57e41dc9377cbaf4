"""What commands that search share: a model opened for scoring, problems posed and searchers run on the terminal."""

import dataclasses
import itertools
import logging
import time
import types
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.cost import CostModel
from autoprune.cost.layers import layer_dependences
from autoprune.cost.multi_target import describe_target, open_targets, resolve_targets
from autoprune.data import Dataset
from autoprune.envs.making import EnvMaker
from autoprune.errors import UnknownNameError
from autoprune.evaluation import Evaluator, Journal
from autoprune.evaluation.accuracy import accuracy, check_fit
from autoprune.evaluation.cautions import chance_caution, data_cautions
from autoprune.evaluation.staircase import staircase_steps, staircase_widths
from autoprune.models.feature_distilling import check_features
from autoprune.models.files import load_model, save_model
from autoprune.models.fingerprint import weights_fingerprint
from autoprune.planning import Planner
from autoprune.planning.calibration import drawn
from autoprune.planning.importance import IMPORTANCES
from autoprune.records import CostReport, Evaluation
from autoprune.registry import suggestion
from autoprune.reporting.console import BestSoFar, stage, training_stage
from autoprune.reporting.curves import Curves
from autoprune.reporting.run_folder import RunFolder
from autoprune.reporting.tables import opening_words, shares
from autoprune.searchers import REWARDS, SEARCHERS, EvaluationsSpent, Problem, Scorer, Searcher, Steering
from autoprune.searchers.extras import checked_searcher
from autoprune.searchers.posing import absolute, pose
from autoprune.searchers.signal_watch import SignalWatch
from autoprune.searchers.uniform import distinct_ratios
from autoprune.settings import BudgetSettings, SearchSettings
from autoprune.settings.commands import ScoringSettings
from autoprune.training.base_model import base_model

logger = logging.getLogger(__name__)

# Images of the reward split that tell beforehand whether the dense model is worth a search.
_GLANCE = 512


@dataclass(frozen=True, eq=False)
class Session:
    """A model opened for searches: whoever searches in it shares scores and compilations.

    Attributes:
        model: the dense model.
        data: its data.
        planner: makes its plans.
        cost_model: costs them.
        evaluator: scores them, and keeps what it has scored in the run folder.
        tensorboard: where the curves of searches go.
        cautions: what the data say against any result.
        told: warnings that were given when it was opened, these and what was seen of the dense model at a glance.
    """

    model: Any
    data: Dataset
    planner: Planner
    cost_model: CostModel
    evaluator: Evaluator
    tensorboard: Path
    cautions: tuple[str, ...] = ()
    told: tuple[str, ...] = ()


def check_names(settings: SearchSettings) -> None:
    """Refuse at once what would be refused after minutes of training.

    Raises:
        SettingsError: an option of the agent is unknown, or a library that searcher or agent needs is missing.
        TargetError: the target cannot be used here.
        UnknownNameError: a searcher, agent, reward or importance measure does not exist.
    """
    resolve_targets(settings.target)
    REWARDS.get(settings.reward.name)
    IMPORTANCES.get(settings.importance.name)
    name, known = settings.searcher.name, [*SEARCHERS, "rl"]
    if name not in known:
        raise UnknownNameError(f"There is no searcher '{name}'. {suggestion(name, known)}")
    if name != "rl":
        checked_searcher(name)
    else:
        _rl().check_agent(settings.agent)


def _rl() -> types.ModuleType:
    """Torch and SB3 take seconds to import: only when they are needed."""
    from autoprune.searchers import rl

    return rl


def dense_model(settings: SearchSettings, data: Dataset, folder: RunFolder) -> Any:
    """The model of the run folder; in a new one, the model that the settings ask for, which is trained if need be."""
    if folder.dense.exists():
        return load_model(folder.dense, settings.model)
    curves = Curves(folder.tensorboard, "training", "base model")
    with training_stage("base model", settings.training.epochs, curves) as show:
        model = base_model(settings, data, show)
    check_fit(model, data)
    save_model(model, folder.dense)
    return model


@contextmanager
def opened(
    model: Any, data: Dataset, settings: SearchSettings, folder: RunFolder, shared: CostModel | None = None
) -> Iterator[Session]:
    """A model opened for searches within the block, with the widths that the settings allow.

    Args:
        model: the dense model.
        data: its data.
        settings: of the searches.
        folder: where the journal is.
        shared: costs several models; it stays open. None opens one for the settings' targets.

    Raises:
        DataError: the data do not fit the model, or no result with them says anything.
        JournalError: the run folder belongs to another search.
        ModelError: features are to be distilled, and the model has none that can be found.
        TargetError: the target cannot be used here.
    """
    check_fit(model, data)
    if settings.training.feature_distillation > 0:
        check_features(model)
    # Before anything is compiled.
    cautions = data_cautions(model, data)
    part = data.reward.head(_GLANCE)
    right = accuracy(model, part, settings.evaluation.batch_size)
    told = (*cautions, *chance_caution(right, part, data.classes))
    for caution in told:
        logger.warning(caution)
    importance = settings.importance
    sample = drawn(data.train.images, data.train.labels, importance.images, settings.seed)
    planner = Planner(model, importance=importance, constraints=settings.constraints, seed=settings.seed, data=sample)
    costing = nullcontext(shared) if shared else closing(open_targets(settings.target, measured=folder.measured))
    with costing as cost_model:
        identity = _identity(model, data, planner, settings, cost_model)
        with closing(Journal(folder.journal, identity)) as journal:
            evaluator = Evaluator(
                model, planner, data, cost_model=cost_model, journal=journal, settings=settings.evaluation
            )
            if settings.constraints.widths == "staircase":
                _learn_widths(evaluator, settings)
            curves = folder.tensorboard
            yield Session(model, data, planner, cost_model, evaluator, curves, tuple(cautions), told)


def _identity(
    model: Any, data: Dataset, planner: Planner, settings: SearchSettings, cost_model: CostModel
) -> dict[str, Any]:
    """Everything that an evaluation depends on besides the plan."""
    # The first cost of a search shows by which route all its models go; it is the dense model's, needed anyway.
    route = cost_model.submit(model).result().provenance.get("route", "")
    return {
        "model": planner.fingerprint,
        "route": route,
        "weights": weights_fingerprint(model),
        "data": data.fingerprint(),
        "target": describe_target(cost_model),
        "importance": settings.importance.name,
        "evaluation": dataclasses.asdict(settings.evaluation),
    }


def _learn_widths(evaluator: Evaluator, settings: SearchSettings) -> None:
    """Restrict the planner to widths that the target makes worth having."""
    planner = evaluator.planner
    layers = layer_dependences(evaluator.model, planner.groups)
    steps = staircase_steps(planner.legal, layers, settings.constraints.staircase_points)
    memory = settings.budget.memory is not None
    with stage("widths", len(steps), "plans compiled") as shown:
        widths = staircase_widths(evaluator, steps, memory=memory, observe=lambda done: shown.advance(done, ""))
    planner.restrict(widths)
    logger.info("widths worth having: %s", "; ".join(f"{name} {list(found)}" for name, found in widths.items()))


def announce(session: Session, settings: ScoringSettings, budgets: Iterable[BudgetSettings]) -> None:
    """Say what searches start from, what they may spend, and what a score is; not where `posed` will refuse it all.

    Raises:
        BudgetError: memory is limited on a target that cannot tell it.
    """
    dense = session.evaluator.evaluate(1.0)
    if not dense.failed and dense.cost is not None:
        limits = [absolute(budget, dense.cost) for budget in budgets]
        score, images = settings.evaluation.score or "likelihood", len(session.data.reward)
        logger.info(opening_words(session.model.name, dense, limits, score, images))


def posed(session: Session, settings: SearchSettings, name: str = "budget") -> Problem:
    """Find where uniform pruning meets the budget, and show how far that is, under a name on the terminal.

    Raises:
        BudgetError: no uniform plan meets the budget.
        ModelError: the dense model has no score.
    """
    evaluator = session.evaluator
    dense = evaluator.evaluate(1.0)
    start, costed, count = time.perf_counter(), itertools.count(1), len(distinct_ratios(session.planner.legal))

    with stage(name, count, "plans known") as shown:

        def observe(ratio: float, cost: CostReport, left: int) -> None:
            number, limits = next(costed), absolute(settings.budget, dense.cost)
            each = (time.perf_counter() - start) / number
            if number == 1 and left:
                logger.info("%s: at most %d uniform plans are compiled, %.1f s each so far", name, left + 1, each)
            much = f"keeping {ratio:.0%} takes {shares(cost, dense.cost, limits)}"
            shown.advance(count - left, f"{number} compiled, at most {left} more, {each:.1f} s each: {much}")

        return pose(evaluator, settings.budget, settings.reward, observe=observe)


def made_searcher(session: Session, settings: SearchSettings, log_folder: Path | None = None) -> Searcher:
    """The searcher that was asked for.

    Args:
        session: what it searches in.
        settings: which searcher, and which agent.
        log_folder: where an agent's TensorBoard files go, or None.
    """
    if settings.searcher.name != "rl":
        return SEARCHERS.get(settings.searcher.name)
    make_env = EnvMaker(session.model, session.planner, session.cost_model.target)
    return _rl().RlSearcher(make_env, settings.agent, log_folder)


def run_searcher(
    name: str,
    searcher: Searcher,
    problem: Problem,
    session: Session,
    settings: SearchSettings,
    watch: SignalWatch,
    make_scorer: type[Scorer] = Scorer,
) -> Scorer:
    """Let one searcher use its evaluations, and show how it gets on.

    Args:
        name: under which its evaluations are noted; what stands before an `@` is the searcher's own.
        searcher: proposes plans.
        problem: what it searches for.
        session: where its plans are scored.
        settings: how many evaluations, steering, seed.
        watch: notices when all plans are paid the same.
        make_scorer: what counts its evaluations.

    Returns:
        The scorer, with the searcher's course.
    """
    limits, evaluator = settings.search, session.evaluator
    curves = Curves(session.tensorboard, "search", name)
    with curves, stage(name, limits.evaluations, "evaluations") as shown:
        steering = Steering(evaluator.surrogate, problem, project=limits.project, screen=limits.screen)
        best_so_far, dead_signal = BestSoFar(shown, problem.objective, curves), watch.of(name.split("@")[0])

        def observe(evaluation: Evaluation, number: int) -> None:
            best_so_far(evaluation, number)
            dead_signal(evaluation, number)

        scorer = make_scorer(evaluator, name, limits.evaluations, observe, steering)
        with suppress(EvaluationsSpent):  # One that asks until it is told to stop has done what it could.
            searcher(problem, scorer, settings.seed)
    return scorer
