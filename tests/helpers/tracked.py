"""What MLflow and Weights & Biases have of a run folder, in their own words.

    python tracked.py FOLDER

prints it: a process of its own, since importing both changes warnings, logging and hooks of the one that does.
"""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path


def tracked_in(folder):
    """By tracker: the run, how it ended, its parameters, steps and values of each figure, final figures, files."""
    told = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(told.stdout)


def read_mlflow(folder):
    """The only run in the database of a run folder, by MLflow's client."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow/mlflow.db")
    (experiment,) = (one for one in client.search_experiments() if one.name != "Default")
    (run,) = client.search_runs([experiment.experiment_id])
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
    points = {key: [(metric.step, metric.value) for metric in history] for key, history in histories.items()}
    return {
        "run": run.info.run_id,
        "group": experiment.name,
        "name": run.info.run_name,
        "ended": run.info.status,
        "parameters": run.data.params,
        "tags": run.data.tags,
        "figures": {key: found for key, found in points.items() if not key.startswith("final/")},
        "final": {key: found[-1][1] for key, found in points.items() if key.startswith("final/")},
        "files": sorted(one.path for one in client.list_artifacts(run.info.run_id)),
    }


def read_wandb(folder):
    """What the offline files of a run folder say, one after the other, as `wandb sync` would upload them."""
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    found = {
        "runs": [],
        "group": [],
        "name": [],
        "ended": [],
        "parameters": {},
        "figures": {},
        "final": {},
        "files": [],
    }
    for record in (record for path in files for record in records_of(path)):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["runs"].append(record.run.run_id)
            found["group"].append(record.run.project)
            found["name"].append(record.run.display_name)
            found["parameters"] |= {one.key: json.loads(one.value_json) for one in record.run.config.update}
        elif kind == "history":
            row = {"/".join(one.nested_key) or one.key: json.loads(one.value_json) for one in record.history.item}
            (axis,) = (key for key in row if key.endswith("/step"))
            place = axis.removesuffix("step")
            for key in row.keys() - {axis}:
                if key.startswith(place):
                    found["figures"].setdefault(key, []).append((row[axis], row[key]))
        elif kind == "summary":
            values = {one.key: json.loads(one.value_json) for one in record.summary.update}
            found["final"] |= {key: value for key, value in values.items() if key.startswith("final/")}
        elif kind == "artifact":
            found["files"] += [entry.path for entry in record.artifact.manifest.contents]
        elif kind == "exit":
            found["ended"].append(record.exit.exit_code)
    return found


def records_of(path):
    """The records of a file of W&B: protocol buffers in a log of LevelDB, in blocks of 32 KiB behind seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:  # No header fits in: padding.
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # A whole record, or the last part of one.
            yield Record.FromString(parts)
            parts = b""


if __name__ == "__main__":
    place = Path(sys.argv[1])
    found = {"mlflow": read_mlflow} if (place / "mlflow").exists() else {}
    found |= {"wandb": read_wandb} if (place / "wandb").exists() else {}
    print(json.dumps({name: read(place) for name, read in found.items()}))
