"""`python -m autoprune.compare`: do searches find better plans than keep ratios set by hand, and which of them does?"""

import copy
import dataclasses
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import hydra
from omegaconf import DictConfig

from autoprune import cli
from autoprune.comparing import PlanResult, Record, Run, Summary, TimedScorer, cells_of, summarise
from autoprune.comparing.choosing import chosen
from autoprune.comparing.controls import FromScratch
from autoprune.comparing.jobs import Job, jobs_of
from autoprune.comparing.matching import HandSetPlan, costed_families, curve_plans, kind_of, matched
from autoprune.comparing.record import FINE_TUNED, FROM_SCRATCH
from autoprune.cost.joint import described
from autoprune.data import load_data
from autoprune.errors import BudgetError, JournalError
from autoprune.reporting.comparison import comparison_tables, verdicts, write_comparison
from autoprune.reporting.console import CONSOLE, stage
from autoprune.reporting.run_folder import RunFolder, write_json
from autoprune.resuming import begun, has_ended, interruptible
from autoprune.searchers import Problem
from autoprune.searchers.objective import DISTINCT
from autoprune.searchers.signal_watch import SignalWatch
from autoprune.searchers.uniform import hand_set_plans, is_hand_set
from autoprune.session import Session, check_names, dense_model, made_searcher, opened, posed, run_searcher
from autoprune.settings import CompareSettings
from autoprune.training.course import OnProgress
from autoprune.training.finishing import Finisher

logger = logging.getLogger(__name__)

# What is compared, not how: a comparison may be given more of it later, and keeps what it has done.
EXTENSIBLE = ("searchers", "latencies", "memories", "seeds", "controls", "uniform_curve")


def run(settings: CompareSettings, folder: RunFolder) -> Summary:
    """The whole command: budgets posed, cells searched, finalists finished and tested, then what depends on the choice.

    Raises:
        AutopruneError: something that was asked for cannot be; what can be known beforehand is said before any search.
    """
    for searcher in settings.searchers:
        check_names(settings.search_settings(searcher))
    data = load_data(settings.data, settings.model)
    shared = settings.search_settings()
    with opened(dense_model(shared, data, folder), data, shared, folder) as session:
        record = _record(settings, folder, session)
        with _timed(record):
            problems = _problems(settings, session, record)
            folder.save_settings(settings)  # Others than it was begun with, if they were given beside `resume`.
            families = _families(settings, session)
            _search(settings, session, problems, record, folder)
            finishers = _Finishers(settings, session)
            _finish(settings, record, finishers, "finalists")
            _match(settings, session, families, record)
            _finish(settings, record, finishers, "finishing")
            summary = summarise(settings, record)
        record.conclude(summary.to_json())
    write_comparison(settings, summary, record, session.cost_model.target, folder)
    return summary


def _record(settings: CompareSettings, folder: RunFolder, session: Session) -> Record:
    """What was done before in this folder, and is written there from now on."""
    stored = _stored(folder)
    if stored and not _compares(stored, settings):
        # Which plans stand against each other depends on what is compared.
        stored = {**stored, "matches": {}, "curve": []}
    about = {"settings": dataclasses.asdict(settings), "target": described(session.cost_model)}
    return Record(about, lambda data: write_json(folder.comparison, data), stored)


def _stored(folder: RunFolder) -> dict[str, Any] | None:
    """The record of the folder's comparison as plain data, if there is one."""
    if not folder.comparison.exists():
        return None
    try:
        return json.loads(folder.comparison.read_text())
    except ValueError as error:
        raise JournalError(f"'{folder.comparison}' is damaged: {error}. Move it away to start anew.") from error


def _compares(stored: Mapping[str, Any], settings: CompareSettings) -> bool:
    """Whether a record is of just what the settings ask to compare."""
    asked = stored.get("settings", {})
    return all(asked.get(name) == getattr(settings, name) for name in EXTENSIBLE)


@contextmanager
def _timed(record: Record) -> Iterator[None]:
    """Adds the wall time of the block to the record's, also of one that is interrupted."""
    start, before = time.perf_counter(), record.seconds
    try:
        yield
    finally:
        record.seconds = before + time.perf_counter() - start
        record.save()


def _problems(settings: CompareSettings, session: Session, record: Record) -> dict[str, Problem]:
    """Every budget posed, before anything is searched: one that is impossible ends the command here."""
    problems = {
        budget: posed(session, settings.search_settings(budget=budget), f"budget {budget}")
        for budget in settings.budgets
    }
    record.dense = next(iter(problems.values())).dense
    record.anchors = {budget: problem.anchor for budget, problem in problems.items()}
    return problems


def _families(settings: CompareSettings, session: Session) -> list[HandSetPlan]:
    """All hand-set plans with their costs, from which the surrogate of every search has learnt."""
    rules = ["uniform", *(name for name in settings.searchers if is_hand_set(name) and name != "uniform")]
    total = sum(len(hand_set_plans(rule, session.planner.legal)) for rule in rules)
    with stage("hand-set", total) as shown:
        return costed_families(session.evaluator, rules, lambda done: shown.advance(done, "plans compiled"))


