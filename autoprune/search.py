"""`python -m autoprune.search`: from a model and a budget to a smaller model, with the evidence.

`autoprune.search(model, data, ...)` does the same from Python.
"""

import dataclasses
import logging
import sys
import time
import types
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from autoprune import cli
from autoprune.cost import CostModel, open_cost_model
from autoprune.cost.layers import layer_dependences
from autoprune.cost.model import resolve_target
from autoprune.data import Dataset, load_data
from autoprune.errors import BudgetError, SettingsError
from autoprune.evaluation import Evaluator, Journal
from autoprune.evaluation.accuracy import check_fit
from autoprune.evaluation.staircase import staircase_steps, staircase_widths
from autoprune.models.files import load_model, save_model
from autoprune.models.fingerprint import weights_fingerprint
from autoprune.planning import Planner
from autoprune.planning.calibration import drawn
from autoprune.planning.importance import IMPORTANCES
from autoprune.planning.plan_file import save_plan
from autoprune.records import CostReport, Evaluation, Plan, Target
from autoprune.reporting.console import CONSOLE, BestSoFar, stage, training_stage
from autoprune.reporting.outcome import Outcome, cautions, result_rows, write_outcome
from autoprune.reporting.run_folder import RunFolder
from autoprune.reporting.tables import result_table, shares
from autoprune.searchers import REWARDS, SEARCHERS, Problem, Scorer, Searcher, Steering
from autoprune.searchers.policy import Policy, save_policy
from autoprune.searchers.posing import absolute, pose
from autoprune.searchers.uniform import distinct_ratios
from autoprune.settings import BudgetSettings, SearchSettings, from_config
from autoprune.training.base_model import base_model
from autoprune.training.finishing import Finished, Finisher, finish_all
from envs.making import env_maker, learnt_policy

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search gives.

    Attributes:
        model: the pruned and fine-tuned model: the very object that was given, smaller. It is not compiled: call
            `model.compile` to train or evaluate it.
        plan: the plan that was applied.
        policy: what the agent learnt; None for searchers that learn nothing.
        history: every searcher's evaluations in order.
        kept: the finished plan that the model holds, the best on the reward split.
        finished: the dense model, the best uniform plan and the searched plan, each as finished.
        report: the HTML report.
    """

    model: Any
    plan: Plan
    policy: Policy | None
    history: Mapping[str, list[Evaluation]] = field(repr=False)
    kept: Finished
    finished: tuple[Finished, ...]
    report: Path


def run(settings: SearchSettings, folder: RunFolder) -> SearchResult:
    """The whole command: data and base model, then `search_model`."""
    check_names(settings)
    data = load_data(settings.data)
    if folder.dense.exists():
        model = load_model(folder.dense)
    else:
        with training_stage("base model", settings.training.epochs) as show:
            model = base_model(settings, data, show)
        check_fit(model, data)
        save_model(model, folder.dense)
    return search_model(model, data, settings, folder)


def search_model(model: Any, data: Dataset, settings: SearchSettings, folder: RunFolder) -> SearchResult:
    """Search for a plan, apply it in place, fine-tune, and write the run folder.

    Raises:
        AutopruneError: model, data, target or budget cannot be used; the message says which and why.
    """
    start = time.perf_counter()
    check_names(settings)
    check_fit(model, data)
    importance = settings.importance
    sample = drawn(data.train.images, data.train.labels, importance.images, settings.seed)
    planner = Planner(model, importance=importance, constraints=settings.constraints, seed=settings.seed, data=sample)
    open_costs = open_cost_model(
        _target(settings),
        cache=settings.target.cache,
        measured=folder.measured,
        route=settings.target.route,
        processes=settings.target.processes,
    )
    with closing(open_costs) as cost_model:
        identity = _identity(model, data, planner, settings, cost_model)
        with closing(Journal(folder.journal, identity)) as journal:
            evaluator = Evaluator(
                model, planner, data, cost_model=cost_model, journal=journal, settings=settings.evaluation
            )
            if settings.constraints.widths == "staircase":
                _learn_widths(evaluator, settings)
            problem = _pose(evaluator, settings)
            searcher, name = _searcher(settings, model, planner, cost_model, folder)
            courses = {}
            for label, propose in {"uniform": SEARCHERS.get("uniform"), name: searcher}.items():
                courses[label] = _run_searcher(label, propose, problem, evaluator, settings)
        policy = learnt_policy(getattr(searcher, "actor", None), settings, model.name, cost_model.target)
        if policy is not None:
            save_policy(policy, folder.policy)
        finisher = Finisher(model, planner, data, cost_model=cost_model, settings=settings)
        epochs = max(settings.training.after_pruning, 1)
        finished, kept = finish_all(
            finisher, problem.dense, _best(courses, problem), lambda name: training_stage(f"{name}: tune", epochs)
        )
    for caution in cautions(finished, kept, data):
        logger.warning(caution)
    save_model(model, folder.pruned)
    save_plan(kept.plan, folder.plan)
    outcome = Outcome(
        settings,
        cost_model.target,
        problem,
        planner.all_groups,
        courses,
        finished,
        kept,
        time.perf_counter() - start,
        evaluator.surrogate.error,
    )
    write_outcome(outcome, folder)
    return SearchResult(model, kept.plan, policy, courses, kept, finished, folder.report)


def check_names(settings: SearchSettings) -> None:
    """Refuse at once what would be refused after minutes of training.

    Raises:
        SettingsError: an option of the agent is unknown.
        TargetError: the target cannot be used here.
        UnknownNameError: a searcher, agent, reward or importance measure does not exist.
    """
    resolve_target(_target(settings))
    REWARDS.get(settings.reward.name)
    IMPORTANCES.get(settings.importance.name)
    if settings.searcher.name != "rl":
        SEARCHERS.get(settings.searcher.name)
    else:
        _rl().check_agent(settings.agent)


def _target(settings: SearchSettings) -> Target:
    return Target(settings.target.name, settings.target.batch_size, settings.target.dtype)


def _rl() -> types.ModuleType:
    """Torch and SB3 take seconds to import: only when they are needed."""
    from autoprune.searchers import rl

    return rl


def _learn_widths(evaluator: Evaluator, settings: SearchSettings) -> None:
    """Restrict the planner to widths that the target makes worth having."""
    planner = evaluator.planner
    layers = layer_dependences(evaluator.model, planner.groups)
    steps = staircase_steps(planner.legal, layers, settings.constraints.staircase_points)
    memory = settings.budget.memory is not None
    with stage("widths", len(steps)) as shown:
        widths = staircase_widths(evaluator, steps, memory=memory, observe=lambda done: shown.advance(done, ""))
    planner.restrict(widths)
    logger.info("widths worth having: %s", "; ".join(f"{name} {list(found)}" for name, found in widths.items()))


def _pose(evaluator: Evaluator, settings: SearchSettings) -> Problem:
    """Find where uniform pruning meets the budget, and show how far that is."""
    planner = evaluator.planner
    dense = evaluator.evaluate(1.0)

    with stage("budget", len(distinct_ratios(planner.legal))) as shown:

        def observe(number: int, ratio: float, cost: CostReport) -> None:
            limits = absolute(settings.budget, dense.cost)
            shown.advance(number, f"keeping {ratio:.0%} of every layer takes {shares(cost, dense.cost, limits)}")

        return pose(evaluator, settings.budget, settings.reward, observe=observe)


def _searcher(
    settings: SearchSettings, model: Any, planner: Planner, cost_model: CostModel, folder: RunFolder
) -> tuple[Searcher, str]:
    """The searcher that was asked for, and its name."""
    name = settings.searcher.name
    if name != "rl":
        return SEARCHERS.get(name), name
    make_env = env_maker(model, planner, cost_model.target)
    return _rl().RlSearcher(make_env, settings.agent, folder.tensorboard), name


def _run_searcher(
    name: str, searcher: Searcher, problem: Problem, evaluator: Evaluator, settings: SearchSettings
) -> list[Evaluation]:
    """Let one searcher use its evaluations, and show how it gets on."""
    evaluations = settings.search.evaluations
    with stage(name, evaluations) as shown:
        limits = settings.search
        steering = Steering(evaluator.surrogate, problem, project=limits.project, screen=limits.screen)
        scorer = Scorer(evaluator, name, evaluations, BestSoFar(shown, problem.budget, problem.dense), steering)
        searcher(problem, scorer, settings.seed)
    return scorer.course


def _best(courses: Mapping[str, list[Evaluation]], problem: Problem) -> dict[str, Evaluation]:
    """Each searcher's best plan within the budget; one that found none is left out, with a warning."""
    best = {}
    for name, course in courses.items():
        found = problem.objective.best(course)
        if found is None:
            logger.warning("%s found no plan within the budget in %d evaluations", name, len(course))
        else:
            best[name] = found
    if not best:
        raise BudgetError(
            "No searcher scored a plan within the budget, though uniform ones exist: their evaluations failed. "
            "The log says why."
        )
    return best


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
        "target": dataclasses.asdict(cost_model.target),
        "importance": settings.importance.name,
        "evaluation": dataclasses.asdict(settings.evaluation),
    }


