"""Event files of TensorBoard, written as its own writer does, which would import TensorFlow, or PyTorch."""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from autoprune.reporting.tracking.tracker import Curve

BINS = 20  # Of histograms of shares.


class EventFiles:
    """Figures by step, each curve in an event file of its own.

    With the first figure of a curve the files of earlier processes in the same folder go: every curve is there once.

    Args:
        folder: what `tensorboard --logdir` is given.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[Path, IO[bytes]] = {}

    def add(
        self, curve: Curve, step: int, figures: Mapping[str, float], distributions: Mapping[str, Sequence[float]]
    ) -> None:
        """Write figures of a curve, and before the first its hyperparameters; shares become histograms."""
        # Imported here: it takes half a second.
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = self._folder / curve.kind / curve.name
        if folder not in self._files:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob("events.out.tfevents.*"):
                path.unlink()
            file = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
            self._files[folder] = open(folder / file, "wb")  # noqa: SIM115 - `close` closes it
            first = [Event(wall_time=time.time(), file_version="brain.Event:2")]
            if curve.hyperparameters:
                summary = Summary(value=[_describe_hyperparameters(curve.hyperparameters)])
                first.append(Event(wall_time=time.time(), summary=summary))
            for event in first:
                RecordWriter(self._files[folder]).write(event.SerializeToString())
        values = [Summary.Value(tag=f"{curve.kind}/{figure}", simple_value=value) for figure, value in figures.items()]
        for figure, shares in distributions.items():
            counts, ends = np.histogram(shares, BINS, (0, 1))
            values.append(
                Summary.Value(
                    tag=f"{curve.kind}/{figure}",
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
        writer = RecordWriter(self._files[folder])
        writer.write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)).SerializeToString())
        writer.flush()

    def close(self, curve: Curve) -> None:
        """Close the file of a curve, if there is one."""
        file = self._files.pop(self._folder / curve.kind / curve.name, None)
        if file is not None:
            file.close()


def _describe_hyperparameters(settings: Mapping[str, Any]) -> Any:
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
