"""Writes every table of results from the JSON files in `results` to `results/RESULTS.md`, and two to the first README.

    python tests/benchmarks/tables.py

Nothing is measured. A test checks that the file is what this script makes. `FILES` says which command made which JSON.
"""

import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
OUT = FOLDER / "RESULTS.md"
README = Path(__file__).parents[2] / "README.md"
HEAD = """\
# Results

All tables of the benchmarks, made from the JSON files in this folder by `python tests/benchmarks/tables.py`. Each names
the command that made its JSON. What they mean, and how long they took, is in [the benchmarks' README](../README.md).

Intervals behind `±` are 95 % unless a table says otherwise; `*` marks those that exclude zero (or one, of ratios).
"""
Json = Mapping[str, Any]

DATA = "data=fashion_mnist data.reward_size=5000"
SMALL = f"{DATA} data.train_size=20000"
HUNDRED_STEPS = "evaluation.tuning_steps=100 evaluation.recovery_images=6400 evaluation.score=accuracy"


def recipe(epochs: int) -> str:
    """The options of training that published comparisons share."""
    return (
        f"training.epochs=8 training.batch_size=128 training.fine_tune_epochs={epochs} constraints.multiple_of=4 "
        "controls=[] uniform_curve=3"
    )


def comparison_command(
    model: str, target: str, share: str, searchers: str, tuning: int, data: str = SMALL, batch: int = 128
) -> str:
    """A published comparison with twenty evaluations of each search and three seeds."""
    return (
        f"python -m autoprune.compare model={model} {data} target={target} target.batch_size={batch} "
        f"latencies=[{share}] seeds=[0,1,2] searchers=[{searchers}] search.evaluations=20 {recipe(tuning)} "
        f"{HUNDRED_STEPS}"
    )


ALL = "uniform,uniform_skip,random,greedy,evolution,rl"
MOST = "uniform,uniform_skip,greedy,evolution,rl"
VGG = "vgg16 model.width=0.25"
LESS_CURVE = ("uniform_curve=3", "uniform_curve=2")
# The JSON of each comparison: what was compared, and the command.
COMPARISONS = {
    "digits_v5e_40": (
        "Small residual network on digits, TPU v5e, 40 %",
        "python -m autoprune.compare latencies=[0.4] seeds=[0,1,2,3,4] "
        "searchers=[uniform,uniform_depth_width,random,greedy,evolution,exact,rl] controls=[] uniform_curve=2",
    ),
    "fashion_small": (
        "Plain network of a quarter of the width, TPU v5e, 70 %",
        "python -m autoprune.compare experiment=fashion_small",
    ),
    "fashion_small_8": (
        "Plain network of half the width, TPU v5e, 60 %, eight seeds",
        "python -m autoprune.compare experiment=fashion_small model.width=0.5 latencies=[0.6] "
        "seeds=[0,1,2,3,4,5,6,7] controls=[]",
    ),
    "fashion_small_60": (
        "Plain network of half the width, TPU v5e, 60 %, three seeds with controls",
        "python -m autoprune.compare experiment=fashion_small model.width=0.5 latencies=[0.6] seeds=[0,1,2]",
    ),
    "resnet20_v3_45": (
        "ResNet-20 of half the width, TPU v3, 45 %",
        comparison_command("resnet20 model.width=0.5", "tpu_v3", "0.45", "uniform_skip,greedy,evolution,rl", 3),
    ),
    "resnet20_v3_45_finalists": (
        "ResNet-20 of half the width, TPU v3, 45 %: an earlier run, with two finalists and earlier code",
        comparison_command("resnet20 model.width=0.5", "tpu_v3", "0.45", "uniform_skip,greedy,evolution,rl:dyna_ppo", 3)
        + " search.finalists=2",
    ),
    "resnet20_v3_25": ("ResNet-20, TPU v3, 25 %", comparison_command("resnet20", "tpu_v3", "0.25", ALL, 3)),
    "resnet20_v3_60": ("ResNet-20, TPU v3, 60 %", comparison_command("resnet20", "tpu_v3", "0.6", ALL, 3)),
    "resnet20_v5e_45": ("ResNet-20, TPU v5e, 45 %", comparison_command("resnet20", "tpu_v5e", "0.45", MOST, 3)),
    "vgg16_v3_40": (
        "VGG-16 of a quarter of the width, TPU v3, 40 %",
        comparison_command(VGG, "tpu_v3", "0.4", ALL, 3),
    ),
    "vgg16_v3_40_30": (
        "VGG-16 of a quarter of the width, TPU v3: the same run at 30 % too",
        "python -m autoprune.compare resume=FOLDER latencies=[0.4,0.3]",
    ),
    "vgg16_v3_finalists": (
        "VGG-16 of a quarter of the width, TPU v3, 40 and 30 %: an earlier run, with two finalists and earlier code",
        comparison_command(VGG, "tpu_v3", "0.4,0.3", f"{ALL}:dyna_ppo", 3) + " search.finalists=2",
    ),
    "vgg16_v3_30": (
        "VGG-16 of a quarter of the width, TPU v3, 30 %, 55,000 images: earlier code",
        f"python -m autoprune.compare model={VGG} {DATA} target=tpu_v3 target.batch_size=128 latencies=[0.3] "
        f"seeds=[0,1,2] searchers=[{ALL}:dyna_ppo] controls=[dense] uniform_curve=4 training.epochs=8 "
        "training.batch_size=128 training.fine_tune_epochs=2 constraints.multiple_of=4 search.evaluations=30",
    ),
    "vgg16_v3_batch8_85": (
        "VGG-16 of a quarter of the width, TPU v3 at batch 8, 85 %",
        comparison_command(VGG, "tpu_v3", "0.85", MOST, 2, batch=8).replace(*LESS_CURVE),
    ),
    "mobilenet_v2_v3_60": (
        "MobileNetV2 of half the width, TPU v3, 60 %",
        "python -m autoprune.compare model=mobilenet_v2 model.width=0.5 data=fashion_mnist data.reward_size=2500 "
        "data.train_size=10000 target=tpu_v3 target.batch_size=128 latencies=[0.6] seeds=[0,1,2] "
        f"searchers=[{MOST}] search.evaluations=15 {recipe(2)} evaluation.tuning_steps=50 "
        "evaluation.recovery_images=3200 evaluation.score=accuracy",
    ),
}


def main() -> None:
    OUT.write_text(render())
    README.write_text(fill(README.read_text()))
    print(f"{OUT}\n{README}")


def fill(text: str) -> str:
    """A text with a table between its marks for each of those that it has."""
    for name, make in {"first command": first_command, "results": summary}.items():
        begin, end = f"<!-- {name}: made by tests/benchmarks/tables.py -->\n", f"<!-- end of {name} -->\n"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{make()}\n\n{end}{rest.partition(end)[2]}"
    return text


