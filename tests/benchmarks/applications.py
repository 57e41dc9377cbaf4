"""Does it work on my model? Every model of `keras.applications`, pruned, compared, saved, trained and put back.

    python tests/benchmarks/applications.py

Each is built at its default width, with 1,000 classes and random weights, and pruned in place: half of every group's
channels go and, at once, half of the branches. The table tells its groups, those that cannot be pruned and why, its
branches and how many of them went, parameters before and after, and the largest difference between its logits and those
of the original with the removed channels and the contributions of the branches zeroed, relative to the largest. The
pruned model must then load from its file with the same outputs, take a training step, and be restored to the last bit.
Results go to `tests/benchmarks/results/applications.json` as they come. `--models ResNet50 VGG16` takes only some.
"""

import argparse
import gc
import json
import sys
import time
from pathlib import Path

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly

sys.path.insert(0, str(Path(__file__).parents[1]))

import keras

from helpers.applications import constructors, prove

RESULTS = Path(__file__).parent / "results" / "applications.json"
TOLERANCE = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=constructors(), choices=constructors(), metavar="NAME")
    parser.add_argument("--out", default=str(RESULTS))
    arguments = parser.parse_args()
    rows = []
    for number, name in enumerate(arguments.models, 1):
        start = time.perf_counter()
        rows.append(prove(name))
        gc.collect()
        print(f"{number}/{len(arguments.models)} {name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        result = {"keras": keras.__version__, "backend": keras.backend.backend(), "rows": rows}
        Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")
    print(table(rows))
    if not all(passed(row) for row in rows):
        sys.exit("not every model passed")


def passed(row: dict) -> bool:
    equal = row["max_difference"] < TOLERANCE < row["change_by_pruning"]
    return equal and row["saved_equals"] and row["loss_is_finite"] and row["restored_equals"]


def table(rows: list[dict]) -> str:
    """The rows as Markdown."""
    heads = ("model", "groups", "frozen", "branches", "dropped", "parameters", "pruned", "largest difference")
    heads += ("loads equal", "trains", "restored")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        frozen = "; ".join(f"{count}: {reason}" for reason, count in row["frozen"].items()) or "0"
        checks = (row["saved_equals"], row["loss_is_finite"], row["restored_equals"])
        cells = [row["model"], row["groups"], frozen, row["branches"], row["dropped"]]
        cells += [f"{row[count]:,}" for count in ("parameters", "parameters_pruned")]
        cells += [f"{row['max_difference']:.0e}", *("yes" if check else "NO" for check in checks)]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