def search(
    model: Any,
    data: Dataset,
    *,
    target: str | Target | None = None,
    latency: float | None = None,
    memory: float | None = None,
    evaluations: int | None = None,
    folder: str | Path = "outputs/search/api",
    settings: SearchSettings | None = None,
) -> SearchResult:
    """Prune a model in place to a budget, by search.

    Args:
        model: a built Functional or Sequential classifier. It is changed.
        data: a `Dataset`, from `autoprune.data.load_data` or made of arrays with `autoprune.data.from_arrays`.
        target: a name as for `measure_cost`, or a `Target` with batch size and dtype.
        latency: limit as a share of the dense latency; a limit that is given replaces both of the settings.
        memory: limit as a share of the dense model's device memory.
        evaluations: plans that each searcher may score.
        folder: run folder; the same folder, model, data and settings continue an interrupted search.
        settings: everything that is not given; by default batch 128 in bfloat16, 60 % of the latency, 60 evaluations.

    Raises:
        AutopruneError: model, data, target or budget cannot be used; the message says which and why.
    """
    settings = settings or SearchSettings()
    if isinstance(target, Target):
        settings = replace(settings, target=replace(settings.target, **dataclasses.asdict(target)))
    elif target is not None:
        settings = replace(settings, target=replace(settings.target, name=target))
    if latency is not None or memory is not None:
        settings = replace(settings, budget=BudgetSettings(latency, memory))
    if evaluations is not None:
        settings = replace(settings, search=replace(settings.search, evaluations=evaluations))
    return search_model(model, data, settings, RunFolder.make(folder))