def first_command() -> str:
    """The searchers on the problem of the first command, the best first, over seeds."""
    record = read("compare_digits_v5e_40.json")
    over = {one["searcher"]: one["interval"] for one in record["differences"] if one["reference"] == "hand-set uniform"}
    rows = [
        [
            f"`{row['searcher']}`",
            mean_percent(row["accuracy"]),
            percent(row["latency"]),
            "-" if row["searcher"] not in over else points(over[row["searcher"]]),
        ]
        for row in sorted(record["rows"], key=lambda row: -row["accuracy"]["mean"])
        if row["searcher"] != "uniform"
    ]
    return table(["searcher", "test accuracy", "latency", "over the best plan set by hand (points)"], rows)


def summary() -> str:
    """The table of the first README: the agent over all comparisons, with means as published and fine-tuned longer."""
    columns = ("hand-set uniform", "greedy", "evolution", "random")
    rows = []
    for cell in read("cells.json")["cells"]:
        agent = cell["differences"]["rl"]
        rows.append([cell["name"], *(points(agent.get(name)) for name in columns), ratio(cell["latency"]["rl"])])
    for file, name in (("cells.json", "mean"), ("cells_longer.json", "mean, seven cells fine-tuned longer")):
        agent = read(file)["over_cells"]["rl"]
        rows.append([name, *(points(agent["differences"][key]) for key in columns), ratio(agent["latency"])])
    return table(["network, target, budget", *(f"over {name}" for name in columns), "uniform's latency"], rows)


def render() -> str:
    """The whole of `RESULTS.md`."""
    sections = [*_over_cells(), *_comparisons(), *_longer(), *_single()]
    contents = "\n".join(f"- [{title}](#{anchor(title)})" for title, *_ in sections)
    parts = [HEAD, f"## Contents\n\n{contents}\n"]
    for title, file, command, body in sections:
        commands = "\n".join(f"    {line}" for line in command.splitlines())
        parts.append(f"## {title}\n\n{body}\n\n[{file}]({file}), made by\n\n{commands}\n")
    return "\n".join(parts)


Section = tuple[str, str, str, str]


