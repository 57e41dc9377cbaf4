"""Does a policy learnt on some networks prune one that it never saw? Leave one architecture out, four times.

    python tests/benchmarks/transfer.py --seeds 3 --evaluations 16

For each of four architectures (plain, residual, depthwise, concatenating) a policy is learnt on the other three and
replayed on it: as it is, which takes one evaluation, and adapted with as many evaluations as a search from scratch by
the same agent has. Beside these stands uniform pruning at the same budget. All share one base model and one evaluator
of each architecture, so that a plan has one score whoever proposes it; each searcher starts
from the same surrogate. The figure compared is the score within the latency budget, before fine-tuning.

Results go to `tests/benchmarks/results/transfer.json` as they come; a second call goes on where the first one stopped.
"""

import argparse
import copy
import json
import tempfile
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from agents import difference

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly
from autoprune.cost.multi_target import open_targets
from autoprune.data import load_data
from autoprune.pipeline.session import Session, open_session, pose_problem
from autoprune.reporting.run_folder import RunFolder
from autoprune.rl.multi_task import MultiTaskTrainer
from autoprune.rl.transfer import PolicyTransfer
from autoprune.searchers import SEARCHERS, BudgetedEvaluator, Problem
from autoprune.searchers.policy import training_record
from autoprune.settings import (
    AgentSettings,
    BudgetSettings,
    DataSettings,
    EvaluationSettings,
    LimitsSettings,
    ModelSettings,
    SearchSettings,
    TargetSettings,
)
from autoprune.training.base_model import base_model

RESULTS = Path(__file__).parent / "results" / "transfer.json"
FORMS = {
    "plain_cnn": "plain",
    "small_resnet": "residual",
    "small_mobilenet": "depthwise",
    "small_densenet": "concatenating",
}
WAYS = ("uniform", "replayed", "adapted", "scratch")


def main() -> None:
    arguments = parse()
    path = Path(arguments.out)
    results = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        worlds = {name: open_world(name, arguments, Path(scratch), stack) for name in FORMS}
        for seed in range(arguments.seeds):
            for left_out in FORMS:
                run = f"{left_out}/{seed}"
                if run not in results["runs"]:
                    results["runs"][run] = leave_out(left_out, worlds, seed, arguments)
                    path.write_text(json.dumps(results, indent=1) + "\n")
                    scores = {way: results["runs"][run][way][-1] for way in WAYS}
                    print(
                        run,
                        {way: None if score is None else round(score, 4) for way, score in scores.items()},
                        flush=True,
                    )
    results["arguments"] = {name: value for name, value in vars(arguments).items() if name != "out"}
    results["summary"] = summarise(results["runs"], arguments.seeds)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results["summary"]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=16, help="of each network learnt on, and of each search")
    parser.add_argument("--target", default="tpu_v5e")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--latency", type=float, default=0.65)
    parser.add_argument("--out", default=str(RESULTS))
    return parser.parse_args()


def settings_for(name: str, arguments: argparse.Namespace) -> SearchSettings:
    """Scores are likelihoods after a few steps of tuning: they move with every plan, where accuracy moves in steps."""
    return SearchSettings(
        model=ModelSettings(name),
        data=DataSettings("digits", reward_size=0.4),
        target=TargetSettings(arguments.target, arguments.batch_size),
        budget=BudgetSettings(arguments.latency, None),
        agent=AgentSettings("dyna_ppo"),
        evaluation=EvaluationSettings(recovery="tuning", score="likelihood"),
    )


def open_world(name: str, arguments: argparse.Namespace, scratch: Path, stack: ExitStack) -> tuple[Session, Problem]:
    """A network, trained, with its budget posed."""
    settings = settings_for(name, arguments)
    data = load_data(settings.data)
    costing = stack.enter_context(closing(open_targets(settings.target)))
    folder = RunFolder.make(scratch / name)
    session = stack.enter_context(open_session(base_model(settings, data), data, settings, folder, costing))
    return session, pose_problem(session, settings, name, surrogate=session.surrogate)


def budgeted(session: Session, problem: Problem, name: str, evaluations: int) -> BudgetedEvaluator:
    """For one searcher, whose predictions of cost begin with what building the problem has shown."""
    surrogate = copy.deepcopy(session.surrogate)
    return BudgetedEvaluator(
        session.evaluator, problem, name=name, limits=LimitsSettings(evaluations), surrogate=surrogate
    )


def leave_out(left_out: str, worlds: dict, seed: int, arguments: argparse.Namespace) -> dict:
    """Learn on the others, replay and adapt here, and search from scratch here."""
    tasks = [
        budgeted(session, problem, f"{left_out}/{seed}", arguments.evaluations)
        for name, (session, problem) in worlds.items()
        if name != left_out
    ]
    learned = MultiTaskTrainer(AgentSettings("dyna_ppo")).train(tasks, seed)
    settings = settings_for(left_out, arguments)
    session, problem = worlds[left_out]
    others = [name for name in FORMS if name != left_out]
    policy = replace(learned, record=training_record(settings, others, session.cost_model.target))
    found = {"dense": problem.dense.score}
    for way in WAYS:
        evaluator = budgeted(
            session, problem, f"{way}/{seed}", 1 if way in ("uniform", "replayed") else arguments.evaluations
        )
        if way in ("replayed", "adapted"):
            PolicyTransfer(problem, evaluator, policy, seed=seed).run()
        else:
            kind = SEARCHERS.get("rl" if way == "scratch" else way)
            kind.build(problem, evaluator, seed=seed, agent=AgentSettings("dyna_ppo")).run()
        course = evaluator.history.evaluations
        best = [problem.objective.best(course[:count]) for count in range(1, len(course) + 1)]
        found[way] = [None if plan is None else plan.score for plan in best]
        found[f"{way}_latency"] = course[0].cost.latency / problem.dense.cost.latency
        found[f"{way}_means"] = evaluator.history.sources[0]
    return found


def summarise(runs: dict, seeds: int) -> dict:
    """For each architecture and over all: mean scores, and the paired differences with their 95 % intervals."""
    rows = {}
    for name in [*FORMS, "all"]:
        keys = [f"{one}/{seed}" for one in (FORMS if name == "all" else [name]) for seed in range(seeds)]
        last = {way: np.array([runs[key][way][-1] or 0.0 for key in keys]) for way in WAYS}
        rows[name] = {
            "n": len(keys),
            "dense": float(np.mean([runs[key]["dense"] for key in keys])),
            **{way: float(values.mean()) for way, values in last.items()},
        }
        if len(keys) > 1:
            rows[name]["replayed_over_uniform"] = difference(last["replayed"] - last["uniform"])
            rows[name]["scratch_over_replayed"] = difference(last["scratch"] - last["replayed"])
            rows[name]["adapted_over_scratch"] = difference(last["adapted"] - last["scratch"])
    return rows


def table(rows: dict) -> str:
    lines = [
        f"| left out | dense | {' | '.join(WAYS)} | replayed over uniform | adapted over scratch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        told = " | ".join(f"{row[way]:.3f}" for way in ("dense", *WAYS))
        over, ahead = (
            "{:+.3f} ± {:.3f}".format(*row[key]) if key in row else "-"
            for key in ("replayed_over_uniform", "adapted_over_scratch")
        )
        named = f"{name} ({FORMS[name]})" if name in FORMS else name
        lines.append(f"| {named} | {told} | {over} | {ahead} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
