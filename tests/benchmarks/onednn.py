"""What TensorFlow's oneDNN kernels bring and break when residual networks of odd widths are trained on a CPU.

    python tests/benchmarks/onednn.py --networks 12

Trains random residual networks, whose shortcuts are 1x1 convolutions of stride 2, in processes of their own: with
oneDNN off, with oneDNN on, and with oneDNN on and `autoprune.models.safe_convolutions`. Counts processes that die,
and compares images per second, network by network. Results go to `tests/benchmarks/results/onednn.json`.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "onednn.json"
MODES = {"off": ("0", "plain"), "on": ("1", "plain"), "on, safe": ("1", "safe")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--out", default=str(RESULTS))
    parser.add_argument("--train", nargs=2, metavar=("NETWORK", "MODE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        print(train_one(int(arguments.train[0]), safe=arguments.train[1] == "safe"))
        return
    runs = []
    for network in range(arguments.networks):
        for mode in MODES:
            runs.append({"network": network, "mode": mode, **run(network, mode)})
            print(runs[-1], flush=True)
    results = {"networks": arguments.networks, "summary": summarise(runs), "runs": runs}
    Path(arguments.out).write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results["summary"], indent=1))


def run(network: int, mode: str) -> dict:
    """Train one network in a process of its own; glibc fills what is freed, so that its later use is found out."""
    enabled, convolutions = MODES[mode]
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": enabled, "MALLOC_PERTURB_": "165"}
    command = [sys.executable, __file__, "--train", str(network), convolutions]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip()]
        return {"died": True, "exit": done.returncode, "words": words[-1][:200] if words else ""}
    return {"died": False, "images_per_second": float(done.stdout.split()[-1])}


def train_one(seed: int, *, safe: bool) -> float:
    """Images per second over three epochs, after one to warm up."""
    import keras
    from keras import layers

    from autoprune import quiet  # noqa: F401 - imports TensorFlow quietly
    from autoprune.models.safe_convolutions import safe_convolutions

    generator = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    size, batch = int(generator.choice([14, 28, 32])), int(generator.choice([16, 32, 64]))
    image = keras.Input((size, size, 3))
    x = layers.Conv2D(int(generator.integers(4, 70)), 3, padding="same")(image)
    for width in generator.integers(4, 70, 3).tolist():
        shortcut = layers.BatchNormalization()(layers.Conv2D(width, 1, strides=2)(x))
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(width, 3, strides=2, padding="same")(x)))
        x = layers.BatchNormalization()(layers.Conv2D(width, 3, padding="same")(x))
        x = layers.ReLU()(layers.Add()([x, shortcut]))
    model = keras.Model(image, layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x)))
    count = batch * 12 + 7
    images = generator.random((count, size, size, 3)).astype("float32")
    labels = generator.integers(0, 10, count)
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    with safe_convolutions(model) if safe else contextlib.nullcontext():
        model.fit(images, labels, batch_size=batch, verbose=0)
        start = time.perf_counter()
        model.fit(images, labels, batch_size=batch, epochs=3, verbose=0)
        return 3 * count / (time.perf_counter() - start)


def summarise(runs: list[dict]) -> dict:
    """Deaths per mode, and speed over the mode `off` for networks that both survived."""
    base = {run["network"]: run["images_per_second"] for run in runs if run["mode"] == "off" and not run["died"]}
    summary = {}
    for mode in MODES:
        mine = [run for run in runs if run["mode"] == mode]
        alive = [run for run in mine if not run["died"] and run["network"] in base]
        ratios = [run["images_per_second"] / base[run["network"]] for run in alive]
        summary[mode] = {
            "processes": len(mine),
            "died": sum(run["died"] for run in mine),
            "speed_over_off_median": float(np.median(ratios)) if ratios else None,
        }
    return summary


if __name__ == "__main__":
    main()