def anchor(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def read(name: str) -> Any:
    """One of the JSON files."""
    return json.loads((FOLDER / name).read_text())


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


# ------------------------------------------------------------------ cells of tables


def percent(share: float, digits: int = 1) -> str:
    """A share, as `12.3 %`."""
    return f"{100 * share:.{digits}f} %"


def mean_percent(interval: Json) -> str:
    """A share with its interval."""
    half = "" if interval["low"] is None else f" ± {50 * (interval['high'] - interval['low']):.2f}"
    return f"{100 * interval['mean']:.2f}{half} %"


def points(interval: Json | None, *, counts: bool = False) -> str:
    """Percentage points with their interval, and over how many cells it is ahead and behind beyond chance."""
    if interval is None:
        return "-"
    half = "" if interval["low"] is None else f" ± {50 * (interval['high'] - interval['low']):.2f}"
    tail = f" (n = {interval['n']}: +{interval['ahead']}, -{interval['behind']})" if counts else ""
    return f"{100 * interval['mean'] + 0.0:+.2f}{half}{star(interval, 0)}{tail}"


def ratio(entry: Json | None) -> str:
    """A ratio with its interval."""
    if entry is None:
        return "-"
    ends = "" if entry["low"] is None else f" ({entry['low']:.2f} to {entry['high']:.2f})"
    return f"{entry.get('bound', '')}{entry['mean']:.2f}{ends}{star(entry, 1)}"


def star(interval: Json, none: float) -> str:
    """`*` where an interval excludes what means no difference."""
    if interval["low"] is None or interval["low"] == interval["high"]:
        return ""
    return "*" if interval["low"] > none or interval["high"] < none else ""


def signed(pair: Sequence[float] | None) -> str:
    """A mean difference and half its interval."""
    return "-" if pair is None else f"{pair[0]:+.3f} ± {pair[1]:.3f}"


# ------------------------------------------------------------------ comparisons


def _over_cells() -> list[Section]:
    """The agent over all comparisons, as published and with plans fine-tuned longer."""
    columns = ("hand-set uniform", "greedy", "evolution", "random")
    sections = []
    for file, option, title in (
        ("cells.json", "", "All comparisons together"),
        ("cells_longer.json", " --longer", "All comparisons together, seven of them fine-tuned longer"),
    ):
        found = read(file)
        rows = []
        for cell in found["cells"]:
            agent, score = cell["differences"].get("rl", {}), cell["score"]
            told = "-" if score["spearman"] is None else f"{score['spearman']:.2f} ({score['plans']})"
            differences = [points(agent.get(name)) for name in columns]
            rows.append([cell["name"], *differences, ratio(cell["latency"].get("rl")), told])
        means = found["over_cells"]
        other = ("hand-set uniform", "rl", "greedy", "evolution", "random")
        over = [
            [name, *(points(row["differences"].get(key), counts=True) for key in other), ratio(row["latency"])]
            for name, row in means.items()
        ]
        body = "\n\n".join(
            [
                "The agent's test accuracy after fine-tuning less that of each other (points); what latency uniform "
                "pruning needs for the agent's accuracy, as a multiple of the agent's; and Spearman's correlation of "
                "score and test accuracy over the plans that searchers ended with (number of plans).",
                table(["cell", *(f"over {name}" for name in columns), "uniform's latency", "score"], rows),
                "The mean over the cells, and in how many of them it is ahead or behind beyond chance:",
                table(["searcher", *(f"over {name}" for name in other), "uniform's latency"], over),
            ]
        )
        sections.append((title, file, f"python tests/benchmarks/cells.py{option}", body))
    return sections


def _comparisons() -> list[Section]:
    return [
        (title, f"compare_{name}.json", command, comparison(read(f"compare_{name}.json")))
        for name, (title, command) in COMPARISONS.items()
    ]


def comparison(record: Json) -> str:
    """The searchers of one comparison, budget by budget, best first; then its controls."""
    dense = next(plan["test_accuracy"] for plan in record["tested"].values() if plan["recipe"] == "as it is")
    lines = [f"Dense network: {percent(dense, 2)}."]
    if record["dense_tuned"]:
        lines[0] += f" Fine-tuned like the plans: {mean_percent(record['dense_tuned'])}."
    rows = sorted(record["rows"], key=lambda row: (-float(row["budget"]), -row["accuracy"]["mean"]))
    agent = next(row["searcher"] for row in rows if row["searcher"].startswith("rl"))
    ratios = {(one["searcher"], one["budget"]): one["interval"] | {"bound": one["bound"]} for one in record["ratios"]}

    def difference(searcher: str, reference: str, budget: str) -> Json | None:
        for one in record["differences"]:
            if (one["searcher"], one["reference"], one["budget"]) == (searcher, reference, budget):
                return one["interval"]
        return None

    def agent_over(searcher: str, budget: str) -> str:
        found = difference(agent, searcher, budget)
        turned = difference(searcher, agent, budget)
        if found is None and turned is not None:
            low, high = (None if turned[end] is None else -turned[end] for end in ("high", "low"))
            found = {"mean": -turned["mean"], "low": low, "high": high}
        return points(found)

    heads = ["budget", "searcher", "test accuracy", "latency", "score", "over hand-set uniform as fast (points)"]
    heads += ["the agent over it (points)", "uniform's latency at equal accuracy", "speed-up kept"]
    cells = []
    for row in rows:
        searcher, budget = row["searcher"], row["budget"]
        kept = row["speed_up_kept"]["mean"] if row["speed_up_kept"] else None
        cells.append(
            [
                percent(float(budget), 0),
                searcher,
                mean_percent(row["accuracy"]),
                percent(row["latency"]),
                f"{row['score']:.3f}",
                points(difference(searcher, "hand-set uniform", budget)),
                "-" if searcher == agent else agent_over(searcher, budget),
                ratio(ratios.get((searcher, budget))),
                "-" if kept is None else percent(kept, 0),
            ]
        )
    lines.append(table(heads, cells))
    controls = [
        [one["searcher"], percent(float(one["budget"]), 0), one["reference"], points(one["interval"])]
        for one in record["differences"]
        if one["reference"] in ("from scratch", "dense, tuned", "its highest score") and one["budget"] != "all"
    ]
    if controls:
        lines.append(table(["searcher", "budget", "control", "over it (points)"], controls))
    return "\n\n".join(lines)


def _longer() -> list[Section]:
    sections = []
    for path in sorted(FOLDER.glob("longer_*.json")):
        name = path.stem.removeprefix("longer_")
        base = "" if name.startswith("mobilenet") else " --base-model RUN/dense.keras"
        command = (
            f"KERAS_BACKEND=torch python tests/benchmarks/longer.py compare_{name}.json{base} --base-epochs 8 "
            "--epochs 3 --batch-size 512 --learning-rate 0.002 --augmentation none --processes 14"
        )
        title = f"Fine-tuned longer: {COMPARISONS[name][0]}"
        sections.append((title, path.name, command, comparison(read(path.name))))
    return sections


# ------------------------------------------------------------------ single benchmarks


def _single() -> list[Section]:
    make = [
        ("The agent beside other searchers", "agents.json", _AGENTS, agents),
        ("Regret where the best plan is known", "channel_bench.json", _CHANNELS, channel_bench),
        ("Latencies of its plans", "channel_bench_latency.json", _CHANNEL_LATENCIES, channel_bench_latency),
        ("Where latency can be won", "floors.json", "python tests/benchmarks/floors.py", floors),
        ("What gates cost and are worth", "gates.json", "python tests/benchmarks/gates.py", gates),
        ("A learned policy on another model", "transfer.json", _TRANSFER, transfer),
        ("What a score before fine-tuning tells", "fidelity.json", "python tests/benchmarks/fidelity.py", fidelity),
        ("How much of a score is chance", "score_noise.json", _NOISE, score_noise),
        (
            "What feature distillation is worth",
            "feature_distilling.json",
            "python tests/benchmarks/feature_distilling.py",
            feature_distilling,
        ),
        ("Criterion, scope and schedule", "methods_small_resnet_digits.json", _METHODS, methods),
        (
            "Criterion, scope and schedule: a plain network, digits",
            "methods_plain_cnn_digits.json",
            _METHODS_PLAIN,
            methods,
        ),
        ("Criterion, scope and schedule: VGG-16, CIFAR-10", "methods_vgg16_cifar10.json", _METHODS_VGG, methods),
        (
            "Criterion, scope and schedule: ResNet-20, CIFAR-10",
            "methods_resnet20_cifar10.json",
            _METHODS_RESNET,
            methods,
        ),
        ("Experts that a task needs", "experts.json", "python tests/benchmarks/experts.py", experts),
        ("Plain SGD beside RepSGD", "rep_optimizer_digits.json", _REP_OPTIMIZER, rep_optimizer),
        ("How well costs are predicted", "surrogate.json", "python tests/benchmarks/surrogate.py", surrogate),
        ("How well costs are predicted where branches go", "surrogate_drops.json", _DROPS, surrogate_drops),
        (
            "Compilations that find a uniform plan",
            "bracketing.json",
            "python tests/benchmarks/bracketing.py",
            bracketing,
        ),
        (
            "An iteration of the measuring loop",
            "measuring_loop.json",
            "python tests/benchmarks/measuring_loop.py",
            measuring_loop,
        ),
        ("What makes a search quick", "search_speed.json", _SPEED, search_speed),
        ("Plans scored side by side", "workers.json", "python tests/benchmarks/workers.py", workers),
        ("Faults survived", "faults.json", _FAULTS, faults),
        ("Damaged files", "fuzzing.json", "python tests/benchmarks/fuzzing.py", fuzzing),
        ("A thousand plans in one process", "endurance.json", "python tests/benchmarks/endurance.py", endurance),
        ("Where the time of a search goes", "breakdown.json", _BREAKDOWN, breakdown),
        ("How far a step of the environment goes", "walk.json", "python tests/benchmarks/walk.py", walk),
        ("Passes traced once for all widths", "traced.json", _TRACED, traced),
        ("Surgery beside Torch-Pruning", "surgery.json", _SURGERY, surgery),
        ("Surgery where branches go", "episodes.json", "python tests/benchmarks/episodes.py", episodes),
        (
            "All models of keras.applications",
            "applications.json",
            "python tests/benchmarks/applications.py",
            applications,
        ),
        ("oneDNN", "onednn.json", "python tests/benchmarks/onednn.py --networks 12", onednn),
        ("oneDNN without AVX-512", "onednn_without_avx512.json", _ONEDNN, onednn),
    ]
    return [(title, file, command, describe(read(file))) for title, file, command, describe in make]


_AGENTS = (
    "python tests/benchmarks/agents.py --searchers uniform random greedy evolution td3 dyna_ppo dyna_ppo+alone "
    "dyna_ppo+unlearnt --seeds 3 --evaluations 30 --recovery tuning --score likelihood"
)
_CHANNELS = "python tests/benchmarks/channel_bench.py --data resnet.json --gaps 12 --budgets 0.4 --evaluations 30 100"
_CHANNEL_LATENCIES = "python tests/benchmarks/channel_bench.py --compile 65"
_TRANSFER = "python tests/benchmarks/transfer.py --seeds 3 --evaluations 10"
_NOISE = (
    "python tests/benchmarks/score_noise.py --comparison compare_resnet20_v3_45_finalists.json --budget 0.45 --draws 4"
)
_DROPS = (
    "python tests/benchmarks/surrogate.py --drops --networks resnet20 --plans 280\n"
    "python tests/benchmarks/surrogate.py --drops --networks resnet56 --plans 240\n"
    "python tests/benchmarks/surrogate.py --drops --networks mobilenet_v2 --plans 240"
)
_METHODS = "python tests/benchmarks/methods.py --criteria l2 random --latencies 0.7"
_METHODS_PLAIN = (
    "python tests/benchmarks/methods.py --model plain_cnn --criteria l2 --scopes local "
    '--schedules "at once" feedback --latencies 0.6'
)
_CHIPS = '--schedules "at once" --chips tpu_v2 tpu_v3 tpu_v4 tpu_v5e tpu_v5p tpu_v6e tpu7x'
_CIFAR = (
    "--data cifar10 --data-dir FOLDER --reward-size 1000 --augmentation shift_flip --target tpu_v3 --fine-tune-epochs 3"
)
_VGG = f"python tests/benchmarks/methods.py --model vgg16 --width 0.25 --epochs 24 --train-size 5000 {_CIFAR}"
_METHODS_VGG = (
    f"{_VGG} --latencies 0.7 0.5 0.35 --scopes local\n"
    f"{_VGG} --latencies 0.5 --scopes global\n"
    f'{_VGG} --latencies 0.7 0.35 --scopes global --criteria l2 loss fisher random --schedules "at once"\n'
    f"{_VGG} --latencies 0.7 0.5 0.35 --scopes local --criteria l2 --seeds 0 {_CHIPS}"
)
_RESNET = (
    "python tests/benchmarks/methods.py --model resnet20 --multiple-of 2 --epochs 20 --train-size 2500 "
    f"{_CIFAR} --latencies 0.7 0.5 0.35 --scopes local"
)
_METHODS_RESNET = f"{_RESNET}\n{_RESNET} --criteria l2 --seeds 0 {_CHIPS}"
_REP_OPTIMIZER = (
    "python tests/benchmarks/rep_optimizer.py --optimizers sgd rep_sgd --learning-rates 0.02 0.05 --latencies 0.75"
)
_FAULTS = (
    'pytest -n 0 tests/faults -m "long or not long" --faults 20 --faults-seed 0 '
    "--faults-out tests/benchmarks/results/faults.json"
)
_SPEED = "python tests/benchmarks/search_speed.py --plans 8"
_BREAKDOWN = "python tests/benchmarks/breakdown.py --searchers random greedy evolution td3 dyna_ppo --evaluations 20"
_TRACED = "python tests/benchmarks/traced.py\npython tests/benchmarks/traced.py --drops --networks resnet20"
_SURGERY = 'pip install ".[bench]"\npython tests/benchmarks/surgery.py --repetitions 7'
_ONEDNN = "python tests/benchmarks/onednn.py --networks 8 --out tests/benchmarks/results/onednn_without_avx512.json"


def agents(found: Json) -> str:
    rows = [
        [
            name,
            f"{row['best_mean']:.3f} ± {row['best_std']:.3f}",
            signed(row.get("over_uniform")),
            signed(row.get("over_random")),
            f"{row['curve_mean']:.3f}",
            f"{row['costed']:.0f}",
        ]
        for name, row in sorted(found["summary"].items(), key=lambda item: -item[1]["best_mean"])
    ]
    told = found["arguments"]
    first = (
        f"The best score within the budget: `{told['model']}` on `{told['data']}`, at most "
        f"{percent(told['latency'], 0)} of the latency on `{told['target']}`, {told['evaluations']} evaluations, "
        f"{told['seeds']} seeds. The first `±` is the standard deviation over seeds."
    )
    heads = ["searcher", "best within budget", "over uniform", "over random", "mean of best so far", "also compiled"]
    return f"{first}\n\n{table(heads, rows)}"


def channel_bench(found: Json) -> str:
    """Regrets of searches on Channel-Bench-Macro, in points of accuracy."""
    rows = []
    for name, runs in found["cells"].items():
        searcher, problem, evaluations = name.split(", ")
        target, budget = problem.split()
        cells = []
        for kind in ("chosen_expected", "luckiest_expected", "chosen_regret"):
            values = [run[kind] for run in runs if kind in run]
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.3f} ± {error:.3f}")
        where = f"`{target}`, {percent(float(budget), 0)}, {evaluations}"
        seconds = statistics.median(run["seconds"] for run in runs)
        rows.append([where, f"`{searcher}`", *cells, len(runs), f"{seconds:.1f} s"])
    first = (
        "Points of accuracy that the returned plan is behind the best within the budget, with standard errors: by a "
        "regression of all three trainings, of the plan that the choice rule returns and of that with the best single "
        "score; and by the mean of the two trainings that the search did not see, against the plan that is best by it, "
        "which is a lucky one of thousands. Rules set by hand have no seed: theirs are the three trainings."
    )
    gaps = "; ".join(
        f"{where.split()[0]}: {gap['mean']:.4f} on the mean, {gap['most']:.4f} at most over {gap['seeds']} seeds"
        for where, gap in found["gaps"].items()
    )
    errors = "; ".join(f"{target}: {percent(row['mean'])}" for target, row in found["held_out"].items())
    last = (
        f"How far the solver's plan is from the best of all 16,384 by the same predictions, in points: {gaps}. Mean "
        f"error of latencies of compiled plans by a table that was made without them: {errors}."
    )
    heads = ["target, budget", "searcher", "chosen", "luckiest", "chosen, by two trainings", "seeds", "seconds"]
    return f"{first}\n\n{table(heads, rows)}\n\n{last}"