def _search(
    settings: CompareSettings, session: Session, problems: Mapping[str, Problem], record: Record, folder: RunFolder
) -> None:
    """Every cell that has not been searched yet; what one searcher learns of costs, no other is told."""
    evaluator, taught = session.evaluator, session.evaluator.surrogate
    watches = {budget: SignalWatch(problem.objective) for budget, problem in problems.items()}
    for cell in cells_of(settings):
        if cell.name in record.runs:
            continue
        evaluator.surrogate = copy.deepcopy(taught)
        problem, of_cell = problems[cell.budget], cell.settings(settings)
        searcher = made_searcher(session, of_cell, folder.tensorboard / cell.name)
        scorer = run_searcher(cell.name, searcher, problem, session, of_cell, watches[cell.budget], TimedScorer)
        done = Run.of(scorer, problem, settings.search.finalists, 0.0 if is_hand_set(cell.searcher) else DISTINCT)
        if not done.finalists:
            logger.warning("%s found no plan that may be a result in %d evaluations", cell.name, len(done.keys))
        record.add_run(cell.name, done)
    evaluator.surrogate = taught
    if not any(record.runs[cell.name].finalists for cell in cells_of(settings)):
        raise BudgetError("No searcher found a plan that may be a result, at any budget. The warnings above say why.")


def _match(settings: CompareSettings, session: Session, families: Sequence[HandSetPlan], record: Record) -> None:
    """For every searched plan the hand-set ones that stand against it, and the plans of the uniform curve."""
    for cell in cells_of(settings):
        if is_hand_set(cell.searcher) or cell.name in record.matches:
            continue
        finalists = record.runs[cell.name].finalists
        best = chosen(finalists, *cell.seeds, settings, record)
        if best is not None:
            kind = kind_of(cell.budget)
            record.matches[cell.name] = matched(session.evaluator, families, best, kind, len(finalists))
    if not record.curve:
        runs = [record.runs[cell.name] for cell in cells_of(settings)]
        lowest = 0.8 * min(plan.cost.latency for done in runs for plan in done.finalists)
        plans = curve_plans(families, settings.uniform_curve, lowest)
        scored = [session.evaluator.evaluate(plan.keep_ratios) for plan in plans]
        record.curve = [evaluation for evaluation in scored if not evaluation.failed]
    record.save()


def _finish(settings: CompareSettings, record: Record, finishers: "_Finishers", name: str) -> None:
    """Fine-tune, or train from scratch, what is not finished yet, and test it once; the model ends dense again."""
    jobs = [job for job in jobs_of(settings, record) if job.name not in record.tested]
    try:
        with stage(name, len(jobs)) as shown:
            for number, job in enumerate(jobs):
                epochs = finishers.epochs(job)

                def show(
                    done: float, _: Mapping[str, float], job: Job = job, n: int = number, of: int = epochs
                ) -> None:
                    shown.advance(n + min(done / of, 0.999), f"{job.whose}, seed {job.seed}")

                tested = finishers.finish(job, show)
                record.add_tested(tested)
                shown.advance(number + 1, f"{job.whose}: {tested.test_accuracy:.2%}")
    finally:
        finishers.undo()


class _Finishers:
    """Finish jobs by either recipe; what the teacher says is asked once."""

    def __init__(self, settings: CompareSettings, session: Session) -> None:
        shared, parts = settings.search_settings(), (session.model, session.planner, session.data)
        self._tuned_epochs = max(settings.training.after_pruning, 1)
        self._tuning = Finisher(*parts, cost_model=session.cost_model, settings=shared)
        self._anew = FromScratch(*parts, cost_model=session.cost_model, settings=shared)

    def epochs(self, job: Job) -> int:
        """Of a job's training."""
        return self._anew.epochs if job.recipe == FROM_SCRATCH else self._tuned_epochs

    def finish(self, job: Job, show: OnProgress) -> PlanResult:
        """Train and test what a job asks for."""
        if job.recipe == FROM_SCRATCH:
            return self._anew.finish(job.whose, job.evaluation, job.seed, show)
        tuned = job.recipe == FINE_TUNED
        finished = self._tuning.finish(job.whose, job.evaluation, show, seed=job.seed, whole_too=tuned)
        self._tuning.undo()
        return PlanResult.of(finished, job.recipe, job.seed)

    def undo(self) -> None:
        """Make the model the dense one again."""
        self._tuning.undo()


@hydra.main(version_base="1.3", config_path="pkg://conf", config_name="compare")
def main(config: DictConfig) -> None:
    """The command."""
    cli.guarded(lambda: _command(config))


def _command(config: DictConfig) -> None:
    settings, folder = begun(config, CompareSettings, "comparison", EXTENSIBLE)
    stored = _stored(folder) or {}
    if stored.get("ended") and _compares(stored, settings) and has_ended(folder.comparison_report, "comparison"):
        return
    with interruptible("compare", folder, "Everything that was done"):
        summary = run(settings, folder)
    for table in comparison_tables(settings, summary):
        CONSOLE.print(table)
    for sentence in verdicts(settings, summary):
        CONSOLE.print(sentence, soft_wrap=True, highlight=False)
    figures = f"Figures: {folder.comparison}\nReport: {folder.comparison_report}"
    CONSOLE.print(figures, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    cli.run_command("compare")
