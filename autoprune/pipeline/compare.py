"""Do searches find better plans than keep ratios set by hand, and which of them does?"""

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.comparison import PlanResult, Record, Run, Summary, cells_of, summarise
from autoprune.comparison.controls import ScratchTrainer
from autoprune.comparison.jobs import jobs_of
from autoprune.comparison.matching import HandSetPlan, cost_families, curve_plans, kind_of, match_hand_set
from autoprune.comparison.record import FINE_TUNED, FROM_SCRATCH
from autoprune.comparison.selection import select_finalist
from autoprune.cost.multi_target import describe_target
from autoprune.data import load_data
from autoprune.errors import BudgetError, JournalError, SettingsError
from autoprune.evaluation.cautions import chance_caution
from autoprune.pipeline.runs import RUNS
from autoprune.pipeline.session import (
    Session,
    announce,
    load_or_train_dense,
    open_session,
    pose_problem,
    run_searcher,
    searcher_builder,
    validate_choices,
)
from autoprune.records.plain import read_json, write_json
from autoprune.reporting.comparison import comparison_tables, verdicts
from autoprune.reporting.console import CONSOLE, stage
from autoprune.reporting.curves import Curves
from autoprune.reporting.pages.comparison import comparison_page
from autoprune.reporting.pages.page import write_page
from autoprune.reporting.pages.saved import Saved, library_versions
from autoprune.reporting.run_folder import RunFolder
from autoprune.searchers import Problem
from autoprune.searchers.constant_rewards import ConstantRewardGuard
from autoprune.searchers.hand_set import hand_set_candidates, is_hand_set
from autoprune.searchers.infeasible import nothing_found
from autoprune.settings import CompareSettings
from autoprune.training.finishing import Finisher

logger = logging.getLogger(__name__)


def run(settings: CompareSettings, folder: RunFolder) -> Summary:
    """The whole command: budgets posed, cells searched, finalists finished and tested, then what depends on the choice.

    Raises:
        AutopruneError: something that was asked for cannot be; what can be known beforehand is said before any search.
    """
    _check_widths(read_record(folder), settings)
    for searcher in settings.searchers:
        validate_choices(settings.search_settings(searcher))
    data = load_data(settings.data, settings.model, settings.task)
    shared = settings.search_settings()
    with open_session(load_or_train_dense(shared, data, folder), data, shared, folder) as session:
        record, start = _record(settings, folder, session), time.perf_counter()
        announce(session, settings, settings.budgets.values())
        # All before anything is searched: one that is impossible ends the command here. It teaches the surrogate
        # nothing, which learns from all hand-set plans in their order: searches of one budget do not depend on which
        # others are compared.
        problems = {
            budget: pose_problem(session, settings.search_settings(budget=budget), f"budget {budget}")
            for budget in settings.budgets
        }
        dense = record.dense = next(iter(problems.values())).dense
        record.anchors = {budget: problem.anchor for budget, problem in problems.items()}
        # Nothing is written before: an impossible budget beside `resume` leaves a comparison that had ended as it was.
        folder.save_settings(settings)  # Others than it was begun with, if they were given beside `resume`.
        before = record.seconds
        try:
            families = _families(settings, session, record)
            _search(settings, session, problems, record, folder)
            parts = (session.model, session.planner, data)
            tuner = Finisher(*parts, cost_model=session.cost_model, settings=shared)
            trainer = ScratchTrainer(*parts, cost_model=session.cost_model, settings=shared)
            _finish(settings, record, tuner, trainer, "finalists", folder)
            _match(settings, session, families, record)
            _finish(settings, record, tuner, trainer, "finishing", folder)
            summary = summarise(settings, record)
        finally:  # Also of one that is interrupted.
            record.seconds = before + time.perf_counter() - start
            record.save()
        cautions = [*session.cautions, *chance_caution(dense.accuracy, data.reward, data.classes)]
        record.conclusions = {**summary.to_json(), "cautions": cautions, "versions": library_versions()}
        record.save()
    write_page(comparison_page(Saved(folder.path)), folder.comparison_report)
    return summary


