"""`python -m autoprune.search`: from a model and a budget to a smaller model, with the evidence.

`autoprune.search(model, data, ...)` does the same from Python.
"""

import dataclasses
import logging
import math
import sys
import time
import types
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from autoprune import cli
from autoprune.cost import CostModel, open_cost_model
from autoprune.data import Dataset, load_data
from autoprune.errors import SettingsError
from autoprune.evaluation import Evaluator, Journal
from autoprune.evaluation.accuracy import check_fit
from autoprune.models.files import load_model, save_model
from autoprune.models.fingerprint import weights_fingerprint
from autoprune.planning import Planner
from autoprune.planning.plan_file import save_plan
from autoprune.records import CostReport, Evaluation, Plan, Target
from autoprune.reporting.console import CONSOLE, BestSoFar, stage
from autoprune.reporting.outcome import Outcome, result_rows, write_outcome
from autoprune.reporting.run_folder import RunFolder
from autoprune.reporting.tables import result_table
from autoprune.searchers import SEARCHERS, Problem, Scorer, Searcher, best_within
from autoprune.searchers.policy import Policy, save_policy
from autoprune.searchers.posing import pose
from autoprune.searchers.uniform import distinct_ratios
from autoprune.settings import BudgetSettings, LimitsSettings, SearchSettings, TargetSettings, from_config
from autoprune.training.base_model import base_model
from autoprune.training.finishing import Finished, Finisher
from envs.making import as_policy, env_maker

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search gives.

    Attributes:
        model: the pruned and fine-tuned model: the very object that was given, smaller.
        plan: the plan that was applied.
        policy: what the agent learnt; None for searchers that learn nothing.
        history: every searcher's evaluations in order.
        finished: the dense model, the best uniform plan and the searched plan, each as finished.
        report: the HTML report.
    """

    model: Any
    plan: Plan
    policy: Policy | None
    history: Mapping[str, list[Evaluation]]
    finished: tuple[Finished, ...]
    report: Path


def run(settings: SearchSettings, folder: RunFolder) -> SearchResult:
    """The whole command: data and base model, then `search_model`."""
    data = load_data(settings.data)
    if folder.dense.exists():
        model = load_model(folder.dense)
    else:
        with stage("base model", settings.training.epochs) as shown:
            model = base_model(settings, data, lambda epochs, logs: shown.advance(epochs, _training_note(logs)))
        check_fit(model, data)
        save_model(model, folder.dense)
    return search_model(model, data, settings, folder)


def search_model(model: Any, data: Dataset, settings: SearchSettings, folder: RunFolder) -> SearchResult:
    """Search for a plan, apply it in place, fine-tune, and write the run folder.

    Raises:
        AutopruneError: model, data, target or budget cannot be used; the message says which and why.
    """
    start = time.perf_counter()
    check_fit(model, data)
    planner = Planner(model, importance=settings.importance.name, constraints=settings.constraints, seed=settings.seed)
    target = settings.target
    wanted = Target(target.name, target.batch_size, target.dtype)
    with closing(open_cost_model(wanted, cache=target.cache)) as cost_model:
        identity = _identity(model, data, planner, settings, cost_model)
        with closing(Journal(folder.journal, identity)) as journal:
            evaluator = Evaluator(
                model, planner, data, cost_model=cost_model, journal=journal, settings=settings.evaluation
            )
            problem = _pose(evaluator, settings)
            searcher, name = _searcher(settings, model, planner, cost_model, folder)
            courses = {}
            for label, propose in {"uniform": SEARCHERS.get("uniform"), name: searcher}.items():
                courses[label] = _run_searcher(label, propose, problem, evaluator, settings)
        finished, kept = _finish(model, data, planner, cost_model, settings, problem, courses)
    policy = _policy(searcher, settings, model, cost_model.target)
    save_model(model, folder.pruned)
    save_plan(kept.plan, folder.plan)
    if policy is not None:
        save_policy(policy, folder.policy)
    outcome = Outcome(
        settings,
        cost_model.target,
        problem,
        planner.all_groups,
        courses,
        finished,
        kept,
        time.perf_counter() - start,
    )
    write_outcome(outcome, folder)
    return SearchResult(model, kept.plan, policy, courses, finished, folder.report)


def _pose(evaluator: Evaluator, settings: SearchSettings) -> Problem:
    """Find where uniform pruning meets the budget, and show how far that is."""
    planner = evaluator.planner
    dense = evaluator.evaluate(1.0)

    def note(ratio: float, cost: CostReport) -> str:
        return f"keeping {ratio:.0%} of every layer takes {cost.latency / dense.cost.latency:.0%} of the latency"

    with stage("budget", len(distinct_ratios(planner.groups, planner.constraints))) as shown:
        return pose(evaluator, settings.budget, lambda number, ratio, cost: shown.advance(number, note(ratio, cost)))


def _searcher(
    settings: SearchSettings, model: Any, planner: Planner, cost_model: CostModel, folder: RunFolder
) -> tuple[Searcher, str]:
    """The searcher that was asked for, and its name."""
    name = settings.searcher.name
    if name != "rl":
        return SEARCHERS.get(name), name
    # Torch and SB3 take seconds to import: only when they are needed.
    from autoprune.searchers.rl import RlSearcher

    make_env = env_maker(model, planner, settings.reward, cost_model.target)
    return RlSearcher(make_env, settings.agent, folder.tensorboard), name


def _run_searcher(
    name: str, searcher: Searcher, problem: Problem, evaluator: Evaluator, settings: SearchSettings
) -> list[Evaluation]:
    """Let one searcher use its evaluations, and show how it gets on."""
    evaluations = settings.search.evaluations
    with stage(name, evaluations) as shown:
        scorer = Scorer(evaluator, name, evaluations, BestSoFar(shown, problem.budget, problem.dense))
        searcher(problem, scorer, settings.seed)
    return scorer.course


def _finish(
    model: Any,
    data: Dataset,
    planner: Planner,
    cost_model: CostModel,
    settings: SearchSettings,
    problem: Problem,
    courses: Mapping[str, list[Evaluation]],
) -> tuple[tuple[Finished, ...], Finished]:
    """Finish the dense model and each searcher's best plan; the model ends as the best of these.

    The best is the one most accurate on the reward split after fine-tuning; of equal ones, the last searcher's.
    """
    finisher = Finisher(model, planner, data, cost_model=cost_model, settings=settings)
    finished = [finisher.finish("dense", problem.dense)]
    for name, course in courses.items():
        best = best_within(course, problem.budget)
        if best is None:
            logger.warning("%s found no plan within the budget in %d evaluations", name, len(course))
            continue
        with stage(f"{name}: tune", max(settings.training.after_pruning, 1)) as shown:
            done = finisher.finish(name, best, lambda epochs, logs, s=shown: s.advance(epochs, _training_note(logs)))
        finished.append(done)
    kept = max(reversed(finished[1:]), key=lambda done: done.reward_accuracy)
    if kept is not finished[-1]:
        finisher.bring_back(kept)
    return tuple(finished), kept


def _policy(searcher: Searcher, settings: SearchSettings, model: Any, target: Target) -> Policy | None:
    """What an agent learnt, ready to be stored."""
    actor = getattr(searcher, "actor", None)
    if actor is None:
        return None
    record = {
        "agent": settings.agent.name,
        "evaluations": settings.search.evaluations,
        "seed": settings.seed,
        "model": model.name,
        "data": settings.data.name,
        "target": dataclasses.asdict(target),
        "budget": dataclasses.asdict(settings.budget),
        "constraints": dataclasses.asdict(settings.constraints),
    }
    return as_policy(actor, record)


def _identity(
    model: Any, data: Dataset, planner: Planner, settings: SearchSettings, cost_model: CostModel
) -> dict[str, Any]:
    """Everything that an evaluation depends on besides the plan."""
    return {
        "model": planner.fingerprint,
        "weights": weights_fingerprint(model),
        "data": data.fingerprint(),
        "target": dataclasses.asdict(cost_model.target),
        "importance": settings.importance.name,
        "evaluation": dataclasses.asdict(settings.evaluation),
    }


def _training_note(logs: Mapping[str, float]) -> str:
    accuracy = f", accuracy {logs['val_accuracy']:.3f}" if "val_accuracy" in logs else ""
    return f"loss {logs.get('loss', math.nan):.3f}{accuracy}"


def search(
    model: Any,
    data: Dataset,
    *,
    target: str | Target = "auto",
    latency: float | None = None,
    memory: float | None = None,
    evaluations: int = 60,
    folder: str | Path = "outputs/search/api",
    settings: SearchSettings | None = None,
) -> SearchResult:
    """Prune a model in place to a budget, by search.

    Args:
        model: a built Functional or Sequential classifier. It is changed.
        data: a `Dataset`, from `autoprune.data.load_data` or made of arrays with `autoprune.data.from_arrays`.
        target: a name as for `measure_cost`, at batch 128 in bfloat16, or a `Target`.
        latency: limit as a share of the dense latency; when neither limit is given, 0.6.
        memory: limit as a share of the dense model's device memory.
        evaluations: plans that each searcher may score.
        folder: run folder; the same folder, model, data and settings continue an interrupted search.
        settings: everything else; the arguments above override it.

    Raises:
        AutopruneError: model, data, target or budget cannot be used; the message says which and why.
    """
    if latency is None and memory is None:
        latency = 0.6
    wanted = Target(target) if isinstance(target, str) else target
    settings = replace(
        settings or SearchSettings(),
        target=TargetSettings(wanted.name, wanted.batch_size, wanted.dtype),
        budget=BudgetSettings(latency, memory),
        search=LimitsSettings(evaluations),
    )
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
    CONSOLE.print(f"Model: {folder.pruned}\nReport: {folder.report}", soft_wrap=True, highlight=False)


class _CallableModule(types.ModuleType):
    """`autoprune.search` is this module and, as the public interface has it, a function."""

    def __call__(self, *args: Any, **kwargs: Any) -> SearchResult:
        return search(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    cli.run_command("search", main)
