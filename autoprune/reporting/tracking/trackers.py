"""The one place that figures of a run go to, whoever keeps them."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.errors import FolderError, words_of
from autoprune.records.plain import read_json, write_json
from autoprune.reporting.tracking.event_files import EventFiles
from autoprune.reporting.tracking.tracker import Curve, Outcome, Tracker

logger = logging.getLogger(__name__)


class Trackers:
    """All who are told of a run's figures: TensorBoard's files, and the trackers that are opened besides.

    Whoever resumes a run tells everything from the beginning again. TensorBoard's file of a curve is written anew then;
    a tracker goes on in the run that it had, and is told of later steps than those that are noted as told.

    A tracker that fails is told no more, with a warning: no search ends because a server does.

    Args:
        tensorboard: folder of the event files.
        notes: file with the runs of the trackers, and the last step of each curve that each was told of.
    """

    def __init__(self, tensorboard: Path, notes: Path) -> None:
        self._files = EventFiles(tensorboard)
        self._path = notes
        self._open: dict[str, Tracker] = {}
        self._notes: dict[str, Any] = {}
        self._told: dict[str, dict[str, int]] = {}  # By earlier processes.

    def open(self, name: str, begin: Callable[[str | None], Tracker]) -> None:
        """Tell one more.

        Args:
            name: the name of the tracker.
            begin: goes on with the run of this identifier, or begins one where there is none.

        Raises:
            FolderError: the notes are damaged.
        """
        if not self._notes and self._path.exists():
            try:
                self._notes = read_json(self._path)
            except ValueError as error:
                raise FolderError(
                    f"'{self._path}' is damaged: {error}. Remove it, and the trackers begin runs of their own."
                ) from error
        known = self._notes.get(name, {}).get("run")
        tracker = self._open[name] = begin(known)
        if tracker.run_id != known:
            self._notes[name] = {"run": tracker.run_id, "told": {}}
            write_json(self._path, self._notes)
        self._told[name] = dict(self._notes[name]["told"])

    def add(
        self,
        curve: Curve,
        step: int,
        figures: Mapping[str, float],
        distributions: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        """Tell of figures by name, at once: somebody may be looking. What is no finite number is left out.

        Args:
            curve: the curve that the figures belong to.
            step: number of the evaluation, the epoch or the time step.
            figures: scalars by name.
            distributions: shares from 0 to 1 by name, of which there are histograms.
        """
        figures = {name: float(value) for name, value in figures.items() if math.isfinite(value)}
        shares, key = distributions or {}, str(curve)
        self._files.add(curve, step, figures, shares)
        for name in list(self._open):
            later = step > self._told[name].get(key, -1)
            if later and self._tell(name, lambda tracker: tracker.add(curve, step, figures, shares)):
                self._notes[name]["told"][key] = step
                write_json(self._path, self._notes)

    def end(self, curve: Curve) -> None:
        """No more figures of a curve come."""
        self._files.close(curve)

    def conclude(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Tell what came of the run: figures by name, and files."""
        for name in list(self._open):
            self._tell(name, lambda tracker: tracker.conclude(figures, files))

    def close(self, outcome: Outcome) -> None:
        """End the runs of the trackers."""
        for name in self._open if outcome == "finished" else ():
            # Who is given more evaluations trains anew, and its last one, of the policy itself, was not the last then.
            told = self._notes[name]["told"]
            self._notes[name]["told"] = {curve: step - 1 for curve, step in told.items() if curve.startswith("search/")}
        if self._open:
            write_json(self._path, self._notes)  # Once more: Ctrl-C may have come before the last.
        for name in list(self._open):
            self._tell(name, lambda tracker: tracker.close(outcome))
        self._open.clear()

    def _tell(self, name: str, tell: Callable[[Tracker], None]) -> bool:
        """Whether a tracker could be told."""
        try:
            tell(self._open[name])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the tracker's
            logger.warning("%s is told no more of this run: %s", name, words_of(error, 300))
            del self._open[name]
            return False
        return True
