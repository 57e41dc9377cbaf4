"""The terminal: one console for logging, tables and progress, so that they do not write over each other."""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.text import Text

from autoprune.records import Evaluation
from autoprune.records.measure import ACCURACY, Measure
from autoprune.reporting import interrupts
from autoprune.reporting.curves import Curves
from autoprune.reporting.notebook import NotebookProgress
from autoprune.reporting.tables import shares
from autoprune.searchers import Objective
from autoprune.settings.places import QUIET
from autoprune.training.course import OnProgress

logger = logging.getLogger(__name__)

# A terminal has its own width, which may change; in a file or a pipe there is none to go by.
CONSOLE = Console(soft_wrap=False)
if not CONSOLE.is_terminal:
    CONSOLE = Console(width=128)

# Without a terminal there is no bar; then every tenth of a stage is a line of its own.
_LINES = 10
_RECENT = 300  # Seconds from which the time left is estimated: a resumed run begins with what it has done already.


class ConsoleHandler(RichHandler):
    """Logging through the shared console; `conf/hydra/default.yaml` names it."""

    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(
            level, console=CONSOLE, show_path=False, show_level=False, markup=False, omit_repeated_times=False
        )


def be_quiet() -> None:
    """Show no progress from here on, only warnings and what commands print in the end; log files keep all of it."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, ConsoleHandler):
            handler.setLevel(logging.WARNING)
    os.environ[QUIET] = "1"


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

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._lines = 0

    def advance(self, done: float, note: str) -> None:
        """Show that `done` steps are done; a share of a step counts too.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed in between and got lost, see `interrupts`.
        """
        interrupts.check()
        self._progress.update(self._task, completed=done, note=note)
        # Rounded down, but not where a share that should be whole is short of it by its last bit.
        lines = int(done * _LINES / (self._progress.tasks[0].total or 1) + 1e-9)
        if self._progress.disable and lines > self._lines:
            self._tell()
            self._lines = lines

    def end(self, how: str) -> None:
        """Leave the bar where it is, and say how it ended if that is before its end; nothing of what never began."""
        task = self._progress.tasks[0]
        self._progress.stop_task(self._task)
        if task.completed == 0:
            self._progress.live.transient = True
        elif not _is_whole(task):
            self._progress.update(self._task, how=how)
            if self._progress.disable:
                self._tell()

    def _tell(self) -> None:
        task = self._progress.tasks[0]
        note = f": {task.fields['note']}" if task.fields["note"] else ""
        logger.info("%s %s, %s%s", task.description, _count_words(task), _time_words(task), note)


class _Line(ProgressColumn):
    """A stage as one line that is never longer than the terminal is wide: first the bar gets shorter, then the note."""

    def render(self, task: Task) -> Text:
        """The line."""
        width = CONSOLE.width
        line = Text(f"{task.description:<13} ", no_wrap=True, end="")
        length = 24 if width >= 110 else 12 if width >= 90 else 8 if width >= 76 else 0
        if length:
            full = int(length * task.percentage / 100)
            character = "\u2501" if CONSOLE.encoding.startswith("utf") else "-"
            line.append(character * full, "bar.finished" if full == length else "bar.complete")
            line.append(character * (length - full) + " ", "bar.back")
        line.append(_count_words(task), "progress.download")
        line.append(f" {_time_words(task)}", "progress.remaining")
        if width >= 90 and task.stop_time is None:
            line.append(f" after {_clock(task.elapsed)}", "progress.elapsed")
        line.append(f"  {task.fields['note']}")
        if task.stop_time is None and (going_on := task.fields["watch"]()):
            line.append(f"  {going_on}", "progress.elapsed")
        # The last column stays free: some terminals begin a new line once it is written to.
        line.truncate(width - 1, overflow="ellipsis")
        return line


def _count_words(task: Task) -> str:
    """Such as `2.4/12 epochs`."""
    whole = abs(task.completed - round(task.completed)) < 1e-6
    done = f"{round(task.completed):,}" if whole else f"{task.completed:.1f}"
    return f"{done}/{task.total:,} {task.fields['unit']}".rstrip()


def _time_words(task: Task) -> str:
    """The time that is left or, at the end, that it took."""
    if task.stop_time is not None or _is_whole(task):
        return f"{task.fields['how']}in {_clock(task.elapsed)}"
    left, rate = task.time_remaining, ""
    if task.fields["unit"] == "evaluations" and task.speed:
        rate = f", {60 * task.speed:.3g} a minute"
    if left is None and task.completed and task.elapsed is not None and task.remaining is not None:
        left = task.elapsed * task.remaining / task.completed
    return f"{_clock(left)} left{rate}"


def _is_whole(task: Task) -> bool:
    return task.total is not None and task.completed >= task.total - 1e-6


def _clock(seconds: float | None) -> str:
    return "-:--:--" if seconds is None else str(timedelta(seconds=round(seconds)))


@contextmanager
def stage(name: str, total: int, unit: str = "", watch: Callable[[], str] = str) -> Iterator[Stage]:
    """A progress bar for the length of the block; it stays where it was when the block ends.

    Args:
        name: name of the stage on the terminal.
        total: steps that make it whole.
        unit: what the steps are, such as `evaluations`.
        watch: what is going on besides, asked whenever the bar is drawn.
    """
    hidden = not CONSOLE.is_terminal or CONSOLE.is_dumb_terminal or QUIET in os.environ
    bar = NotebookProgress if CONSOLE.is_jupyter else Progress
    with bar(_Line(), console=CONSOLE, disable=hidden, speed_estimate_period=_RECENT) as progress:
        shown = Stage(progress, progress.add_task(name, total=total, note="", unit=unit, how="", watch=watch))
        try:
            yield shown
        except BaseException:
            shown.end("stopped ")
            raise
        shown.end("ended ")


@contextmanager
def training_stage(name: str, epochs: int, curves: Curves, measure: Measure = ACCURACY) -> Iterator[OnProgress]:
    """A progress bar of epochs, and their curves; gives what `train` calls after each step."""
    with curves, stage(name, epochs, "epochs") as shown:
        accuracy = ""

        def show(done: float, logs: Mapping[str, float]) -> None:
            nonlocal accuracy
            curves.add_epoch(done, logs)
            if "val_accuracy" in logs:
                accuracy = f"{measure.name} {measure.sign * logs['val_accuracy']:.3f}"
            loss = f"loss {logs['loss']:.3f}" if "loss" in logs else ""
            shown.advance(done, ", ".join(filter(None, (loss, accuracy))))

        yield show


class BestSoFar:
    """Follows a course of evaluations and describes the best that may be a result, in words and as curves.

    Args:
        stage_shown: where the words go.
        objective: says which plan is best.
        curves: where the curves go.
        by_hand: the best plan that rules set by hand have found, to stand beside it; None for none.
    """

    def __init__(
        self, stage_shown: Stage, objective: Objective, curves: Curves, by_hand: Evaluation | None = None
    ) -> None:
        self._stage = stage_shown
        self._by_hand = by_hand
        self._curves = curves
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
        self._curves.add_evaluation(evaluation, number, self._objective, self._best)
        floor = self._objective.floor
        if self._best is not None:
            cost, dense = self._best.required_cost, self._objective.dense.required_cost
            note = f"best {self._best.score:.3f} at {shares(cost, dense, self._objective.budget)}"
            if self._by_hand is not None:
                note += f", by hand {self._by_hand.score:.3f}"
        elif floor is not None and self._overrun <= 0:
            note = f"nothing above the score of {floor:.3f} yet"
        elif math.isfinite(self._overrun):
            note = f"nothing within the budget yet, nearest {self._overrun:.0%} over"
        else:
            note = "nothing within the budget yet"
        self._stage.advance(number, note + (f", {self._failures} failed" if self._failures else ""))
