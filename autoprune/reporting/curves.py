"""Curves for TensorBoard, whatever searches: of every searcher by evaluation, of every training by epoch."""

import math
import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from autoprune.records import Evaluation
from autoprune.searchers import Objective


class Curves:
    """Figures by step, in an event file of their own.

    Whoever resumes tells everything from the beginning again, so that with the first figure the files of earlier
    processes in the same folder go: every curve is there once. The records are written as TensorBoard's own writer
    does, which would import TensorFlow, or PyTorch.

    Args:
        tensorboard: folder of the run's event files.
        kind: `search` or `training`.
        name: of the searcher or the training; one of two names that differ.
    """

    def __init__(self, tensorboard: Path, kind: str, name: str) -> None:
        self.folder = tensorboard / kind / re.sub(r"[/\\:]", "-", name)
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "Curves":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Write figures by tag, at once: TensorBoard may be looking. What is no finite number is left out."""
        # Imported here: it takes half a second.
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.glob("events.out.tfevents.*"):
                path.unlink()
            name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
            self._file = open(self.folder / name, "wb")  # noqa: SIM115 - `close` closes it
            first = Event(wall_time=time.time(), file_version="brain.Event:2")
            RecordWriter(self._file).write(first.SerializeToString())
        writer = RecordWriter(self._file)
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items() if math.isfinite(value)]
        writer.write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)).SerializeToString())
        writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def add_evaluation(
        self, evaluation: Evaluation, number: int, objective: Objective, best: Evaluation | None
    ) -> None:
        """Write what an evaluation of a search came to.

        Args:
            evaluation: the plan as it was scored.
            number: number of the evaluation in its search, from 1.
            objective: says what the evaluation is paid.
            best: of all plans so far the best that may be a result, if there is one.
        """
        figures = {"search/reward": objective.reward(evaluation), "search/score": evaluation.score}
        if evaluation.cost is not None:
            figures["search/latency"] = evaluation.cost.latency
        if best is not None:
            figures["search/best score"] = best.score
            figures["search/best reward"] = objective.reward(best)
            figures["search/best latency"] = best.required_cost.latency
        self.add(number, figures)

    def add_epoch(self, done: float, logs: Mapping[str, float]) -> None:
        """Write what an epoch of a training came to; nothing within one.

        Args:
            done: epochs done; 0 for the model as it came.
            logs: losses and accuracies by name, as `train` gives them to `on_progress`.
        """
        if "val_accuracy" in logs:
            names = {"loss": "training/loss", "val_accuracy": "training/accuracy"}
            self.add(round(done), {tag: logs[name] for name, tag in names.items() if name in logs})