def channel_bench_latency(found: Json) -> str:
    """What was compiled for the latencies of Channel-Bench-Macro."""
    rows = []
    for target, plans in found.items():
        dense = next(latency for options, latency, _ in plans if set(options) == {3})
        shares = sorted(latency / dense for _, latency, _ in plans)
        rows.append([f"`{target}`", len(plans), f"{1e6 * dense:.0f} us", percent(shares[0]), percent(shares[-1])])
    first = "Whole networks, batch 128 in bfloat16, from which the seconds of each layer are read."
    return f"{first}\n\n{table(['target', 'plans', 'dense', 'fastest, of the dense', 'slowest'], rows)}"


def floors(found: Sequence[Json]) -> str:
    ratios = [key for key in found[0] if re.fullmatch(r"0\.\d+", key)]
    rows = [
        [
            f"`{row['network']}`, width {row['width']:g}",
            f"`{row['target']}`, batch {row['batch']}",
            f"{1e6 * row['dense_seconds']:.0f} us",
            *(percent(row[key], 0) for key in ratios),
        ]
        for row in found
    ]
    first = "The latency of uniform plans as a share of the dense one, by the share of every layer that is kept."
    return f"{first}\n\n{table(['network', 'target', 'dense', *(f'keep {key}' for key in ratios)], rows)}"


def transfer(found: Json) -> str:
    ways = ("dense", "uniform", "replayed", "adapted", "scratch")
    rows = [
        [
            f"`{name}`" if name != "all" else name,
            *(f"{row[way]:.3f}" for way in ways),
            signed(row.get("replayed_over_uniform")),
            signed(row.get("adapted_over_scratch")),
        ]
        for name, row in found["summary"].items()
    ]
    heads = ["left out", *ways[:-1], "from scratch", "replayed over uniform", "adapted over scratch"]
    return f"Scores (likelihood on the reward split) within the budget.\n\n{table(heads, rows)}"


