"""Which agent finds the best plan? SAC, TD3, DDPG, PPO, random and uniform on one problem, at equal evaluations.

    python tests/benchmarks/agents.py --seeds 5 --evaluations 60

All share one model, evaluator and journal, so that a plan has one score whoever proposes it. The figure compared is
the best accuracy on the reward split within the latency budget, one-shot: what a search maximises. Results go to
`tests/benchmarks/results/agents.json` as they come; a second call goes on where the first one stopped.

`+project` behind a name brings every plan onto the budget by guesses of its cost, `+screen` draws again what is
guessed to miss it: `--searchers random random+project td3 td3+project`. `dyna_ppo+alone` scores only what its policy
proposes, `dyna_ppo+unlearnt` has a policy that never learns, so that only the neighbours of good plans are left. Each
run's guesses are learnt from the uniform plans, as in a search, and from its own.
"""

import argparse
import copy
import json
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from scipy import stats

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly
from autoprune.cost import open_cost_model
from autoprune.cost.layers import layer_dependences
from autoprune.cost.surrogate import Surrogate
from autoprune.data import load_data
from autoprune.evaluation import Evaluator, Journal
from autoprune.planning import Planner
from autoprune.records import Target
from autoprune.rl import dyna
from autoprune.searchers import SEARCHERS, BudgetedEvaluator, build_problem
from autoprune.settings import (
    AgentSettings,
    BudgetSettings,
    DataSettings,
    EvaluationSettings,
    LimitsSettings,
    ModelSettings,
    SearchSettings,
)
from autoprune.training.base_model import base_model

RESULTS = Path(__file__).parent / "results" / "agents.json"


def main() -> None:
    arguments = parse()
    settings = SearchSettings(
        model=ModelSettings(arguments.model), data=DataSettings(arguments.data, dir=arguments.data_dir)
    )
    data = load_data(settings.data)
    model = base_model(settings, data)
    planner = Planner(model)
    target = Target(arguments.target, arguments.batch_size)
    path = Path(arguments.out)
    results = json.loads(path.read_text()) if path.exists() else {"arguments": problem_of(arguments), "runs": {}}
    with (
        tempfile.TemporaryDirectory() as scratch,
        closing(open_cost_model(target)) as cost_model,
        closing(Journal(Path(scratch, "journal.sqlite"), {})) as journal,
    ):
        how = EvaluationSettings(recovery=arguments.recovery, score=arguments.score)
        evaluator = Evaluator(model, planner, data, cost_model=cost_model, journal=journal, settings=how)
        taught = Surrogate(planner.space.sizes, layer_dependences(model, planner.parts))
        problem = build_problem(evaluator, BudgetSettings(latency=arguments.latency), surrogate=taught)
        before = BudgetedEvaluator(
            evaluator, problem, name="before", limits=LimitsSettings(arguments.evaluations), surrogate=taught
        )
        SEARCHERS.get("uniform").build(problem, before, seed=0, agent=AgentSettings()).run()
        for seed in range(arguments.seeds):
            for name in arguments.searchers:
                if f"{name}/{seed}" in results["runs"]:
                    continue
                kind, _, option = name.partition("+")
                budgeted = BudgetedEvaluator(
                    evaluator,
                    problem,
                    name=f"{name}/{seed}",
                    limits=LimitsSettings(
                        arguments.evaluations, project=option == "project", screen=option == "screen"
                    ),
                    surrogate=copy.deepcopy(taught),
                )
                searcher, agent = (kind, AgentSettings()) if kind in SEARCHERS else ("rl", AgentSettings(kind))
                with without(option):
                    SEARCHERS.get(searcher).build(problem, budgeted, seed=seed, agent=agent).run()
                results["runs"][f"{name}/{seed}"] = summary(budgeted)
                path.write_text(json.dumps(results, indent=1) + "\n")
                print(name, seed, results["runs"][f"{name}/{seed}"]["best"], flush=True)
    results["arguments"] = problem_of(arguments)
    results["summary"] = compare(results["runs"], arguments.searchers, arguments.seeds)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results["summary"]))


