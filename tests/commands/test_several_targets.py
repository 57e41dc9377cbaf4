"""A search for two TPU generations at once, as a user runs it."""

import json

import pytest

from helpers.running import run_in


@pytest.mark.slow
def test_the_budget_holds_on_every_target(tmp_path, compiler):
    from autoprune.cost import measure_cost
    from autoprune.models.files import load_model

    arguments = ["experiment=quick", "searcher=random", "search.evaluations=1", "training.epochs=1"]
    arguments += ["data.train_size=500", "constraints.multiple_of=32"]
    several = ["target=tpu_v5e", "target.also=[tpu_v3]", "budget.latency=0.7", "budget.memory=0.9"]
    folder, done = run_in(tmp_path, *arguments, *several)
    metrics = json.loads((folder / "metrics.json").read_text())
    dense = next(row for row in metrics["rows"] if row["name"] == "dense")["cost"]
    model = load_model(folder / "pruned.keras")
    for name in ("tpu_v5e", "tpu_v3"):
        cost = measure_cost(model, name, 128)
        assert cost.latency <= 0.7 * dense["parts"][name]["latency"]
        assert cost.memory.total <= 0.9 * dense["parts"][name]["memory"]["total"]
        assert f"dense, {name}" in done.stdout
    assert set(metrics["courses"]["random"][0]["cost"]["parts"]) == {"tpu_v5e", "tpu_v3"}
