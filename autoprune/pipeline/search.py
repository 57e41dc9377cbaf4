"""A search from a model and a budget to a smaller model, with the evidence, and from Python: `autoprune.prune`."""

import dataclasses
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoprune.data import Dataset, load_data
from autoprune.errors import BudgetError, DataError
from autoprune.models.files import save_model
from autoprune.models.fingerprint import architecture_fingerprint, weights_fingerprint
from autoprune.models.keras_internals import check_model
from autoprune.pipeline.result import SearchResult
from autoprune.pipeline.runs import open_run_from_python
from autoprune.pipeline.session import (
    BuildSearcher,
    Session,
    announce,
    load_or_train_dense,
    open_session,
    pose_problem,
    run_searcher,
    searcher_builder,
    validate_choices,
)
from autoprune.pipeline.tracking import track
from autoprune.planning.plan_file import save_plan
from autoprune.records import Evaluation, Target
from autoprune.records.plain import write_json
from autoprune.reporting.console import CONSOLE, training_stage, visible_logging
from autoprune.reporting.curves import Curves
from autoprune.reporting.depth import describe_dropped
from autoprune.reporting.network import describe_network
from autoprune.reporting.outcome import Outcome, cautions, result_rows, write_outcome
from autoprune.reporting.run_folder import RunFolder
from autoprune.reporting.tables import result_table
from autoprune.searchers import BudgetedEvaluator, History, Problem, Searcher
from autoprune.searchers.choice import find_finalists
from autoprune.searchers.constant_rewards import ConstantRewardGuard
from autoprune.searchers.hand_set import DEPTH_RULE, WIDTH_RULE, is_hand_set
from autoprune.searchers.infeasible import nothing_found
from autoprune.searchers.policy import save_policy, training_record
from autoprune.settings import BudgetSettings, SearcherSettings, SearchSettings
from autoprune.training.choosing import finish_all
from autoprune.training.finishing import Finisher

logger = logging.getLogger(__name__)


def run(settings: SearchSettings, folder: RunFolder) -> SearchResult:
    """The whole of `python -m autoprune.search`: data and base model, then `search_model`.

    Raises:
        AutopruneError: model, data, target or budget cannot be used; the message says which and why.
    """
    validate_choices(settings)
    data = load_data(settings.data, settings.model, settings.task)
    return search_model(load_or_train_dense(settings, data, folder), data, settings, folder)


def show(result: SearchResult, folder: RunFolder) -> None:
    """Print the table, and where the model and the report are."""
    CONSOLE.print(result_table(result_rows(result.finished, result.branches, result.measure)))
    dense, *others = result.finished
    for done in others:
        if without := describe_dropped(done, dense, result.branches):
            CONSOLE.print(f"{done.name} is {without}.", highlight=False)
    kept = f"the {result.kept.name} plan" if is_hand_set(result.kept.name) else f"the plan of {result.kept.name}"
    same = [done.name for done in result.finished[1:] if done.evaluation.key == result.kept.evaluation.key]
    if any(map(is_hand_set, same)) and not all(map(is_hand_set, same)):
        kept = f"the searched plan is one that is set by hand, found by {' and '.join(same)}"
    CONSOLE.print(f"Model: {folder.pruned} ({kept})\nReport: {folder.report}", soft_wrap=True, highlight=False)


def search_model(model: Any, data: Dataset, settings: SearchSettings, folder: RunFolder) -> SearchResult:
    """Search for a plan, apply it in place, fine-tune, and write the run folder.

    Raises:
        AutopruneError: model, data, target or budget cannot be used; the message says which and why.
    """
    validate_choices(settings)
    builders = {settings.searcher.name: searcher_builder(settings)}
    return run_search(model, data, settings, folder, builders)


