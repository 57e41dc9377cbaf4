"""What the published comparisons come to together: the agent against uniform pruning and other searchers, over cells.

    python tests/benchmarks/cells.py

A cell is one network, target and budget of a comparison. Its figures are read from the `comparison.json` files kept in
`tests/benchmarks/results/compare_*.json`, all of widths alone or those named; nothing is trained. Within a cell n are
the seeds; over the cells every cell counts once, with its mean (of two comparisons of one cell that of more seeds, or
the first by name), and the interval is Student's t over the cells: these networks, budgets and this data, not others.
`score` is Spearman's correlation of what the search climbed with the test accuracy after fine-tuning, over the plans
of the cell that a searcher or a hand-set rule ended with, each with its mean over seeds. `--longer` takes the cells
that longer.py fine-tuned anew (`longer_*.json`) as that left them. Results go to `tests/benchmarks/results/cells.json`,
or `cells_longer.json`.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from autoprune.comparison.statistics import Interval, geometric_interval, student_interval

FOLDER = Path(__file__).parent / "results"
UNIFORM = "hand-set uniform"
SEARCHERS = ("rl", "greedy", "evolution", "random")
LEAST_PLANS = 5  # A correlation of fewer says nothing.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, default=of_widths_alone())
    parser.add_argument("--longer", action="store_true", help="where a comparison was fine-tuned anew, take that")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    cells = distinct([cell for path in arguments.files for cell in cells_of(path, longer=arguments.longer)])
    results = {"cells": cells, "over_cells": over_cells(cells)}
    out = arguments.out or FOLDER / f"cells{'_longer' * arguments.longer}.json"
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(cell_table(cells), mean_table(results["over_cells"]), sep="\n\n")


def of_widths_alone() -> list[Path]:
    """The comparisons in which no branches could go: where they can, other things are compared."""
    found = {path: json.loads(path.read_text()) for path in sorted(FOLDER.glob("compare_*.json"))}
    return [path for path, record in found.items() if not record["settings"]["constraints"].get("depth", False)]


def fine_tuned_anew(path: Path) -> Path:
    """The same comparison with the longer recipe, where there is one."""
    longer = path.with_name(path.name.replace("compare_", "longer_"))
    return longer if longer.exists() else path


def distinct(cells: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every cell once: of two comparisons of the same one, that with more seeds."""
    kept: dict[str, dict[str, Any]] = {}
    for cell in cells:
        if cell["name"] not in kept or cell["seeds"] > kept[cell["name"]]["seeds"]:
            kept[cell["name"]] = cell
    return list(kept.values())


def cells_of(path: Path, *, longer: bool) -> list[dict[str, Any]]:
    """The cells of one comparison, one for each budget on latency.

    Args:
        path: of the comparison.
        longer: take it as longer.py left it, if that fine-tuned it anew.

    Raises:
        SystemExit: the comparison, or what fine-tunes it anew, has not ended.
    """
    settings = json.loads(path.read_text())["settings"]  # The cell stays the same, with however much training.
    read = fine_tuned_anew(path) if longer else path
    record = json.loads(read.read_text())
    if not record["ended"]:
        raise SystemExit(f"{read} has not ended: finish it with `python -m autoprune.compare resume=FOLDER`")
    return [
        {
            "name": name_of(settings, record["target"], budget),
            "file": read.name,
            "seeds": len(record["settings"]["seeds"]),
            "differences": differences_at(record["differences"], budget),
            "latency": {
                common(entry["searcher"]): entry["interval"] | {"bound": entry["bound"]}
                for entry in record["ratios"]
                if (entry["budget"], entry["kind"]) == (budget, "latency")
            },
            "score": score_at(record, budget),
        }
        for budget in dict.fromkeys(row["budget"] for row in record["rows"])
        if budget in map(str, record["settings"]["latencies"])
    ]


def name_of(settings: Mapping[str, Any], on: Mapping[str, Any], budget: str) -> str:
    """For example `resnet20 x0.5, v3, 45 %, 20,000 images`, or `..., v3 at batch 8, ...` where it is not 128."""
    model, images = settings["model"], settings["data"]["train_size"]
    width = "" if model["width"] == 1 else f" x{model['width']:g}"
    target, batch = on["name"].removeprefix("tpu_"), on["batch_size"]
    target += "" if batch == 128 else f" at batch {batch}"
    trained = f", {images:,} images" if images else ""
    return f"{model['name']}{width}, {target}, {100 * float(budget):g} %{trained}"


def common(searcher: str) -> str:
    """`rl` also where the agent was named."""
    return "rl" if searcher == "rl:dyna_ppo" else searcher