def fidelity(found: Json) -> str:
    signs = found["summary"]["signs"]
    bands = list(next(iter(signs.values()))["within"])
    named = {name: row for name, row in signs.items() if not re.search(r"_(500|1000|2000|later)$", name)}
    rows = [
        [
            name,
            *(f"{row['within'][band]:.2f}" for band in bands),
            f"{row['mean']:.2f}",
            f"{row['seconds']:.1f}",
        ]
        for name, row in sorted(named.items(), key=lambda item: -item[1]["mean"])
    ]
    spread = found["summary"]["spread_of_tested"]
    images = [
        [
            f"{int(size):,}",
            f"{100 * error:.2f}",
            *(
                f"{signs[sign if size == '5000' else f'{sign}_{size}']['mean']:.2f}"
                for sign in ("tuning_10 likelihood", "tuning_100 accuracy")
            ),
        ]
        for size, error in found["noise_of_split"].items()
    ]
    return "\n\n".join(
        [
            "Spearman's correlation with the test accuracy after fine-tuning, within bands of equal latency, and the "
            "seconds that a score takes. A score is named by `evaluation.recovery` (with the steps of tuning) and "
            "`evaluation.score`; `features` is how alike images are by their features (no option), `predictor` what "
            "`dyna_ppo` predicts with, taught by the other plans' results. The default is `tuning_10 likelihood`.",
            table(["score", *(percent(float(band), 0) for band in bands), "mean", "seconds"], rows),
            "Standard deviation of the test accuracy within a band: "
            + ", ".join(f"{100 * value:.2f} points at {percent(float(band), 0)}" for band, value in spread.items())
            + ". By the number of images that the score is taken on:",
            table(
                [
                    "images",
                    "standard error of an accuracy (points)",
                    "mean correlation: tuning_10 likelihood",
                    "tuning_100 accuracy",
                ],
                images,
            ),
        ]
    )


def score_noise(found: Json) -> str:
    parts = []
    for name, row in found.items():

        def told(spread: Json) -> str:
            return f"{spread['signal'] / spread['noise']:.1f}, {spread['again']:.2f}"

        def lines(entries: Json) -> list[list[str]]:
            return [
                [key, *([f"{entry['seconds']:.1f}"] if "seconds" in entry else []), *map(told, scores(entry))]
                for key, entry in entries.items()
            ]

        def scores(entry: Json) -> list[Json]:
            return [entry["likelihood"], entry["accuracy"]]

        both = ["likelihood: signal / noise, order again", "accuracy: signal / noise, order again"]
        passes = row["seconds_of_a_pass_over_5000_images"]
        parts += [
            f"{row['plans']} plans of {name.replace(' ', ' at ')}, {row['draws']} draws. Signal is the standard "
            "deviation between plans, noise that of one plan between draws (or between parts of the reward split); "
            "order again is Spearman's correlation between the orders of two draws.",
            table(["tuning", "seconds", *both], lines(row["tuning"])),
            table(["images of the reward split", *both], lines(row["reward_split"])),
            table(
                ["images at a time", "seconds of a pass over 5,000 images"],
                [[k, f"{v:.2f}"] for k, v in passes.items()],
            ),
        ]
    return "\n\n".join(parts)


def methods(found: Json) -> str:
    dense = [cell["accuracy"] for name, cell in found["cells"].items() if name.startswith("dense/")]
    single = {tuple(name.split("/")): cell for name, cell in found["cells"].items() if not name.startswith("dense/")}
    cells: dict[tuple[str, str, str], dict[str, list[Json]]] = {}
    for (criterion, scope, share, schedule, _), cell in single.items():
        cells.setdefault((criterion, scope, share), {}).setdefault(schedule, []).append(cell)
    schedules = list(dict.fromkeys(name[3] for name in single))
    rows = []
    for (criterion, scope, share), of in sorted(cells.items(), key=lambda item: (-float(item[0][2]), *item[0][:2])):
        every = [cell for of_schedule in of.values() for cell in of_schedule]
        sizes = (
            percent(statistics.mean(cell[what] for cell in every), 0) for what in ("latency", "memory", "parameters")
        )
        before = spread_of([cell["start"] for cell in of.get("at once", ())])
        trained = (spread_of([cell["accuracy"] for cell in of.get(schedule, ())]) for schedule in schedules)
        rows.append([criterion, scope, percent(float(share), 0), *sizes, before, *trained])
    told = found["arguments"]
    images = f"{told['train_size']:,} images of {told['data']}" if told["train_size"] else told["data"]
    first = (
        f"Accuracy in % on the test images of {told['data']}: `{told['model']}` of {told['width']:g} times its width, "
        f"trained on {images} for {told['epochs']} epochs ({spread_of(dense)} %), pruned to a share of its latency on "
        f"a `{told['target']}`, batch {told['batch_size']}, and trained for {told['fine_tune_epochs']} epochs more; "
        "mean and standard deviation over seeds, each with a dense network of its own. Local: as much of each group; "
        "global: by one threshold. Before: at once, on the reward split, before fine-tuning."
    )
    heads = ["criterion", "scope", "at most", "latency", "memory", "parameters", "before", *schedules]
    lines = [first, table(heads, rows), *compare_methods(single)]
    if "chips" in found:
        lines += tell_chips(found["chips"])
    return "\n\n".join(lines)


def spread_of(shares: Sequence[float], *, signs: bool = False) -> str:
    """Mean and standard deviation, in per cent or points."""
    told = [100 * share for share in shares]
    around = f" ± {statistics.stdev(told):.1f}" if len(told) > 1 else ""
    return f"{statistics.mean(told):{'+' if signs else ''}.1f}{around}" if told else "-"


def compare_methods(cells: Mapping[tuple[str, ...], Json]) -> list[str]:
    """By how much one criterion, scope or schedule is ahead of another, all else being equal."""
    criteria, scopes, schedules = (list(dict.fromkeys(name[place] for name in cells)) for place in (0, 1, 3))
    shares = sorted({name[2] for name in cells}, key=float, reverse=True)
    pairs = [
        *((0, one, "random") for one in criteria if "random" in criteria and one != "random"),
        *((1, one, "local") for one in scopes if one != "local"),
        *((3, one, "at once") for one in schedules if one != "at once"),
    ]
    rows = []
    for place, one, other in pairs:
        row = [one, other]
        for share in shares:
            by_seed: dict[str, list[float]] = {}
            for name, cell in cells.items():
                twin = cells.get((*name[:place], other, *name[place + 1 :]))
                # Criteria and scopes are compared at once, which all of them have.
                fair = place == 3 or name[3] == "at once"
                if name[place] == one and name[2] == share and twin is not None and fair:
                    by_seed.setdefault(name[4], []).append(cell["accuracy"] - twin["accuracy"])
            row.append(spread_of([statistics.mean(values) for values in by_seed.values()], signs=True))
        rows.append(row)
    first = (
        "Points by which one is ahead of another, all else being equal; mean and standard deviation over seeds. "
        "Criteria and scopes at once."
    )
    return [first, table(["one", "another", *(f"at most {percent(float(share), 0)}" for share in shares)], rows)]