def run_search(
    model: Any,
    data: Dataset,
    settings: SearchSettings,
    folder: RunFolder,
    builders: Mapping[str, BuildSearcher],
) -> SearchResult:
    """Let searchers search by the same problem with the same number of evaluations, and finish what each has found.

    The rules that are set by hand come first: of widths, unless these alone cannot meet the budget, and where branches
    may go, of depth and width.

    Args:
        model: the dense model; it becomes the best of what is found.
        data: its data.
        settings: of the search; `settings.searcher.name` is the searcher that the report is about.
        folder: the run folder.
        builders: what builds the searchers beside them, by name, in their order.

    Raises:
        AutopruneError: model, data, target or budget cannot be used, or no plan may be a result.
    """
    start = time.perf_counter()
    with open_session(model, data, settings, folder) as session:
        announce(session, settings, [settings.budget])
        problem = pose_problem(session, settings, surrogate=session.surrogate)
        write_json(folder.network, describe_network(model, session.planner))
        searcher, evaluator, histories, finalists = _search(session, problem, settings, builders)
        policy = None
        if searcher.policy is not None:
            record = training_record(settings, [model.name], session.cost_model.target)
            policy = replace(searcher.policy, record=record)
        finisher = Finisher(model, session.planner, data, cost_model=session.cost_model, settings=settings)
        epochs = max(settings.search.count_epochs(settings.training.after_pruning), 1)
        finished, kept = finish_all(
            finisher,
            problem.objective,
            finalists,
            lambda name: training_stage(
                f"{name}: tune", epochs, Curves(folder.trackers, "training", name), data.task.measure
            ),
        )
    known = (*session.cautions, problem.shortfall) if problem.shortfall else session.cautions
    found = cautions(finished, kept, data, known)
    for caution in found:
        if caution not in (*session.told, problem.shortfall):
            logger.warning(caution)
    # Of a search that had ended with fewer evaluations, the result stands until here. The report comes back last.
    folder.report.unlink(missing_ok=True)
    if policy is not None:
        save_policy(policy, folder.policy)
    save_model(model, folder.pruned)
    save_plan(kept.plan, folder.plan)
    outcome = Outcome(
        settings=settings,
        target=session.cost_model.target,
        problem=problem,
        groups=session.planner.all_groups,
        branches=session.planner.branches,
        histories=histories,
        finished=finished,
        kept=kept,
        seconds=time.perf_counter() - start,
        guesses=None if evaluator.surrogate is None else evaluator.surrogate.error,
        predictions=() if evaluator.surrogate is None else evaluator.surrogate.guesses,
        images={"training": len(data.train), "reward": len(data.reward), "test": len(data.test)},
        cautions=found,
        measure=data.task.measure,
    )
    write_outcome(outcome, folder)
    return SearchResult(
        model=model,
        plan=kept.plan,
        policy=policy,
        history=histories,
        kept=kept,
        finished=finished,
        branches=session.planner.branches,
        report=folder.report,
        measure=data.task.measure,
    )


def _search(
    session: Session, problem: Problem, settings: SearchSettings, builders: Mapping[str, BuildSearcher]
) -> tuple[Searcher, BudgetedEvaluator, dict[str, History], dict[str, list[Evaluation]]]:
    """Run the rules that are set by hand, then the searchers.

    Returns:
        The last searcher and its evaluator; by name what each searcher has evaluated, and its plans worth finishing.

    Raises:
        BudgetError: none has found a plan that may be a result.
    """
    histories, finalists = dict[str, History](), dict[str, list[Evaluation]]()
    guard = ConstantRewardGuard(problem.objective)
    rules = [WIDTH_RULE] if not problem.shortfall else []
    rules += [DEPTH_RULE] if problem.space.depth is not None else []
    hand_set = {n: searcher_builder(replace(settings, searcher=SearcherSettings(n))) for n in rules}
    for name, build in {**hand_set, **builders}.items():
        # All learn from the costs of hand-set plans.
        surrogate = session.surrogate if is_hand_set(name) else None
        ruled = [one for rule in histories if is_hand_set(rule) for one in histories[rule].evaluations]
        by_hand = None if is_hand_set(name) else problem.objective.best(ruled)
        searcher, evaluator = run_searcher(
            name, build, problem, session, settings, guard, surrogate=surrogate, by_hand=by_hand
        )
        histories[name] = evaluator.history
        if best := find_finalists(evaluator, settings.search.finalists, hand_set=is_hand_set(name)):
            finalists[name] = best
        else:
            logger.warning("%s found no plan that may be a result in %d evaluations", name, evaluator.used)
    if not finalists:
        raise BudgetError(nothing_found(problem.objective, [of_one.evaluations for of_one in histories.values()]))
    return searcher, evaluator, histories, finalists


