"""Is what is read from damaged files what was written, or refused? Each kind of file, a hundred thousand times.

    python tests/benchmarks/fuzzing.py
    python tests/benchmarks/fuzzing.py --count 1000 --kinds plan policy

Files are small real ones (`tests/helpers/stored.py`): a plan, a policy, a checkpoint, a comparison, settings, what made
a run folder, a journal, a cost cache, a model, arrays, images. Damage is a bit, a byte, a cut, zeros, noise, or a piece
of the file itself in a wrong place; of JSON files there are also as many of another shape, as a stranger might write.
What is no error of autoprune's own, or is read as something else than was written, ends the run with what did it.

Results go to `tests/benchmarks/results/fuzzing.json` as they come; kinds that are there already with as many are not
done again.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly

# isort: split
from helpers.stored import KINDS, alter, damage, read_many

RESULTS = Path(__file__).parent / "results/fuzzing.json"
PORTION = 500  # Inputs from one seed.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="inputs of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    done = json.loads(args.out.read_text())["kinds"] if args.out.exists() else {}
    for name in args.kinds:
        for change in (damage, alter) if KINDS[name].is_json else (damage,):
            row = f"{name}: {change.__name__}"
            known = done.get(row, {"inputs": 0, "seconds": 0.0, "seen": {}})
            while known["inputs"] < args.count:
                start = time.perf_counter()
                with tempfile.TemporaryDirectory() as folder:
                    seen = read_many(name, Path(folder), PORTION, change, seed=known["inputs"] // PORTION)
                known["inputs"] += PORTION
                known["seconds"] = round(known["seconds"] + time.perf_counter() - start, 1)
                for outcome, times in seen.items():
                    known["seen"][outcome] = known["seen"].get(outcome, 0) + times
                done[row] = known
                args.out.write_text(
                    json.dumps({"command": "python tests/benchmarks/fuzzing.py", "kinds": done}, indent=1) + "\n"
                )
            print(f"{row}: {known['inputs']:,} in {known['seconds']:.0f} s: {known['seen']}", flush=True)


if __name__ == "__main__":
    main()