@hydra.main(version_base="1.3", config_path="pkg://conf", config_name="search")
def main(config: DictConfig) -> None:
    """The command."""
    cli.guarded(lambda: _command(config))


def _command(config: DictConfig) -> None:
    settings = from_config(config, SearchSettings)
    folder = RunFolder.make(cli.run_folder())
    if settings.resume is not None:
        if cli.overrides() != [f"resume={settings.resume}"]:
            raise SettingsError("A resumed search takes all its settings from its folder: give resume=FOLDER alone.")
        settings = folder.load_settings()
        if folder.metrics.exists():
            CONSOLE.print(f"This search has ended: its report is {folder.report}", soft_wrap=True, highlight=False)
            return
    else:
        folder.save_settings(settings)
    try:
        result = run(settings, folder)
    except KeyboardInterrupt:
        CONSOLE.print(
            f"\nInterrupted. Every evaluation so far is in {folder.path}. Go on with:\n"
            f"  python -m autoprune.search resume={folder.path}",
            soft_wrap=True,
            highlight=False,
        )
        raise
    CONSOLE.print(result_table(result_rows(result.finished)))
    kept = "the uniform plan" if result.kept.name == "uniform" else f"the plan of {result.kept.name}"
    CONSOLE.print(f"Model: {folder.pruned} ({kept})\nReport: {folder.report}", soft_wrap=True, highlight=False)


class _CallableModule(types.ModuleType):
    """`autoprune.search` is this module and, as the public interface has it, a function."""

    def __call__(self, *args: Any, **kwargs: Any) -> SearchResult:
        return search(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    cli.run_command("search")