def prune(  # noqa: PLR0913 - each is one thing that a user sets
    model: Any,
    data: Dataset,
    *,
    target: str | Target | None = None,
    batch_size: int | None = None,
    latency: float | str | None = None,
    memory: float | str | None = None,
    evaluations: int | None = None,
    quality: Any = None,
    lower_is_better: bool | None = None,
    folder: str | Path | None = None,
    settings: SearchSettings | None = None,
) -> SearchResult:
    """Prune a model in place to a budget, by search.

    Args:
        model: a built Functional or Sequential model. It is changed. What its outputs are for, the data say; losses
            that it is compiled with are those of fine-tuning where they are no cross-entropies.
        data: a `Dataset`, from `autoprune.data.load_data`, of arrays with `autoprune.data.from_arrays`, or of batches
            with `autoprune.data.from_batches`.
        target: a name as for `measure_cost`, or a `Target` with batch size and dtype.
        batch_size: images per inference call on one device.
        latency: limit as a share of the dense latency, or a time per batch such as "200us"; a limit that is given
            replaces both of the settings.
        memory: limit as a share of the dense model's device memory, or bytes such as "12MiB".
        evaluations: plans that each searcher may score.
        quality: what is measured in the place of accuracy, or of what is usual for the data's task: the name of a
            metric (see `task.metric`), a metric of Keras's, or a function of labels and predictions that is written
            with `keras.ops` and gives a number or one for each example; of several outputs it gets mappings.
        lower_is_better: of the quality; None is what is known of it.
        folder: run folder; by default a new one in `outputs/search`. The same folder, model, data and settings go on
            with an interrupted search, or with more evaluations; what was scored there is not scored again.
        settings: everything that is not given; by default batch 128 in bfloat16, 40 % of the latency, 24 evaluations.

    Raises:
        AutopruneError: model, data, target, budget or folder cannot be used; the message says which and why.
    """
    check_model(model)
    if not isinstance(data, Dataset):
        raise DataError(
            "Expected a data set: autoprune.data.from_arrays(x_train, y_train, x_test, y_test), or one from "
            f"autoprune.data.load_data. Received: {type(data).__name__}"
        )
    settings = settings or SearchSettings()
    task = data.task.with_losses_of(model)
    task = task if quality is None else task.with_metric(quality, lower_is_better)
    data = data.for_task(task)
    if task.settings is not None:
        settings = replace(settings, task=task.settings)
    if isinstance(target, Target):
        settings = replace(settings, target=replace(settings.target, **dataclasses.asdict(target)))
    elif target is not None:
        settings = replace(settings, target=replace(settings.target, name=target))
    if batch_size is not None:
        settings = replace(settings, target=replace(settings.target, batch_size=batch_size))
    if latency is not None or memory is not None:
        settings = replace(settings, budget=BudgetSettings(latency, memory))
    if evaluations is not None:
        settings = replace(settings, search=replace(settings.search, evaluations=evaluations))
    fingerprints = {
        "model": architecture_fingerprint(model),
        "weights": weights_fingerprint(model),
        "data": data.fingerprint(),
    }
    if not data.task.classifies:
        fingerprints["task"] = json.dumps(data.task.describe(), sort_keys=True)
    with visible_logging(), open_run_from_python(folder, settings, fingerprints) as run_folder:
        logger.info("run folder: %s", run_folder.path)
        with track(settings, run_folder, "prune"):
            return search_model(model, data, settings, run_folder)