def differences_at(entries: Iterable[Mapping[str, Any]], budget: str) -> dict[str, dict[str, Any]]:
    """Searcher by reference the paired differences in test accuracy, in both directions."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for entry in entries:
        one, other, interval = common(entry["searcher"]), common(entry["reference"]), entry["interval"]
        if entry["budget"] == budget and one in SEARCHERS and other in (*SEARCHERS, UNIFORM):
            found[one][other] = interval
            if other != UNIFORM:
                found[other].setdefault(one, negated(interval))
    return dict(found)


def negated(interval: Mapping[str, Any]) -> dict[str, Any]:
    """The difference seen from the other side."""
    low, high = (None if interval[end] is None else -interval[end] for end in ("high", "low"))
    return {"mean": -interval["mean"], "low": low, "high": high, "n": interval["n"]}


def score_at(record: Mapping[str, Any], budget: str) -> dict[str, Any]:
    """How well the score ranks the plans that a searcher or hand-set rule ended with.

    Plans that are fine-tuned for comparison alone, those of the uniform curve and as fast as a searched one, are left
    out: they lie at other latencies, and that says more of them than any score.
    """
    scores: dict[str, float] = {}
    for name, run in record["runs"].items():
        if name.partition("@")[2].partition("/")[0] == budget:
            scored = dict(zip(run["keys"], run["rewards"], strict=True))
            sent = run["finalists"] if "finalists" in run else [run["best"]]  # Records of version 1 have one.
            scores.update((plan["key"], scored[plan["key"]]) for plan in sent)
    tuned: dict[str, list[float]] = defaultdict(list)
    for entry in record["tested"].values():
        if entry["recipe"] == "fine-tuned" and entry["key"] in scores:
            tuned[entry["key"]].append(entry["test_accuracy"])
    if len(tuned) < LEAST_PLANS:
        return {"spearman": None, "plans": len(tuned)}
    pairs = [(scores[key], float(np.mean(values))) for key, values in tuned.items()]
    return {"spearman": float(stats.spearmanr(*zip(*pairs, strict=True)).statistic), "plans": len(pairs)}


def over_cells(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Searcher by searcher: the mean over the cells of each difference and of the ratio of latencies."""
    results: dict[str, dict[str, Any]] = {}
    for searcher in SEARCHERS:
        differences = {}
        for other in (UNIFORM, *SEARCHERS):
            each = [cell["differences"].get(searcher, {}).get(other) for cell in cells]
            if here := [interval for interval in each if interval]:
                differences[other] = {
                    **student_interval([interval["mean"] for interval in here]).to_json(),
                    "ahead": sum(told(interval) > 0 for interval in here),
                    "behind": sum(told(interval) < 0 for interval in here),
                }
        ratios = [cell["latency"][searcher]["mean"] for cell in cells if searcher in cell["latency"]]
        results[searcher] = {
            "differences": differences,
            "latency": geometric_interval(ratios).to_json() if ratios else None,
        }
    return results


def told(interval: Mapping[str, Any]) -> int:
    """1 or -1 where the difference is beyond chance, else 0."""
    known = Interval(mean=interval["mean"], low=interval["low"], high=interval["high"], count=interval["n"])
    return int(np.sign(known.mean)) if known.excludes(0) else 0


def cell_table(cells: Sequence[Mapping[str, Any]]) -> str:
    """One row for each cell: the agent's differences, the ratio of latencies, and how well the score ranks."""
    columns = (UNIFORM, "greedy", "evolution", "random")
    lines = [
        "| cell | " + " | ".join(f"rl over {name}" for name in columns) + " | uniform's latency | score |",
        "|" + "---|" * (len(columns) + 3),
    ]
    for cell in cells:
        agent, score = cell["differences"].get("rl", {}), cell["score"]
        told_by = "-" if score["spearman"] is None else f"{score['spearman']:.2f} ({score['plans']})"
        row = [cell["name"], *(points(agent.get(name)) for name in columns), times(cell["latency"].get("rl")), told_by]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def mean_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One row for each searcher: means over the cells, and in how many it is ahead or behind beyond chance."""
    columns = (UNIFORM, *SEARCHERS)
    lines = [
        "| searcher | " + " | ".join(f"over {name}" for name in columns) + " | uniform's latency |",
        "|" + "---|" * (len(columns) + 2),
    ]
    for searcher, result in results.items():
        cells = [points(result["differences"].get(name), counts=True) for name in columns]
        lines.append("| " + " | ".join([searcher, *cells, times(result["latency"])]) + " |")
    return "\n".join(lines)


def points(interval: Mapping[str, Any] | None, *, counts: bool = False) -> str:
    """Percentage points with their interval; `*` where it is beyond chance."""
    if interval is None:
        return "-"
    half = "" if interval["low"] is None else f" ± {50 * (interval['high'] - interval['low']):.2f}"
    tail = f" (n = {interval['n']}: +{interval['ahead']}, -{interval['behind']})" if counts else ""
    return f"{100 * interval['mean']:+.2f}{half}{'*' if told(interval) else ''}{tail}"


def times(interval: Mapping[str, Any] | None) -> str:
    """What uniform pruning takes at equal accuracy, as a multiple."""
    if interval is None:
        return "-"
    ends = "" if interval["low"] is None else f" ({interval['low']:.2f} to {interval['high']:.2f})"
    return f"{interval.get('bound', '')}{interval['mean']:.2f}{ends}"


if __name__ == "__main__":
    main()
