"""Curves for TensorBoard, whatever searches: of every searcher by evaluation, of every training by epoch."""

import math
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from autoprune.records import Evaluation
from autoprune.searchers import Objective

_BINS = 20


class Curves:
    """Figures by step, in an event file of their own.

    Whoever resumes tells everything from the beginning again, so that with the first figure the files of earlier
    processes in the same folder go: every curve is there once. The records are written as TensorBoard's own writer
    does, which would import TensorFlow, or PyTorch.

    Args:
        tensorboard: folder of the run's event files.
        kind: `search` or `training`.
        name: of the searcher or the training; one of two names that differ.
        settings: what TensorBoard lists as hyperparameters, values by dotted name.
    """

    def __init__(self, tensorboard: Path, kind: str, name: str, settings: Mapping[str, Any] | None = None) -> None:
        self.folder = tensorboard / kind / re.sub(r"[/\\:]", "-", name)
        self._settings = settings or {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "Curves":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(
        self, step: int, figures: Mapping[str, float], distributions: Mapping[str, Sequence[float]] | None = None
    ) -> None:
        """Write figures by tag, at once: TensorBoard may be looking. What is no finite number is left out.

        Args:
            step: number of the evaluation or the epoch.
            figures: scalars by tag.
            distributions: shares from 0 to 1 by tag, which become histograms.
        """
        # Imported here: it takes half a second.
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.glob("events.out.tfevents.*"):
                path.unlink()
            name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
            self._file = open(self.folder / name, "wb")  # noqa: SIM115 - `close` closes it
            first = Event(wall_time=time.time(), file_version="brain.Event:2")
            RecordWriter(self._file).write(first.SerializeToString())
            if self._settings:
                start = Event(wall_time=time.time(), summary=Summary(value=[_hyperparameters(self._settings)]))
                RecordWriter(self._file).write(start.SerializeToString())
        writer = RecordWriter(self._file)
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items() if math.isfinite(value)]
        for tag, shares in (distributions or {}).items():
            counts, ends = np.histogram(shares, _BINS, (0, 1))
            values.append(
                Summary.Value(
                    tag=tag,
                    histo=HistogramProto(
                        min=min(shares),
                        max=max(shares),
                        num=len(shares),
                        sum=sum(shares),
                        sum_squares=sum(share**2 for share in shares),
                        bucket_limit=ends[1:].tolist(),
                        bucket=counts.tolist(),
                    ),
                )
            )
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
        kept = list(evaluation.keep_ratios.values())
        if best is not None:
            figures["search/best score"] = best.score
            figures["search/best reward"] = objective.reward(best)
            figures["search/best latency"] = best.required_cost.latency
        self.add(number, figures, {"search/keep ratios": kept} if kept else None)

    def add_epoch(self, done: float, logs: Mapping[str, float]) -> None:
        """Write what an epoch of a training came to; nothing within one.

        Args:
            done: epochs done; 0 for the model as it came.
            logs: losses and accuracies by name, as `train` gives them to `on_progress`.
        """
        if "val_accuracy" in logs:
            names = {"loss": "training/loss", "val_accuracy": "training/accuracy"}
            self.add(round(done), {tag: logs[name] for name, tag in names.items() if name in logs})


def _hyperparameters(settings: Mapping[str, Any]) -> Any:
    """What the plugin of TensorBoard for hyperparameters reads, made as it makes it, which would import TensorFlow."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    start = SessionStartInfo(start_time_secs=time.time())
    for name, value in settings.items():
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[name].number_value = value
        else:
            start.hparams[name].string_value = "" if value is None else str(value)
    data = HParamsPluginData(version=0, session_start_info=start).SerializeToString()
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="hparams", content=data))
    return Summary.Value(tag="_hparams_/session_start_info", metadata=metadata)
