"""How far one step of the environment goes through the code.

    python tests/benchmarks/walk.py

The last `env.step` of an episode on `plain_cnn`, in which the plan is pruned, scored, costed and put back, is traced:
files of autoprune that run, calls from one package to another, and calls of each function that turns keep ratios
into widths or back, with the package that called it. The dense model is evaluated before, so that nothing is built or
traced for the first time. Results go to `tests/benchmarks/results/walk.json`.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium
import numpy as np

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly
from autoprune.cost import open_cost_model
from autoprune.data import load_data
from autoprune.envs import ENV_ID
from autoprune.envs.episode import EpisodeContext
from autoprune.evaluation import Evaluator, Journal
from autoprune.models import zoo
from autoprune.planning import Planner
from autoprune.records import Target
from autoprune.searchers import BudgetedEvaluator, build_problem
from autoprune.settings import BudgetSettings, DataSettings, LimitsSettings

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results" / "walk.json"
# What turns ratios into option indices and widths, or back.
CONVERSIONS = {"nearest", "snap", "at_most", "keep_ratios", "ratio_around", "offset_of", "offsets", "around"}


class Walk:
    """Follows calls within autoprune, on the thread that it is started on."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.calls = self.switches = 0
        self.conversions: Counter[str] = Counter()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        here = place_of(frame)
        if event != "call" or here is None:
            return
        caller = frame.f_back
        while caller is not None and place_of(caller) is None:
            caller = caller.f_back
        there = None if caller is None else place_of(caller)
        self.files.add(here)
        self.calls += 1
        self.switches += there is not None and package_of(there) != package_of(here)
        if frame.f_code.co_name in CONVERSIONS:
            self.conversions[f"{frame.f_code.co_name} for {'outside' if there is None else package_of(there)}"] += 1


def place_of(frame: FrameType) -> str | None:
    """The file of a frame within the project's packages; None for anything else."""
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(ROOT) or "tests" in path.relative_to(ROOT).parts:
        return None
    return str(path.relative_to(ROOT))


def package_of(place: str) -> str:
    """Folder of a file."""
    return str(Path(place).parent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="tpu_v5e")
    parser.add_argument("--out", default=str(RESULTS))
    arguments = parser.parse_args()
    data = load_data(DataSettings())
    model = zoo.build("plain_cnn", data.train.images.shape[1:], data.classes)
    with (
        tempfile.TemporaryDirectory() as scratch,
        closing(open_cost_model(Target(arguments.target, 128), cache="off")) as cost_model,
        closing(Journal(Path(scratch, "journal.sqlite"), {})) as journal,
    ):
        evaluator = Evaluator(model, Planner(model), data, cost_model=cost_model, journal=journal)
        problem = build_problem(evaluator, BudgetSettings(latency=0.7))
        budgeted = BudgetedEvaluator(evaluator, problem, name="walk", limits=LimitsSettings(2))
        env = gymnasium.make(
            ENV_ID,
            context=EpisodeContext.of(problem),
            objective=problem.objective,
            evaluate_many=budgeted.evaluate_many,
        )
        walk = Walk()
        for episode in range(2):  # The first traces TensorFlow's functions for this plan's shapes.
            env.reset()
            for step in range(len(problem.space)):
                last = step == len(problem.space) - 1
                if episode and last:
                    sys.setprofile(walk)
                env.step(np.full(1, -0.5 - 0.2 * episode, np.float32))
                sys.setprofile(None)
    results = {
        "files": len(walk.files),
        "package_switches": walk.switches,
        "calls": walk.calls,
        "conversions": dict(sorted(walk.conversions.items())),
        "which_files": sorted(walk.files),
    }
    Path(arguments.out).write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
