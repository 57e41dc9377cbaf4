"""One policy from several networks and budgets, to be replayed on others."""

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autoprune.cost.multi_target import open_targets
from autoprune.data import Dataset, load_data
from autoprune.evaluation.journal import evaluation_to_json
from autoprune.models.zoo import check_known
from autoprune.pipeline.session import (
    Session,
    announce,
    load_or_train_dense,
    open_session,
    pose_problem,
    validate_choices,
)
from autoprune.records import Evaluation
from autoprune.records.plain import write_json
from autoprune.reporting.console import CONSOLE, Stage, stage
from autoprune.reporting.curves import Curves
from autoprune.reporting.lessons import LessonRow, lessons_table
from autoprune.reporting.pages.lessons import lessons_page
from autoprune.reporting.pages.page import write_page
from autoprune.reporting.pages.saved import Saved, library_versions
from autoprune.reporting.run_folder import RunFolder
from autoprune.searchers import BudgetedEvaluator, Problem, Trial
from autoprune.searchers.policy import save_policy, training_record
from autoprune.settings import LearnSettings, LimitsSettings

logger = logging.getLogger(__name__)

FORMAT = "autoprune.lessons"
VERSION = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Course:
    """One network at one budget, opened to learn from.

    Attributes:
        model: its name.
        budget: as in `LearnSettings.budgets`.
        session: where its plans are scored.
        evaluator: evaluates its plans.
    """

    model: str
    budget: str
    session: Session
    evaluator: BudgetedEvaluator


def run(settings: LearnSettings, folder: RunFolder) -> list[LessonRow]:
    """The whole command: base models, budgets posed, one agent trained on all, its policy stored and looked at.

    Raises:
        AutopruneError: something that was asked for cannot be; what can be known before any training is said then.
    """
    # Imported here: torch takes seconds.
    from autoprune.rl.multi_task import MultiTaskTrainer
    from autoprune.rl.transfer import find_widest_within, roll_outs

    start = time.perf_counter()
    for model in settings.models:
        of_model = settings.search_settings(model)
        validate_choices(of_model)
        if of_model.model.name != "file":
            check_known(of_model.model.name)
    trainer = MultiTaskTrainer(settings.agent)
    data = load_data(settings.data, settings.search_settings().model, settings.task)
    with _open_courses(settings, data, folder) as courses:
        with Curves(folder.trackers, "agent", settings.agent.name) as curves:
            policy = trainer.train([course.evaluator for course in courses], settings.seed, curves.add)
        record = training_record(
            settings.search_settings(),
            settings.models,
            courses[0].session.cost_model.target,
            list(settings.budgets.values()),
        )
        policy = dataclasses.replace(policy, record=record)
        rows = []
        for course in courses:
            # What has become of it: the policy's own plan, as a replay would have it, beside the best uniform one.
            problem, evaluator = course.evaluator.problem, course.session.evaluator
            free = BudgetedEvaluator(
                evaluator,
                problem,
                name=f"look@{course.budget}",
                limits=LimitsSettings(1),
                surrogate=course.session.surrogate,
            )
            candidate, best = find_widest_within(free, roll_outs(free, policy)), course.evaluator.history.best
            rows.append(
                LessonRow(
                    model=course.model,
                    budget=course.budget,
                    dense=problem.dense,
                    uniform=evaluator.evaluate(problem.start),
                    policy=None if candidate is None else evaluator.evaluate(candidate),
                    best=None if best is None else best.evaluation,
                )
            )
    # Of a training that had ended with fewer evaluations, the result stands until here. The figures come back last.
    folder.metrics.unlink(missing_ok=True)
    save_policy(policy, folder.policy)
    described = [
        {
            **row.to_json(),
            "course": [evaluation_to_json(trial.evaluation) for trial in course.evaluator.history],
            "means": course.evaluator.history.sources,
        }
        for course, row in zip(courses, rows, strict=True)
    ]
    figures = {"format": FORMAT, "version": VERSION, "settings": dataclasses.asdict(settings)}
    took = {"seconds": time.perf_counter() - start, "versions": library_versions()}
    write_json(folder.metrics, {**figures, **took, "lessons": described})
    write_page(lessons_page(Saved(folder.path)), folder.report)
    return rows


@contextmanager
def _open_courses(settings: LearnSettings, data: Dataset, folder: RunFolder) -> Iterator[list[Course]]:
    """Every network at every budget, within the block; all share the compiler."""
    total = len(settings.models) * len(settings.budgets) * settings.search.evaluations
    courses: list[Course] = []
    with ExitStack() as stack:
        costing = stack.enter_context(closing(open_targets(settings.target, measured=folder.measured)))
        problems = []
        for model in settings.models:
            name, of_model = Path(model).stem, settings.search_settings(model)
            place = RunFolder.make(folder.path / name)
            place.trackers = folder.trackers
            dense = load_or_train_dense(of_model, data, place, f"base model {name}")
            session = stack.enter_context(open_session(dense, data, of_model, place, costing))
            announce(session, of_model, settings.budgets.values())
            for budget in settings.budgets:
                named = f"{name} {budget}"
                of_budget = settings.search_settings(model, budget)
                problem = pose_problem(session, of_budget, named, surrogate=session.surrogate)
                problems.append((name, budget, session, problem))
        shown = stack.enter_context(stage("learning", total, "evaluations"))
        for name, budget, session, problem in problems:
            curves = Curves(folder.trackers, "search", f"{name}@{budget}")
            evaluator = BudgetedEvaluator(
                session.evaluator,
                problem,
                name=f"learn@{budget}",
                limits=settings.search,
                surrogate=session.surrogate,
                observe=partial(
                    _show_trial,
                    shown=shown,
                    courses=courses,
                    name=name,
                    curves=stack.enter_context(curves),
                    problem=problem,
                    seen=[],
                ),
            )
            courses.append(Course(model=name, budget=budget, session=session, evaluator=evaluator))
        yield courses


def _show_trial(
    trial: Trial,
    *,
    shown: Stage,
    courses: Sequence[Course],
    name: str,
    curves: Curves,
    problem: Problem,
    seen: list[Evaluation],
) -> None:
    """Show a trial of a problem, and add it to those that were seen before."""
    evaluation = trial.evaluation
    seen.append(evaluation)
    curves.add_evaluation(evaluation, trial.number, problem.objective, problem.objective.best(seen))
    score = "failed" if evaluation.failed else f"{evaluation.score:.3f}"
    shown.advance(sum(course.evaluator.used for course in courses), f"{name}: {score}")


def show(settings: LearnSettings, rows: Sequence[LessonRow], folder: RunFolder) -> None:
    """Print what was learnt of each problem, and how to replay it."""
    CONSOLE.print(lessons_table(rows, settings.evaluation.score or "likelihood"))
    words = f"Policy: {folder.policy}\nReport: {folder.report}\nReplay it with:\n"
    words += f"  python -m autoprune.replay policy={folder.policy} model=..."
    CONSOLE.print(words, soft_wrap=True, highlight=False)