def tell_chips(chips: Mapping[str, Json]) -> list[str]:
    """Latency and memory of the dense network and of the others on each chip."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in next(iter(chips.values())):
        if name != "dense":
            groups.setdefault(tuple(name.split("/")[:3]), []).append(name)
    dense = [of["dense"] for of in chips.values()]
    rows = [["dense", *(f"{1e6 * cost['latency']:.0f} us, {cost['memory'] / 2**20:.1f} MiB" for cost in dense)]]
    for (criterion, scope, share), names in groups.items():
        row = [f"{criterion}, {scope}, at most {percent(float(share), 0)}"]
        for of in chips.values():
            left = (statistics.mean(of[n][what] / of["dense"][what] for n in names) for what in ("latency", "memory"))
            row.append(", ".join(percent(share_left, 0) for share_left in left))
        rows.append(row)
    first = (
        "What these networks take on each chip by its compiler, latency and device memory: of the dense one as they "
        "are, of the others as shares of these, mean over seeds."
    )
    return [first, table(["network", *chips], rows)]


def experts(found: Json) -> str:
    cells: dict[tuple[str, int], list[Json]] = {}
    for name, cell in found["cells"].items():
        importance, factor, _ = name.split("/")
        cells.setdefault((importance, int(factor)), []).append(cell)
    factors = sorted({factor for _, factor in cells})

    def mean(importance: str, factor: int, what: str) -> float:
        return statistics.mean(cell[what] for cell in cells[importance, factor])

    rows = [
        [
            8 // factor,
            percent(mean("expert_usage", factor, "latency") / mean("expert_usage", 1, "latency"), 0),
            *(
                percent(mean(importance, factor, what))
                for importance in ("expert_usage", "random")
                for what in ("at once", "trained")
            ),
        ]
        for factor in factors
    ]
    told, seeds = found["arguments"], len(cells["expert_usage", 1])
    thresholds = []
    for importance, by in (("expert_usage", "use"), ("random", "chance")):
        least = mean(importance, 1, "trained") - 0.01
        within = [factor for factor in factors if mean(importance, factor, "trained") >= least]
        thresholds.append(f"{max(within)} by {by}")
    first = (
        f"Accuracy on test images of the classes {', '.join(map(str, told['classes']))}, mean of {seeds} networks that "
        f"learnt all ten for {told['epochs']} epochs; trained: for {told['fine_tune_epochs']} more on these classes. "
        f"Latency on a v5e, batch 128. Within a point of all eight experts, trained: factor {', '.join(thresholds)}."
    )
    heads = ["experts", "latency", "by use, at once", "trained", "by chance, at once", "trained"]
    return f"{first}\n\n{table(heads, rows)}"


def rep_optimizer(found: Json) -> str:
    cells: dict[tuple[str, str], dict[str, list[Json]]] = {}
    for name, cell in found["cells"].items():
        optimizer, rate, share, _ = name.split("/")
        cells.setdefault((optimizer, share), {}).setdefault(rate, []).append(cell)
    shares = sorted({share for _, share in cells}, key=lambda share: 1.0 if share == "dense" else float(share))[::-1]
    rows = []
    for optimizer in dict.fromkeys(name for name, _ in cells):
        row = [f"`{optimizer}`"]
        for share in shares:
            of_rate = cells[optimizer, share]
            rate = max(of_rate, key=lambda rate: statistics.mean(cell["reward"] for cell in of_rate[rate]))
            tests = [cell["test"] for cell in of_rate[rate]]
            spread = f" ± {100 * statistics.stdev(tests):.1f}" if len(tests) > 1 else ""
            row.append(f"{100 * statistics.mean(tests):.1f}{spread} %, rate {rate}")
        rows.append(row)
    told = found["arguments"]
    first = (
        f"Accuracy on test images of {told['data']}, VGG-16 of width {told['width']:g}, {told['epochs']} epochs and "
        f"{told['fine_tune_epochs']} after pruning; mean and standard deviation over seeds, at the learning rate that "
        "is best on the reward split."
    )
    titles = ["dense" if share == "dense" else f"{100 * float(share):g} % of the latency" for share in shares]
    return f"{first}\n\n{table(['optimiser', *titles], rows)}"


def gates(found: Json) -> str:
    told = found["arguments"]
    costs = []
    for row in found["costs"]:
        shares = (row["without"][what] / row["with"][what] for what in ("latency", "flops", "parameters"))
        latencies = (f"{1e6 * row[which]['latency']:.0f} us" for which in ("with", "without"))
        costs.append([row["network"], f"`{row['target']}`", row["gates"], *latencies, *(percent(s) for s in shares)])
    names = {"with": "with gates", "without": "without gates", "narrow": "with gates, narrower"}
    runs = [
        [
            f"`{row['target']}`",
            names[row["network"]],
            *([f"{1e6 * row['latency']:.1f} us", percent(row["before"], 2), percent(row["test"], 2)]),
            points(row["gain"]),
        ]
        for row in found["summary"]
        if "latency" in row
    ]
    first = (
        f"Compiled for batches of {told['batch']}, networks of `keras.applications` with random weights for images of "
        f"{told['pixels']}x{told['pixels']}. Of what is left without gates the share of the whole network's."
    )
    second = (
        f"A residual network with squeeze-and-excitation, trained on {told['images']} of scikit-learn's digits for "
        f"{told['epochs']} epochs, and fine-tuned for half as many; {told['seeds']} seeds, 360 test images. Narrower: "
        "all groups cut alike until it is as fast as without gates. Points: the accuracy without gates less this one."
    )
    heads = ["target", "network", "latency", "accuracy at once", "fine-tuned", "without gates less this (points)"]
    kept = ["latency left", "FLOPs left", "parameters left"]
    return "\n\n".join(
        [
            first,
            table(["network", "target", "gates", "latency with", "without", *kept], costs),
            second,
            table(heads, runs),
        ]
    )


def feature_distilling(found: Json) -> str:
    summary, t95 = found["summary"], 4.303  # Student's t for three seeds
    heads = ["weight of features"]
    for logits in ("0", "0.5"):
        heads += [f"`training.distillation={logits}`", "gain (points)"]
    weights = [name.rpartition(" ")[2] for name in summary if name.startswith("logits 0, ")]
    rows = []
    for weight in weights:
        cells = [weight]
        for logits in ("0", "0.5"):
            row = summary[f"logits {logits}, features {weight}"]
            gain = f"{100 * row['gain']:+.2f} ± {100 * t95 * row['error']:.2f}" if weight != "0" else ""
            cells += [percent(row["test"], 2), gain]
        rows.append(cells)
    told = found["arguments"]
    assert told["seeds"] == 3
    first = (
        f"Test accuracy of `{told['model']}` trained on {told['images']:,} images of Fashion-MNIST, every group cut to "
        f"{told['keep_ratio']:g}, {told['epochs']} epochs of fine-tuning, three seeds. Dense: "
        f"{percent(summary['dense']['test'], 2)}; pruned, not fine-tuned: {percent(summary['pruned']['test'], 2)}."
    )
    return f"{first}\n\n{table(heads, rows)}"


def surrogate(found: Json) -> str:
    first_row = next(iter(found["rows"].values()))
    plans, learnt = first_row["plans"], [one["learnt"] for one in first_row["surrogate"]]
    rows = [
        [
            name,
            *(f"{row[key]:.2f}" for key in ("flops", "parameters", "layer_sum")),
            *(f"{one['spearman']:.3f} ({percent(one['mean_error'])})" for one in row["surrogate"]),
        ]
        for name, row in found["rows"].items()
    ]
    heads = ["network, target", "FLOPs", "parameters", "sum over layers", *(f"after {count}" for count in learnt)]
    first = (
        f"Spearman's correlation with the latency of the whole-model compile over {plans} random plans; for "
        "the surrogate also its mean error, after learning from so many other plans."
    )
    return f"{first}\n\n{table(heads, rows)}"


def surrogate_drops(found: Json) -> str:
    heads = ["network, target", "plans", "judged", "FLOPs", "parameters"]
    heads += [f"after {one['learnt']}" for one in next(iter(found["rows"].values()))["surrogate"]]
    heads.append("a thousand guesses")
    rows = []
    for name, row in found["rows"].items():
        learnt = row["surrogate"]
        cells = [f"{one['spearman']:.3f} ({percent(one['mean_error'])})" for one in learnt]
        few = [f"{row[key]:.2f}" for key in ("flops", "parameters")]
        rows.append(
            [name, row["plans"], learnt[0]["judged"], *few, *cells, f"{learnt[-1]['thousand_milliseconds']:.0f} ms"]
        )
    first = (
        "As above, over random plans and what is set by hand; the surrogate is judged by those "
        "that drop a branch. Times were taken on a machine busy with other work."
    )
    return f"{first}\n\n{table(heads, rows)}"


def workers(found: Json) -> str:
    here = [
        [row["workers"], row["plans"], f"{row['per_minute']:.0f}", f"{row['speed_over_one']:.2f}"]
        for row in found["here"]
    ]
    fixed = [
        [row["actors"], row["evaluations"], f"{row['per_minute']:.0f}", f"{row['efficiency']:.3f}"]
        for row in found["fixed"]
    ]
    repetitions = len(found["here"][0]["seconds"])
    return "\n\n".join(
        [
            f"Processes of a machine of {found['cores']} cores, medians of {repetitions}; compilations are known.",
            table(["workers", "plans", "plans per minute", "over one"], here),
            f"Actors on a local Ray cluster; each evaluation waits for {found['fixed_seconds']:g} s.",
            table(["actors", "evaluations", "per minute", "efficiency"], fixed),
        ]
    )


def faults(found: Json) -> str:
    first = (
        "Each time what had been finished was kept, the result was that of an undisturbed run (or a plan had failed, "
        "and said so), and no process and no file was left. The counts are of several runs of parts of the suite; "
        "the command adds to what is there."
    )
    rows = [[what, f"{times:,}"] for what, times in found.items()]
    return f"{first}\n\n{table(['fault', 'times'], rows)}"


def fuzzing(found: Json) -> str:
    first = (
        "`damage`: a bit, a byte, a cut, zeros, noise, a piece in a wrong place. `alter`: JSON of another shape, with "
        "a checksum of its own. Nothing ended in an error that is not autoprune's own, and nothing damaged was read as "
        "something else, but images, whose formats do not always notice."
    )
    outcomes = ("refused", "as it was", "a part", "other contents")
    rows = [
        [name, f"{row['inputs']:,}", *(f"{row['seen'].get(outcome, 0):,}" for outcome in outcomes)]
        for name, row in found["kinds"].items()
    ]
    return f"{first}\n\n{table(['file', 'inputs', *outcomes], rows)}"


def endurance(found: Json) -> str:
    parts = {"plans 100 to 200": slice(100, 200), "400 to 500": slice(400, 500), "the last 200": slice(-200, None)}
    rows = []
    for what, name, digits in (
        ("memory (MB)", "megabytes", 0),
        ("seconds a plan", "seconds", 3),
        ("threads", "threads", 0),
        ("open files", "files", 0),
    ):
        medians = [statistics.median(found[name][part]) for part in parts.values()]
        ratios = [f"{medians[-1] / median:.3f}" for median in medians[:-1]]
        rows.append([what, *(f"{median:.{digits}f}" for median in medians), *ratios])
    again = found["again"]
    first = (
        f"Medians over {found['plans']:,} different plans. Then {again['plans']} of them {again['times']} times each: "
        f"{again['megabytes'][0]:.0f} MB after the first round, {again['megabytes'][-1]:.0f} MB after the last.\n\n"
        "![memory and time by plan](endurance.png)"
    )
    return f"{first}\n\n{table(['', *parts, 'last over first', 'last over second'], rows)}"


def bracketing(found: Sequence[Json]) -> str:
    rows = []
    for row in found:
        seconds = row["latencies"]
        rows.append([row["case"], len(seconds), f"{1e6 * seconds[0]:.1f} us", percent(min(seconds) / seconds[0])])
    first = "The costs of all plans of a hand-set rule, from which tests count the compilations that a search needs."
    return f"{first}\n\n{table(['case', 'plans', 'widest', 'fastest, of the widest'], rows)}"


def measuring_loop(found: Sequence[Json]) -> str:
    rows = [
        [
            f"`{row['chip']}`",
            f"`{row['network']}`",
            row["batch"],
            f"{row['alone']:.1f} us",
            f"{row['iteration']:.1f} us",
            f"{100 * (row['iteration'] / row['alone'] - 1):+.1f} %",
        ]
        for row in found
    ]
    first = "The compiler's estimate of the program alone and as an iteration of the loop that is timed."
    return f"{first}\n\n{table(['target', 'network', 'batch', 'alone', 'iteration', 'difference'], rows)}"


def search_speed(found: Json) -> str:
    rows = [
        [name, f"{rate:.1f}", f"{found['over_search'][name]:.2f}"]
        for name, rate in found["evaluations_per_minute"].items()
    ]
    told = found["arguments"]
    first = (
        f"{told['plans']} random plans of VGG-16 for `{told['target']}`, {found['cores']} cores, "
        "`evaluation.recovery=none`."
    )
    last = f"Plans costed by two compiler processes over one: {found['two_processes_over_one']:.2f}."
    return f"{first}\n\n{table(['way', 'evaluations per minute', 'ratio'], rows)}\n\n{last}"


def breakdown(found: Json) -> str:
    parts = ("accuracy", "recovery", "compiler", "surgery", "surrogate", "journal", "searcher")
    rows = [
        [name, f"{row['evaluations_per_minute']:.0f}", *(percent(row["shares"].get(part, 0), 0) for part in parts)]
        for name, row in found["searchers"].items()
    ]
    told = found["arguments"]
    first = (
        f"Shares of the wall time; the compiler's is the time waited for it. `{told['model']}` on `{told['data']}`, "
        f"{told['evaluations']} evaluations, nothing compiled before."
    )
    return f"{first}\n\n{table(['searcher', 'evaluations per minute', *parts], rows)}"


def walk(found: Json) -> str:
    rows = [
        ["files of autoprune that run", found["files"]],
        ["calls from one package to another", found["package_switches"]],
        ["calls within autoprune", found["calls"]],
        *([f"conversions: `{name}`", count] for name, count in found["conversions"].items()),
    ]
    first = "The last step of an episode on `plain_cnn`: the plan is pruned, scored, costed and put back."
    return f"{first}\n\n{table(['what', 'how many'], rows)}"


def traced(found: Json) -> str:
    rows = [
        [
            f"`{name}`",
            "{:.1f} ({:.1f} to {:.1f})".format(row["eager_over_traced_median"], *row["eager_over_traced_range"]),
            f"{row['plans_until_tracing_has_paid']:.1f}",
            f"{row['tracing_seconds']:.1f} s",
        ]
        for name, row in found["networks"].items()
    ]
    first = (
        f"How many times as fast a plan is scored as eagerly: median and range of {found['plans']} random plans; after "
        "how many plans tracing has paid, and what it takes. Images of 8x8 (`small_resnet`), 28x28 (the other networks "
        "of the zoo; `vgg16` of a quarter, `resnet20` and `mobilenet_v2` of half the width) and 32x32 (networks of "
        "`keras.applications`)."
    )
    return f"{first}\n\n{table(['network', 'times as fast', 'plans', 'tracing'], rows)}\n\n{traced_drops(found)}"


def traced_drops(found: Json) -> str:
    rows = [
        [
            f"`{name}`",
            "{:.1f} ({:.1f} to {:.1f})".format(row["eager_over_traced_median"], *row["eager_over_traced_range"]),
            f"{row['largest_difference_of_likelihoods']:.0e}",
            "{:.2f} ({:.2f} to {:.2f})".format(
                row["widths_alone_with_over_without_conditions_median"],
                *row["widths_alone_with_over_without_conditions_range"],
            ),
            f"{row['computing_over_flops_median']:.2f}",
            "{:.2f} ({:.2f} to {:.2f})".format(row["over_widths_per_flop_median"], *row["over_widths_per_flop_range"]),
            f"{row['tracing_seconds']:.1f} s ({row['tracing_seconds_for_widths_alone']:.1f} s)",
        ]
        for name, row in found["drops"].items()
    ]
    first = (
        f"Plans of random widths without half of the branches, {found['plans']} of them: how many times as fast as "
        "eagerly they are scored (median and range), and how far the scores differ. Beside them plans that keep all "
        "branches, by these passes over by passes for widths alone: what the conditions cost. Then half of the "
        "branches at full width: processor time over FLOPs beside the dense network, and beside uniform plans of about "
        "as many FLOPs by passes for widths alone, where less than 1 is faster. What tracing takes, and for widths "
        "alone. Images of 28x28, half the width."
    )
    heads = ["network", "times as fast", "scores differ by", "conditions", "time over FLOPs", "over widths", "tracing"]
    return f"{first}\n\n{table(heads, rows)}"


def episodes(found: Json) -> str:
    rows = [
        [
            f"`{name}`",
            f"{row['dropped_mean']:.0f} of {row['branches']}",
            f"{row['milliseconds_widths']:.0f} ms",
            f"{row['milliseconds_drops']:.0f} ms",
            "{:.2f} ({:.2f} to {:.2f})".format(row["drops_over_widths_median"], *row["drops_over_widths_quartiles"]),
            f"{row['grown_mebibytes']:+.1f} MiB of {row['variables_mebibytes']:.1f}",
        ]
        for name, row in found["networks"].items()
    ]
    first = (
        f"{found['plans']} plans applied and taken back in turns: one of random widths, then the same without half of "
        "the branches. Processor time of an episode, medians; the ratio of the second to the first, with quartiles; by "
        "how much the process has grown after the hundredth plan, beside the network's variables. At the end the "
        "network is what it was, to the bit."
    )
    heads = ["network", "branches that go", "widths", "and branches", "ratio", "memory"]
    return f"{first}\n\n{table(heads, rows)}"


def surgery(found: Json) -> str:
    speed, size = [], []
    for network, result in found["networks"].items():
        for step, row in result["summary"].items():
            mine, other = (f"{1000 * seconds:.0f} ms" for seconds in row["medians"])
            speed.append([network, step, mine, other, f"{row['ratio']:.2f}"])
        counts = result["parameters"]["keras"]
        for what, row in result["memory"].items():
            pruned, built = (
                f"{sorted(row[kind])[len(row[kind]) // 2] / 2**20:.1f} MiB" for kind in ("pruned", "built")
            )
            size.append(
                [network, f"{counts['before']:,}", f"{counts['after']:,}", what, pruned, built, f"{row['ratio']:.3f}"]
            )
    first = (
        f"Half of every group's channels removed by L1 norm; medians of {found['repetitions']} runs, "
        f"{found['threads']} threads each, the two sides in turns; Torch-Pruning {found['versions']['torch-pruning']}. "
        "`Planner + Surgeon` is what a search does; `make_plan` and `apply_plan` trace twice."
    )
    return "\n\n".join(
        [
            first,
            table(["network", "step", "autoprune", "compared with", "ratio"], speed),
            table(["network", "parameters", "pruned", "memory of", "pruned", "built so narrow", "ratio"], size),
        ]
    )


def applications(found: Json) -> str:
    # Results from before branches could be dropped have no such columns.
    branches = [count for count in ("branches", "dropped") if all(count in row for row in found["rows"])]
    rows = []
    for row in found["rows"]:
        frozen = "; ".join(f"{count}: {reason}" for reason, count in row["frozen"].items()) or "0"
        checks = (row["saved_equals"], row["loss_is_finite"], row["restored_equals"])
        rows.append(
            [
                row["model"],
                row["groups"],
                frozen,
                *(row[count] for count in branches),
                f"{row['parameters']:,}",
                f"{row['parameters_pruned']:,}",
                f"{row['max_difference']:.0e}",
                *("yes" if check else "NO" for check in checks),
            ]
        )
    heads = ["model", "groups", "frozen", *branches, "parameters", "pruned", "largest difference"]
    first = (
        f"Half of every group's channels{' and half of the branches' if branches else ''} removed. The largest "
        "difference is that between the pruned model's logits and "
        f"the zeroed original's, relative to the largest logit. Keras {found['keras']} on {found['backend']}."
    )
    return f"{first}\n\n{table([*heads, 'loads equal', 'trains', 'restored'], rows)}"


def onednn(found: Json) -> str:
    names = {"on, safe": "on, rerouted"}
    rows = [
        [names.get(name, name), f"{row['died']} of {row['processes']}", f"{row['speed_over_off_median']:.2f}"]
        for name, row in found["summary"].items()
    ]
    return table(["oneDNN", "processes that died", "images per second, over oneDNN off"], rows)


if __name__ == "__main__":
    main()