@contextmanager
def without(option: str) -> Iterator[None]:
    """The model-based agent without one of its halves."""
    halves = {"alone": ("GENERATIONS",), "unlearnt": ("FIRST_ROUNDS", "ROUNDS")}.get(option, ())
    kept = {name: getattr(dyna, name) for name in halves}
    for name in halves:
        setattr(dyna, name, 0)
    yield
    for name, value in kept.items():
        setattr(dyna, name, value)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searchers", nargs="+", default=["uniform", "random", "sac", "td3", "ddpg", "ppo"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--model", default="small_resnet")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--target", default="tpu_v5e")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--latency", type=float, default=0.6)
    parser.add_argument("--recovery", default="none", help="as evaluation.recovery of a search")
    parser.add_argument("--score", default="accuracy", help="as evaluation.score of a search")
    parser.add_argument("--out", default=str(RESULTS))
    return parser.parse_args()


def problem_of(arguments: argparse.Namespace) -> dict:
    """What was compared, without where the files lie."""
    return {name: value for name, value in vars(arguments).items() if name not in ("out", "data_dir")}


def summary(evaluator: BudgetedEvaluator) -> dict:
    """Best score within the budget, the same after each evaluation, how often it was met, and what found the best."""
    problem, course = evaluator.problem, evaluator.history.evaluations
    curve = [problem.objective.best(course[: count + 1]) for count in range(len(course))]
    scores = [best.score if best else 0.0 for best in curve]
    met = sum(1 for e in course if e.cost is not None and problem.budget.met_by(e.cost))
    return {
        "best": scores[-1],
        "curve": scores,
        "mean_over_evaluations": float(np.mean(scores)),
        "last_policy": course[-1].score,
        "met_budget": met / len(course),
        "means": evaluator.history.sources[course.index(curve[-1])] if curve[-1] else None,
        "costed": evaluator.costed,
        "evaluations": len(course),
    }


def compare(runs: dict, names: list[str], seeds: int) -> dict:
    """Mean and spread over seeds, and the paired differences to uniform and random with their 95 % intervals."""
    best = {name: np.array([runs[f"{name}/{seed}"]["best"] for seed in range(seeds)]) for name in names}
    rows = {}
    for name in names:
        rows[name] = {
            "best_mean": float(best[name].mean()),
            "best_std": float(best[name].std(ddof=1)) if seeds > 1 else 0.0,
            "curve_mean": float(np.mean([runs[f"{name}/{s}"]["mean_over_evaluations"] for s in range(seeds)])),
            "costed": float(np.mean([runs[f"{name}/{s}"]["costed"] for s in range(seeds)])),
            "met_budget": float(np.mean([runs[f"{name}/{s}"]["met_budget"] for s in range(seeds)])),
        }
        for other in ("uniform", "random"):
            if other in names and name not in ("uniform", other) and seeds > 1:
                rows[name][f"over_{other}"] = difference(best[name] - best[other])
    return rows


def difference(paired: np.ndarray) -> list[float]:
    """Mean of paired differences, and half the width of its 95 % interval by Student's t."""
    error = stats.t.ppf(0.975, len(paired) - 1) * paired.std(ddof=1) / np.sqrt(len(paired))
    return [float(paired.mean()), float(error)]


def table(rows: dict) -> str:
    lines = [
        "| searcher | best within budget | over uniform (95 %) | over random (95 %) | mean of best-so-far | compiled |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["best_mean"]):
        uniform, random = (
            "{:+.3f} ± {:.3f}".format(*row[key]) if key in row else "-" for key in ("over_uniform", "over_random")
        )
        lines.append(
            f"| {name} | {row['best_mean']:.3f} ± {row['best_std']:.3f} | {uniform} | {random} "
            f"| {row['curve_mean']:.3f} | {row['costed']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
