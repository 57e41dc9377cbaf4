"""The terminal: one console for logging, tables and progress, so that they do not write over each other."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from autoprune.records import Evaluation
from autoprune.reporting import interrupts
from autoprune.reporting.notebook import NotebookProgress
from autoprune.reporting.tables import shares
from autoprune.searchers import Objective
from autoprune.training.fit import OnProgress

logger = logging.getLogger(__name__)

# Not narrower than the result table: in a file or a pipe there is no width to go by.
CONSOLE = Console(soft_wrap=False)
if not CONSOLE.is_terminal or CONSOLE.width < 100:
    CONSOLE = Console(width=128)

# Without a terminal there is no bar; then every tenth of a stage is a line of its own.
_LINES = 10


class ConsoleHandler(RichHandler):
    """Logging through the shared console; `conf/hydra/default.yaml` names it."""

    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(
            level, console=CONSOLE, show_path=False, show_level=False, markup=False, omit_repeated_times=False
        )


@contextmanager
def visible_logging() -> Iterator[None]:
    """Within the block what autoprune tells is shown, also in a program that has not set up logging."""
    own = logging.getLogger("autoprune")
    if own.hasHandlers():
        yield
        return
    handler, level = ConsoleHandler(), own.level
    own.addHandler(handler)
    own.setLevel(level or logging.INFO)
    try:
        yield
    finally:
        own.removeHandler(handler)
        own.setLevel(level)


class Stage:
    """One long stage: done so far, time left, and the best figure yet."""

    def __init__(self, progress: Progress, task: TaskID, name: str, total: int) -> None:
        self._progress = progress
        self._task = task
        self._name = name
        self._total = total
        self._lines = 0

    def advance(self, done: float, note: str) -> None:
        """Show that `done` steps are done; a share of a step counts too.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed in between and got lost, see `interrupts`.
        """
        interrupts.check()
        self._progress.update(self._task, completed=done, note=note)
        # Rounded down, but not where a share that should be whole is short of it by its last bit.
        lines = int(done * _LINES / self._total + 1e-9)
        if self._progress.disable and lines > self._lines:
            logger.info("%s %.3g/%d  %s", self._name, done, self._total, note)
            self._lines = lines


@contextmanager
def stage(name: str, total: int) -> Iterator[Stage]:
    """A progress bar for the length of the block."""
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bar = NotebookProgress if CONSOLE.is_jupyter else Progress
    with bar(*columns, console=CONSOLE, disable=not CONSOLE.is_terminal) as progress:
        yield Stage(progress, progress.add_task(name, total=total, note=""), name, total)


@contextmanager
def training_stage(name: str, epochs: int) -> Iterator[OnProgress]:
    """A progress bar of epochs; gives what `train` calls after each step."""
    with stage(name, epochs) as shown:

        def show(done: float, logs: Mapping[str, float]) -> None:
            accuracy = f", accuracy {logs['val_accuracy']:.3f}" if "val_accuracy" in logs else ""
            shown.advance(done, f"loss {logs.get('loss', math.nan):.3f}{accuracy}")

        yield show


class BestSoFar:
    """Follows a course of evaluations and describes the best that may be a result."""

    def __init__(self, stage_shown: Stage, objective: Objective) -> None:
        self._stage = stage_shown
        self._objective = objective
        self._best: Evaluation | None = None
        self._failures = 0
        self._overrun = math.inf

    def __call__(self, evaluation: Evaluation, number: int) -> None:
        """Take one more evaluation into account and show where the search stands."""
        self._failures += evaluation.failed
        if evaluation.cost is not None:
            self._overrun = min(self._overrun, self._objective.budget.overrun(evaluation.cost))
        known = [self._best] if self._best is not None else []
        self._best = self._objective.best([*known, evaluation])
        self._stage.advance(number, self._describe())

    def _describe(self) -> str:
        failures = f", {self._failures} failed" if self._failures else ""
        if self._best is None:
            floor = self._objective.floor
            if floor is not None and self._overrun <= 0:
                return f"nothing above the score of {floor:.3f} yet{failures}"
            nearest = f", nearest {self._overrun:.0%} over" if math.isfinite(self._overrun) else ""
            return f"nothing within the budget yet{nearest}{failures}"
        cost = shares(self._best.cost, self._objective.dense.cost, self._objective.budget)
        return f"best {self._best.score:.3f} at {cost}{failures}"
