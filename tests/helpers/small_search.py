"""A search that takes seconds, and what it has found."""

import json

SMALL = (
    *("experiment=quick", "data.train_size=300", "training.epochs=1", "training.fine_tune_epochs=1"),
    *("constraints.multiple_of=16", "evaluation.tuning_steps=2", "searcher=evolution", "search.evaluations=12"),
    "target=tpu_v5e",
)


def found_by(folder):
    """What a search has found: the courses of its searchers, its plan, and how that ended."""
    metrics = json.loads((folder / "metrics.json").read_text())
    courses = {
        name: [(e["key"], e["score"], e["cost"]["latency"]) for e in course]
        for name, course in metrics["courses"].items()
    }
    return courses, json.loads((folder / "plan.json").read_text()), metrics["rows"][-1]["test_accuracy"]