def _record(settings: CompareSettings, folder: RunFolder, session: Session) -> Record:
    """What was done before in this folder, and is written there from now on."""
    stored = read_record(folder)
    if stored:
        # Records that do not say so yet were taught by all rules that they compare.
        stored = {"taught_by": _rules(stored.get("settings", {}).get("searchers", [])), **stored}
    if stored and not _compares(stored, settings):
        # Which plans stand against each other depends on what is compared.
        stored = {**stored, "matches": {}, "curve": []}
    about = {"settings": dataclasses.asdict(settings), "target": describe_target(session.cost_model)}
    return Record(about, lambda data: write_json(folder.comparison, data), stored)


def read_record(folder: RunFolder) -> dict[str, Any] | None:
    """The record of the folder's comparison as plain data, if there is one."""
    if not folder.comparison.exists():
        return None
    try:
        return read_json(folder.comparison)
    except ValueError as error:
        raise JournalError(f"'{folder.comparison}' is damaged: {error}. Move it away to start anew.") from error


def _compares(stored: Mapping[str, Any], settings: CompareSettings) -> bool:
    """Whether a record is of just what the settings ask to compare."""
    asked = stored.get("settings", {})
    return all(asked.get(name) == getattr(settings, name) for name in RUNS["compare"].extensible)


def is_finished(settings: CompareSettings, folder: RunFolder) -> bool:
    """Whether a folder holds a whole comparison of just what the settings ask to compare."""
    record = read_record(folder) or {}
    return bool(record.get("ended")) and _compares(record, settings) and folder.comparison_report.exists()


def _check_widths(stored: Mapping[str, Any] | None, settings: CompareSettings) -> None:
    """Refuse budgets that would change which widths are legal: what was searched before had others.

    Raises:
        SettingsError: memory was limited before and is not now, or the other way round, and widths are a staircase.
    """
    before = (stored or {}).get("settings", {}).get("memories", settings.memories)
    if settings.constraints.widths == "staircase" and bool(before) != bool(settings.memories):
        raise SettingsError(
            "With constraints.widths=staircase the legal widths depend on whether memory is limited: expected memories "
            f"{'of one value or more' if before else 'left empty'}, as this comparison was begun. Received: "
            f"{settings.memories}. Begin a comparison of its own for that."
        )


def _rules(searchers: Sequence[str]) -> list[str]:
    """The hand-set rules among searchers; uniform pruning is always one."""
    return ["uniform", *(name for name in searchers if is_hand_set(name) and name != "uniform")]


def _families(settings: CompareSettings, session: Session, record: Record) -> list[HandSetPlan]:
    """All hand-set plans with their costs.

    The session's surrogate, with a copy of which every search begins, has learnt from the rules that the comparison was
    begun with, and from no others: a search that is added later knows as much as the first.
    """
    evaluator, asked = session.evaluator, _rules(settings.searchers)
    record.taught_by = record.taught_by or asked
    later = [rule for rule in asked if rule not in record.taught_by]
    first, rest = (
        sum(len(hand_set_candidates(rule, evaluator.space)) for rule in rules) for rules in (record.taught_by, later)
    )
    with stage("hand-set", first + rest, "plans compiled") as shown:
        families = cost_families(
            evaluator, record.taught_by, lambda done: shown.advance(done, ""), surrogate=session.surrogate
        )
        families += cost_families(evaluator, later, lambda done: shown.advance(first + done, ""))
    return [plan for plan in families if plan.rule in asked]


