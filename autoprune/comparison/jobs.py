"""Which plans are to be finished, by which recipe and with which seeds; each of them once."""

import itertools
from dataclasses import dataclass

from autoprune.comparison.cells import cells_of
from autoprune.comparison.record import AS_IT_IS, FINE_TUNED, FROM_SCRATCH, Record, result_name
from autoprune.comparison.selection import select_finalist
from autoprune.records import Evaluation
from autoprune.searchers.hand_set import is_hand_set
from autoprune.settings import CompareSettings


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """One plan to finish.

    Attributes:
        whose: for the terminal.
        evaluation: the plan, as it was evaluated.
        recipe: `as it is`, `fine-tuned` or `from scratch`.
        seed: of the training; None where there is none.
    """

    whose: str
    evaluation: Evaluation
    recipe: str
    seed: int | None

    @property
    def name(self) -> str:
        """Under which the result is remembered."""
        return result_name(self.evaluation.key, self.recipe, self.seed)


def jobs_of(settings: CompareSettings, record: Record) -> list[Job]:
    """Everything to be finished, in order, without repeats: one plan may stand for several searchers.

    What depends on the choice among finalists is there once these are finished.
    """
    jobs = [Job(whose="dense", evaluation=record.required_dense, recipe=AS_IT_IS, seed=None)]
    for cell in cells_of(settings):
        # A cell's finalists, and those that stand against the one that was chosen.
        plans = [(cell.name, evaluation) for evaluation in record.runs[cell.name].finalists]
        plans += [(f"uniform for {cell.name}", match.evaluation) for match in record.matches.get(cell.name, ())]
        for seed, (whose, evaluation) in itertools.product(cell.seeds, plans):
            jobs.append(Job(whose=whose, evaluation=evaluation, recipe=FINE_TUNED, seed=seed))
    if "dense" in settings.controls:
        for seed in settings.seeds:
            jobs.append(Job(whose="dense, tuned", evaluation=record.required_dense, recipe=FINE_TUNED, seed=seed))
    for evaluation, seed in itertools.product(record.curve, settings.seeds):
        jobs.append(Job(whose="uniform curve", evaluation=evaluation, recipe=FINE_TUNED, seed=seed))
    scratch = scratch_searchers(settings)
    for cell in cells_of(settings):
        for seed in cell.seeds if cell.searcher in scratch else ():
            best = select_finalist(record.runs[cell.name].finalists, seed, settings, record)
            if best is not None:
                jobs.append(Job(whose=f"{cell.name} from scratch", evaluation=best, recipe=FROM_SCRATCH, seed=seed))
    by_name: dict[str, Job] = {}
    for job in jobs:
        by_name.setdefault(job.name, job)
    return list(by_name.values())


def scratch_searchers(settings: CompareSettings) -> set[str]:
    """The searchers whose plans are trained from scratch too; those that are set by hand only if they are named."""
    named = {control.partition(":")[2] for control in settings.controls if control.startswith("scratch:")}
    if "scratch" in settings.controls:
        named |= {searcher for searcher in settings.searchers if not is_hand_set(searcher)}
    return named