def _search(
    settings: CompareSettings, session: Session, problems: Mapping[str, Problem], record: Record, folder: RunFolder
) -> None:
    """Every cell that has not been searched yet; each searcher starts from the same surrogate."""
    guards = {budget: ConstantRewardGuard(problem.objective) for budget, problem in problems.items()}
    for cell in cells_of(settings):
        if cell.name in record.runs:
            guards[cell.budget].remember(session.evaluator.journal.course(cell.name))
            continue
        problem, of_cell = problems[cell.budget], settings.search_settings(cell.searcher, cell.budget, cell.seeds[0])
        _, evaluator = run_searcher(
            cell.name, searcher_builder(of_cell), problem, session, of_cell, guards[cell.budget]
        )
        done = Run.of(evaluator, settings.search.finalists, hand_set=is_hand_set(cell.searcher))
        if not done.finalists:
            logger.warning("%s found no plan that may be a result in %d evaluations", cell.name, len(done.keys))
        record.runs[cell.name] = done
        record.save()
    if not any(record.runs[cell.name].finalists for cell in cells_of(settings)):
        told = []
        for budget, problem in problems.items():
            cells = [cell for cell in cells_of(settings) if cell.budget == budget]
            courses = [session.evaluator.journal.course(cell.name) for cell in cells]
            told.append(f"At {budget}: {nothing_found(problem.objective, courses)}")
        raise BudgetError("\n".join(told))


def _match(settings: CompareSettings, session: Session, families: Sequence[HandSetPlan], record: Record) -> None:
    """For every searched plan the hand-set ones that stand against it, and the plans of the uniform curve."""
    for cell in cells_of(settings):
        if is_hand_set(cell.searcher) or cell.name in record.matches:
            continue
        finalists = record.runs[cell.name].finalists
        (seed,) = cell.seeds
        best = select_finalist(finalists, seed, settings, record)
        if best is not None:
            kind = kind_of(cell.budget)
            record.matches[cell.name] = match_hand_set(session.evaluator, families, best, kind, len(finalists))
    if not record.curve:
        runs = [record.runs[cell.name] for cell in cells_of(settings)]
        lowest = 0.8 * min(plan.required_cost.latency for done in runs for plan in done.finalists)
        plans = curve_plans(families, settings.uniform_curve, lowest)
        scored = [session.evaluator.evaluate(plan.candidate) for plan in plans]
        record.curve = [evaluation for evaluation in scored if not evaluation.failed]
    record.save()


def _finish(
    settings: CompareSettings,
    record: Record,
    tuner: Finisher,
    trainer: ScratchTrainer,
    name: str,
    folder: RunFolder,
) -> None:
    """Fine-tune, or train from scratch, what is not finished yet, and test it once; the model ends dense again."""
    jobs = [job for job in jobs_of(settings, record) if job.name not in record.tested]
    try:
        with stage(name, len(jobs), "plans") as shown:
            for number, job in enumerate(jobs):
                anew, title = job.recipe == FROM_SCRATCH, f"{job.whose}, seed {job.seed}"
                tuned = settings.search.count_epochs(settings.training.after_pruning)
                epochs = trainer.epochs if anew else max(tuned, 1)

                def show(
                    done: float, logs: Mapping[str, float], title: str = title, n: int = number, of: int = epochs
                ) -> None:
                    curves.add_epoch(done, logs)
                    shown.advance(n + min(done / of, 0.999), title)

                # Several plans of one searcher are told apart by their keys.
                with Curves(folder.trackers, "training", f"{title}, plan {job.evaluation.key}") as curves:
                    if anew and job.seed is not None:
                        tested = trainer.finish(job.whose, job.evaluation, job.seed, show)
                    else:
                        whole_too = job.recipe == FINE_TUNED
                        done = tuner.finish(job.whose, job.evaluation, show, seed=job.seed, whole_too=whole_too)
                        tuner.undo()
                        tested = PlanResult.of(done, job.recipe, job.seed)
                record.add_tested(tested)
                shown.advance(number + 1, f"{job.whose}: {tested.test_accuracy:.2%}")
    finally:
        tuner.undo()


def show(settings: CompareSettings, summary: Summary, folder: RunFolder) -> None:
    """Print the tables and what they say, and where figures and report are."""
    for table in comparison_tables(settings, summary):
        CONSOLE.print(table)
    for sentence in verdicts(settings, summary):
        CONSOLE.print(sentence, soft_wrap=True, highlight=False)
    figures = f"Figures: {folder.comparison}\nReport: {folder.comparison_report}"
    CONSOLE.print(figures, soft_wrap=True, highlight=False)
